"""What a value of a configuration may be follows from the annotations of what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignnet.cli.arguments import check_arguments, fits, wording
from alignnet.errors import ConfigError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FITTING = {
    float: NUMBERS | st.integers(),
    int: st.integers(),
    bool: st.booleans(),
    str: st.text(),
    float | None: st.none() | NUMBERS,
    Sequence[float]: st.lists(NUMBERS | st.integers()),
    tuple[float, ...]: st.lists(NUMBERS),
    tuple[int, str]: st.tuples(st.integers(), st.text()).map(list),
    Mapping[str, float]: st.dictionaries(st.text(), NUMBERS),
    Literal["given", "absent"]: st.sampled_from(["given", "absent"]),
    str | Path: st.text(),
    Any: st.none() | st.integers() | st.text() | st.lists(st.integers()),
}


@pytest.mark.parametrize("hint", FITTING, ids=str)
@given(data=st.data())
def test_what_an_annotation_says_fits(hint, data):
    assert fits(data.draw(FITTING[hint]), hint)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("a", float, "a finite number"),
        (True, float, "a finite number"),
        (float("nan"), float, "a finite number"),
        (float("inf"), float, "a finite number"),
        (None, float, "a finite number"),
        (1.5, int, "a whole number"),
        (True, int, "a whole number"),
        (1, bool, "true or false"),
        (1, str, "a word"),
        ("a", float | None, "a finite number or null"),
        (["a"], Sequence[float], "a list, each a finite number"),
        ("abc", Sequence[str], "a list, each a word"),
        ([1, 2, 3], tuple[int, str], "a list, each a whole number"),
        ({"a": "b"}, Mapping[str, float], "NAME: value pairs, each a finite number"),
        ([1], Mapping[str, float], "NAME: value pairs, each a finite number"),
        ("both", Literal["given", "absent"], "given or absent"),
        (0.5, Tensor, "Tensor"),
        ("0.5", Tensor | float, "Tensor or a finite number"),
    ],
)
def test_anything_else_is_refused_in_words(value, hint, expected):
    assert not fits(value, hint)
    assert wording(hint) == expected


def shape(sides: int, scale: float = 1.0, name: str | None = None) -> None:
    """Something to call."""


@pytest.mark.parametrize(
    ("values", "given_", "message"),
    [
        ({"sides": 3, "colour": 1}, {}, "it.colour: shape takes no 'colour', only sides, scale, name"),
        ({"sides": "three"}, {}, "it.sides is 'three'; expected a whole number"),
        ({"sides": 3, "name": 4}, None, "it.name is 4; expected a word or null"),
        ({"scale": 2}, {}, "it: shape: missing a required argument: 'sides'; it takes sides, scale, name"),
    ],
)
def test_an_error_names_the_key(values, given_, message):
    with pytest.raises(ConfigError) as caught:
        check_arguments(shape, values, "it", given_)
    assert str(caught.value) == message


def test_what_comes_later_is_not_missed():
    check_arguments(shape, {"scale": 2}, "it", None)
    check_arguments(shape, {"scale": 2}, "it", {"sides": 3})
