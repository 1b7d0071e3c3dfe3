"""The exceptions of alignnet: each message says what came, what was expected and what to do."""

from __future__ import annotations


class AlignnetError(Exception):
    """Base of every error that a user can cause; the command line prints one line and exits with its code."""

    exit_code = 2


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


class NotConvergedError(ConvergenceError):
    """A training came to its last epoch before its answer had settled; what it found is written."""

    exit_code = 3


class GeometryWarning(UserWarning):
    """It ran, but the physics is doubtful."""
