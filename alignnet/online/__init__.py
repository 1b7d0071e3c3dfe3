"""Constants while data are taken: files as they appear, in; constants with intervals of validity, out."""
