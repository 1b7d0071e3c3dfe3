"""Tables for the terminal: they fit, they hold the numbers, and a pipe gets plain text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from alignnet.evaluation.tables import MISSING, show, terminal


def metrics() -> dict[str, Any]:
    row = {"before_um": 123.4, "after_um": 1.2345, "limit_um": 0.9876, "efficiency": 0.8}
    residual = {
        "n_hits": 1234567, "unbiased_before_within_um": 1234.5, "unbiased_within_um": 99.96,
        "expected_unbiased_within_um": 9.999, "pull_core_width": 1.004,
    }  # fmt: skip
    columns = {
        "pt_low": [0.2, 0.3], "pt_high": [0.3, 10.0], "n": [1234567, 3],
        **{f"{q}_{c}_um": [-321.0, None] for q in ("mean", "width") for c in ("xy", "z")},
        **{f"{q}_error_{c}_um": [0.25, None] for q in ("mean", "width") for c in ("xy", "z")},
    }  # fmt: skip
    return {
        "truth": {f"layer{i}": dict.fromkeys("uvw", row) for i in range(7)},
        "truth_layer_rigid": {"layer0": dict.fromkeys("uvw", row)},
        "residuals": {f"layer{i}": dict.fromkeys("uv", residual) for i in range(7)},
        "dca": {name: columns for name in ("before", "after", "ideal")},
    }


def printed(of: dict[str, Any], width: int = 80) -> str:
    file = io.StringIO()
    show(of, Console(file=file, width=width, highlight=False))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_every_table_fits_and_nothing_is_cut(width: int) -> None:
    text = printed(metrics(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text.replace(" … ", "")  # rich's mark of a cell that was cut


def test_large_numbers_make_a_table_wider_and_are_not_cut() -> None:
    many = metrics()
    for row in many["residuals"].values():
        for c in "uv":
            row[c] = {key: 123456789.0 for key in row[c]}
    text = printed(many)
    assert "…" not in text.replace(" … ", "")
    assert text.count("123,456,789") == 7 * 2 * 4
    assert "layer" in text


def test_numbers_have_three_digits_and_missing_ones_a_dash() -> None:
    text = printed(metrics())
    for number in (
        " 123 ",
        " 1.23 ",
        " 0.99 ",
        " 1,234 ",
        " 100 ",
        " 10.0 ",
        " 1.23M ",
        " -321 ",
        " 0.25 ",
    ):
        assert number in text
    assert MISSING in text
    assert "0.2 … 0.3" in text


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(metrics())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "DCA_xy" in out
    assert 80 <= terminal().width <= 100


def test_what_is_not_known_is_left_out() -> None:
    text = printed({"residuals": metrics()["residuals"], "dca": None, "truth": {}})
    assert "Unbiased residuals" in text
    assert "DCA" not in text
    assert "misalignment" not in text
    alone = metrics()["truth"] | {}
    for row in alone.values():
        row.update({c: r | {"limit_um": None} for c, r in row.items()})
    assert "limit" not in printed({"truth": alone})
