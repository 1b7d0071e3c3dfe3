"""The exceptions of alignnet: each message says what came, what was expected and what to do."""

from __future__ import annotations


class AlignnetError(Exception):
    """Base of every error that a user can cause; the command line prints it as one line and exits with 2."""


class SchemaError(AlignnetError):
    """A file does not follow the schema (docs/data-format.md): names file, branch, entry and expectation."""


class GeometryError(AlignnetError):
    """The geometry is inconsistent, or something refers to a sensor that it does not have."""


class ConfigError(AlignnetError):
    """A configuration value cannot be used: names the key and what it accepts."""


class CheckpointError(AlignnetError):
    """A checkpoint cannot be continued: damaged, or made for another detector or parametrisation."""


class ConvergenceError(AlignnetError):
    """The cost became non-finite, or a solver failed: names the events that caused it where known."""


class GeometryWarning(UserWarning):
    """It ran, but the physics is doubtful."""
