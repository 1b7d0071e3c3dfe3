"""What the command line says of an error, in one line: what came, what was expected, what to do.

Hydra's and OmegaConf's own messages are written for the author of a configuration, over several lines; here
the key is named, with the keys that come closest to it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from alignnet.cli.task import as_typed
from alignnet.data.atomic import is_full
from alignnet.errors import AlignnetError, ConfigError

HYDRA_OPTION = re.compile(
    r"--(help|hydra-help|version|cfg|resolve|package|run|multirun|shell-completion|info|experimental-rerun"
    r"|config-(path|name|dir))|-(h|c|p|r|m|sc|i|cp|cn|cd)"
)


def one_line(error: BaseException, config_path: str, config_name: str) -> str | None:
    """The line for an error that the user can mend; None for any other, which is a mistake in the program.

    Args:
        error: what alignnet, Hydra, OmegaConf or Lightning raised, or the operating system for a file.
        config_path: absolute path of the configuration folder, where the known keys are looked up.
        config_name: the command's file in it.
    """
    text = _text(error, config_path, config_name)
    return None if text is None else " ".join(text.split())


def _text(error: BaseException, config_path: str, config_name: str) -> str | None:
    own = next((e for e in _chain(error) if isinstance(e, AlignnetError)), None)
    if own is not None:
        return str(own)
    missing = next((e for e in _chain(error) if isinstance(e, MissingMandatoryValue)), None)
    if missing is not None:
        key = missing.full_key or str(missing).rpartition(" ")[2]
        return f"{key} has no value: give one, {key}=..."
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': values are set as key=value"
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        null = " or ".join(a.partition("=")[0] for a in sys.argv[1:] if a.endswith("=null"))
        return f"{null or 'a group'} is null; `alignnet {as_typed(config_name)} --help` lists the choices"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _composition(error, config_path, config_name)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if any(is_full(e) for e in _chain(error)):
        return f"{os.strerror(errno.ENOSPC)}; make room, or write elsewhere: hydra.run.dir=DIR"
    if isinstance(error, RuntimeError) and "gloo" in str(error).lower():
        return "another process of this run has died or cannot be reached; go on with resume=DIR"
    # Lightning is not imported here: --help should not wait for it.
    of_lightning = any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__)
    return str(error) if of_lightning or isinstance(error, YAMLError) else None


def check_options(arguments: Sequence[str], config_path: str, config_name: str) -> None:
    """Refuses what looks like an option and isn't one of Hydra's.

    Raises:
        ConfigError: `--epochs 5` where `trainer.max_epochs=5` is meant.
    """
    for argument in arguments:
        name = argument.partition("=")[0]
        if argument.startswith("-") and not HYDRA_OPTION.fullmatch(name):
            hint = _hint(name.lstrip("-").replace("-", "_"), config_path, config_name)
            raise ConfigError(f"unknown option '{name}': values are set as key=value{hint}")


def close_keys(key: str, known: Sequence[str]) -> list[str]:
    """The (at most three) known keys that `key` may have meant: same last word, similar, or containing it."""
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    containing = [k for k in known if len(last) > 2 and last in k.rpartition(".")[2]]
    return (same or get_close_matches(key, known, n=3, cutoff=0.7) or containing)[:3]


def known_keys(config_path: str, config_name: str, overrides: Sequence[str] = ()) -> list[str]:
    """Every key of a command's configuration, groups included; empty where it cannot be composed at all."""
    try:
        with initialize_config_dir(version_base="1.3", config_dir=config_path):
            config = compose(config_name, overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError):
        return known_keys(config_path, config_name) if overrides else []
    groups = {group for group in config.hydra.runtime.choices if not group.startswith("hydra/")}
    return sorted(groups.union(_flatten(OmegaConf.to_container(config, resolve=False))))


def _flatten(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        if not str(key).startswith("_") and f"{prefix}{key}" != "hydra":
            yield f"{prefix}{key}"
            yield from _flatten(value, f"{prefix}{key}.")


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _hint(key: str, config_path: str, config_name: str) -> str:
    close = close_keys(key, _known_beside(key, config_path, config_name))
    listing = f"`alignnet {as_typed(config_name)} --cfg job` prints all keys"
    return f"; did you mean {' or '.join(close)}? {listing}" if close else f"; {listing}"


def _known_beside(key: str, config_path: str, config_name: str) -> list[str]:
    """The keys that there are with the choices of the command line, without what it says of `key`."""
    choices = [a for a in sys.argv[1:] if re.match(r"\w[\w/]*=", a) and a.partition("=")[0] != key]
    return known_keys(config_path, config_name, choices)


def _choices_with(key: str, config_path: str) -> list[str]:
    """The choices of the group before the key's first dot whose files have the key."""
    group, _, name = key.partition(".")
    files = sorted((Path(config_path) / group).glob("*.yaml")) if name else []
    return [file.stem for file in files if _has(OmegaConf.load(file), name)]


def _has(node: Any, key: str) -> bool:
    """Whether a configuration has a dotted key; none where a list stands on the way to it."""
    try:
        return OmegaConf.select(node, key) is not None
    except OmegaConfBaseException:
        return False


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return str(error).partition("\n")[0]
    return f"{group}={choice}: there is no such choice, only {', '.join(sorted(error.options))}"


def _composition(error: BaseException, config_path: str, config_name: str) -> str:
    """Hydra's first line; where it is about a key that doesn't exist, the key and those that come close."""
    found = re.match(r"Could not (?:override|delete(?: from config\.)?) '([^'@=]+)", str(error))
    if isinstance(error, ConfigCompositionException) and found:
        key, group = found[1], found[1].partition(".")[0]
        if key in _known_beside(key, config_path, config_name):
            entry = re.search(r"Key '([^']+)' is not in struct", " ".join(map(str, _chain(error))))
            name = entry[1] if entry else "NAME"
            return f"{key} has no entry '{name}' yet; new ones take a plus: '+{key}.{name}=VALUE'"
        choices = _choices_with(key, config_path)
        if choices and not any(argument.startswith(f"{group}=") for argument in sys.argv[1:]):
            return f"{key} needs a choice of {group}: give {group}={' or '.join(choices)} with it"
        return f"unknown key '{key}'{_hint(key, config_path, config_name)}"
    causes = [str(e) for e in _chain(error) if str(e)]
    return causes[0] if causes else type(error).__name__


def _instantiation(error: InstantiationException) -> str:
    """`key: what the constructor said`, for an object inside another one, which Hydra itself makes."""
    key = re.search(r"full_key: (\S+)", str(error))
    first = str(error).partition("\n")[0].partition(", set env")[0].rstrip(":")
    cause = error.__cause__.__cause__ or error.__cause__ if error.__cause__ is not None else None
    where = f"{key[1]}: " if key else ""
    return f"{where}{first}{f': {cause}' if cause is not None else ''}"
