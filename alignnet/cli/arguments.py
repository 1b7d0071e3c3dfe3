"""Whether values of a configuration fit the callable that they are for: its names and annotations.

YAML and the command line know words, numbers, lists and null; a word where a number belongs would otherwise
be noticed deep inside a constructor, where nobody knows the key any more.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from alignnet.errors import ConfigError

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a word",
    type(None): "null",
}


def check_arguments(
    make: Callable[..., Any], values: Mapping[str, Any], key: str, given: Mapping[str, Any] | None = None
) -> None:
    """Raises where a call would not match the signature.

    Args:
        make: what is to be called.
        values: its arguments that come from the configuration, `key.NAME`.
        key: where they stand in it; "" for the top.
        given: the other arguments, objects already; None where more of them will come later.

    Raises:
        ConfigError: an argument that `make` doesn't have, one of the wrong kind, or one that is missing.
    """
    try:
        signature = inspect.signature(make)
    except ValueError:  # a builtin without one
        return
    takes, name = signature.parameters, getattr(make, "__qualname__", str(make))
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        _check_names(name, {*values, *(given or {})}, list(takes), key)
    hints = _hints(make)
    for argument, value in values.items():
        if not fits(value, hints.get(argument, Any)):
            raise ConfigError(
                f"{_join(key, argument)} is {shown(value)}; expected {wording(hints[argument])}"
            )
    if given is not None:
        try:
            signature.bind(**values, **given)
        except TypeError as error:
            raise ConfigError(f"{key}: {name}: {error}; it takes {', '.join(takes)}") from error


def shown(value: Any) -> str:
    """A value as the user writes it."""
    return "null" if value is None else repr(value)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value of a configuration (or an object) is one of an annotation."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if kind is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    base = kind or hint
    if base in (Any, object) or not isinstance(base, type) or getattr(base, "_is_protocol", False):
        return True  # anything goes, or it cannot be told: a type variable, a protocol
    if base is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if base is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str):
        return issubclass(base, str | Path)
    if isinstance(value, list | tuple):
        return _all_fit(value, base, inner)
    if isinstance(value, dict):
        return issubclass(dict, base) and (len(inner) < 2 or all(fits(v, inner[1]) for v in value.values()))
    return isinstance(value, base)


def wording(hint: Any) -> str:
    """An annotation in the words of the one who sets the value."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(wording(one) for one in inner))
    if kind is Literal:
        return " or ".join(map(str, inner))
    base = kind or hint
    if base in _WORDS:
        return _WORDS[base]
    if isinstance(base, type) and issubclass(dict, base) and issubclass(base, Mapping):
        return "NAME: value pairs" + (
            f", each {wording(inner[1])}" if len(inner) == 2 and inner[1] is not Any else ""
        )
    if isinstance(base, type) and issubclass(base, Sequence):
        of = [one for one in inner if one is not ...]
        return "a list" + (f", each {wording(of[0])}" if of else "")
    return getattr(base, "__name__", str(base))


def _all_fit(values: Sequence[Any], base: type, inner: tuple[Any, ...]) -> bool:
    if not (issubclass(list, base) or issubclass(tuple, base)):
        return False
    if not inner:
        return True
    if base is tuple and ... not in inner:
        return len(values) == len(inner) and all(map(fits, values, inner))
    return all(fits(value, inner[0]) for value in values)


def _check_names(name: str, names: set[str], takes: Sequence[str], key: str) -> None:
    if unknown := sorted(names - set(takes)):
        first = unknown[0]
        raise ConfigError(f"{_join(key, first)}: {name} takes no '{first}', only {', '.join(takes)}")


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by argument; none where they cannot be resolved (imported for type checkers only)."""
    function = getattr(make, "__init__") if isinstance(make, type) else make  # noqa: B009 (mypy)
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
