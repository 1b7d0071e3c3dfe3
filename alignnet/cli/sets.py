"""The data sets and terms of a configuration: what `data.sets` and `loss.terms` say, as objects.

A set takes what it does not say of itself from `data`, `loss` and `detector`, those of `data.files`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from alignnet.cli.app import build, values_of
from alignnet.cli.arguments import check_arguments, fits, shown
from alignnet.data.datamodule import AlignmentData
from alignnet.errors import AlignnetError, ConfigError
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.objective import DataSet
from alignnet.loss.terms import Terms

Section = dict[str, Any]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

OWN = ("sets", "weight", "find")
"""Keys of `data` that are not of one set of files."""


@dataclass(frozen=True)
class SetKeys:
    """A set of `data.sets`."""

    files: list[str]
    weight: float = 1.0
    b_z: float | None = None
    loss: Section = field(default_factory=dict)
    decay: Section | None = None
    split: list[float] | None = None
    min_hits: int | None = None
    short_tracks: str | None = None
    max_tracks: int | None = None
    cache: str | None = None


_OF_DATA = ("split", "min_hits", "short_tracks", "max_tracks", "cache")


def data_of(settings: Section) -> Section:
    """The arguments of `AlignmentData` in the section `data`."""
    return {key: value for key, value in settings.items() if key not in OWN}


def sets_of(
    config: DictConfig, detector: Detector, given: Mapping[str, Any]
) -> tuple[dict[str, AlignmentData], tuple[DataSet, ...]]:
    """The data and costs of `data.sets`.

    Args:
        config: of a training.
        detector: with the field of the first set.
        given: arguments of all data that are objects already.

    Raises:
        ConfigError: a key of a set does not exist, or has a value that cannot be used.
    """
    wanted = config.data.get("sets") or {}
    data: dict[str, AlignmentData] = {}
    found: list[DataSet] = []
    for name, node in wanted.items():
        key = f"data.sets.{name}"
        if not isinstance(node, DictConfig):
            raise ConfigError(
                f"{key} is {node!r}; expected its files, and what is special: {{files: [FILE]}}"
            )
        section = _plain(node)
        check_arguments(SetKeys, section, key, {})
        mine = detector if section.get("b_z") is None else replace(detector, b_z=float(section["b_z"]))
        own = {k: section[k] for k in _OF_DATA if k in section}
        settings = {**data_of(_plain(config.data)), "max_tracks": None, **own, "files": section["files"]}
        with values_of(key), _told_by(key):
            data[str(name)] = AlignmentData(**{**given, **settings, "detector": mine})
            loss = load_loss(_loss_of(config.loss, section, key), mine)
        found.append(DataSet(str(name), loss, float(section.get("weight", 1.0))))
    return data, tuple(found)


@contextmanager
def _told_by(key: str) -> Iterator[None]:
    """Says of which set a value is that cannot be used, as `loss.vertex` is one of all sets."""
    try:
        yield
    except ConfigError as error:
        text = str(error).removeprefix("the configuration: ")
        raise ConfigError(text if text.startswith(key) else f"{key}: {text}") from error


def _loss_of(first: DictConfig, section: Section, key: str) -> Any:
    """The first set's cost with what a set says of its own."""
    own = section.get("loss") or {}
    if strange := [str(name) for name in own if name not in first]:
        raise ConfigError(f"{key}.loss has {strange}; a loss has {[str(name) for name in first]}")
    node = OmegaConf.merge(first, own)
    decay = section.get("decay")
    if decay is None:
        return node
    plain = {key: value for key, value in _plain(node).items() if key not in ("vertex", "terms")}
    return OmegaConf.create({**plain, **decay, "_target_": "alignnet.loss.decay_chi2.DecayChi2"})


def load_loss(node: Any, detector: Detector) -> HelixChi2:
    """The cost of a configuration."""
    noise, parts = build(node.noise, detector=detector), ("noise", "weights", "hit_weights", "terms")
    loss: HelixChi2 = build(
        OmegaConf.masked_copy(node, [str(k) for k in node if k not in parts]),
        detector=detector,
        noise=noise,
        weights=build(node.weights),
        hit_weights=build(node.get("hit_weights")),  # runs of earlier versions have none
    )
    return loss


def terms_of(node: DictConfig, detector: Detector) -> Terms:
    """The terms of `loss.terms`; each gets the detector if it has an argument of that name.

    Raises:
        ConfigError: a term has no `_target_`, or an argument that it does not take.
    """
    functions, weights = {}, {}
    for name, one in (node.get("terms") or {}).items():
        if not isinstance(one, DictConfig) or "_target_" not in one:
            raise ConfigError(f"loss.terms.{name} has no _target_: the class or function of the term")
        weights[str(name)] = _weight(f"loss.terms.{name}.weight", one.get("weight", 1.0))
        functions[str(name)] = _term(f"loss.terms.{name}", one, detector)
    return Terms(functions, weights)


def _weight(key: str, value: Any) -> float:
    if not fits(value, float) or value <= 0:
        raise ConfigError(f"{key} is {shown(value)}; expected a finite number > 0")
    return float(value)


def _term(key: str, section: DictConfig, detector: Detector) -> Any:
    """A user's term: an object of a class, what a function gives, or a function that lacks the sensors alone.

    Whatever the constructor raises is told by its key.
    """
    own = {k: v for k, v in _plain(section).items() if k not in ("weight", "_target_", "_partial_")}
    values = instantiate(OmegaConf.create(own), _convert_="all")
    make = _located(f"{key}._target_", section["_target_"])
    parameters = inspect.signature(make).parameters
    given = {"detector": detector} if "detector" in parameters else {}
    lacking = [
        name for name, one in parameters.items()
        if one.default is one.empty and one.kind in _NAMED and name not in {*values, *given}
    ]  # fmt: skip
    if inspect.isfunction(make) and len(lacking) == 1:
        check_arguments(make, values, key)
        return partial(make, **values, **given)
    check_arguments(make, values, key, given)
    try:
        term = make(**values, **given)
    except (AlignnetError, ImportError, MemoryError):
        raise
    except Exception as error:  # a stranger's code
        raise ConfigError(f"{key}: {section['_target_']} raised {type(error).__name__}: {error}") from error
    if not callable(term):
        kind = type(term).__name__
        raise ConfigError(f"{key}: {section['_target_']} gives a {kind}; expected a function of the sensors")
    return term


def _located(key: str, target: Any) -> Any:
    """The class or function of a name."""
    try:
        found = get_object(str(target))
    except Exception as error:  # a stranger's module
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ConfigError(
            f"{key} is {target!r}: {reason}; expected MODULE.NAME of a class or function in a module that "
            "Python finds (PYTHONPATH=. for one in this folder)"
        ) from error
    if not callable(found):
        raise ConfigError(f"{key} is {target!r}, a {type(found).__name__}; expected a class or function")
    return found


def _plain(node: Any) -> Section:
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}
