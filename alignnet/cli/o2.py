"""How runs of ALICE O2 are read, from section `o2` and group `selection` of a configuration."""

from __future__ import annotations

from omegaconf import DictConfig

from alignnet.cli.app import build
from alignnet.cli.arguments import check_arguments
from alignnet.data.o2_runs import O2Runs
from alignnet.errors import ConfigError

OF_OUTPUT = ("patterns", "unassociated")
"""Keys of section `o2` that are about what is written."""


def runs_of(config: DictConfig) -> O2Runs:
    """The runs that a configuration describes; one without these keys takes all tracks.

    Raises:
        ConfigError: a key has a value that cannot be used.
    """
    given = {key: value for key, value in (config.get("o2") or {}).items() if key not in OF_OUTPUT}
    for key in ("clusters", "dictionary", "vertices"):
        value = given.get(key, "")
        if not isinstance(value, str) and not (value is None and key != "vertices"):
            raise ConfigError(f"o2.{key} is {value!r}, expected the name of a file")
    if "timing" in given:
        given["timing"] = build(given["timing"])
    if config.get("selection"):
        given["selection"] = build(config.selection)
    check_arguments(O2Runs, given, "o2")
    return O2Runs(**given)
