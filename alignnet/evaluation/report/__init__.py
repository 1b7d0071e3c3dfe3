"""The report of an alignment: one HTML file that needs nothing else to be read."""
