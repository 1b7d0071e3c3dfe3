"""The verdict of a report says what the numbers carry, and never a good word more."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_metrics import dca, good_metrics, mode, sensors

from alignnet.evaluation.report.finding import LEVELS
from alignnet.evaluation.report.numbers import alike, short
from alignnet.evaluation.report.rules_dca import MEAN_NEAR, SIGNIFICANT, WIDTH_FAR, WIDTH_NEAR
from alignnet.evaluation.report.rules_fit import CHI2_FAR, CHI2_NEAR, CHI2_PLAUSIBLE, MANY_REJECTED
from alignnet.evaluation.report.rules_modes import WEAK_UM
from alignnet.evaluation.report.rules_physics import LIMIT_FAR, LIMIT_NEAR, LIMIT_SPREADS, PULLS
from alignnet.evaluation.report.verdict import Verdict, verdict

NUMBERS = st.none() | st.floats() | st.integers() | st.sampled_from([0, -1, math.nan, math.inf, 10**400])
JUNK = NUMBERS | st.booleans() | st.text(max_size=5) | st.lists(NUMBERS, max_size=3) | st.just({})


def changed(path: str, value: Any) -> dict[str, Any]:
    """Good metrics with another value under a dotted path; `...` takes the key away."""
    metrics = good_metrics()
    *parents, last = path.split(".")
    inner: Any = metrics
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return metrics


def paths(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested tables and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    inner = [path for key, value in items for path in paths(value, (*prefix, key))]
    return [*([prefix] if prefix else []), *inner]


PLACES = paths(good_metrics())


@st.composite
def spoilt(draw: st.DrawFn, junk: st.SearchStrategy[Any] = JUNK) -> dict[str, Any]:
    """Good metrics with junk in some places, or whole parts missing."""
    metrics = copy.deepcopy(good_metrics())
    for path in draw(st.lists(st.sampled_from(PLACES), max_size=6)):
        inner: Any = metrics
        for key in path[:-1]:
            inner = inner[key] if isinstance(inner, list | dict) and _has(inner, key) else {}
        if isinstance(inner, dict) and draw(st.booleans()):
            inner.pop(path[-1], None)
        elif isinstance(inner, list | dict) and _has(inner, path[-1]):
            inner[path[-1]] = draw(junk)
    return metrics


def _has(node: Any, key: Any) -> bool:
    return key in node if isinstance(node, dict) else isinstance(key, int) and key < len(node)


def levels(judged: Verdict, topic: str) -> list[str]:
    return [finding.level for finding in judged.findings if finding.topic == topic]


def text(judged: Verdict, topic: str) -> str:
    return " ".join(finding.text for finding in judged.findings if finding.topic == topic)


def test_an_alignment_as_good_as_they_get_has_no_warnings():
    judged = verdict(good_metrics())
    assert (judged.level, judged.headline) == ("good", "Converged, without warnings")
    assert {finding.level for finding in judged.findings} == {"good", "plain"}


@given(spoilt())
def test_whatever_the_metrics_hold_there_is_a_verdict_in_words(metrics):
    judged = verdict(metrics)
    assert judged.level in LEVELS
    assert judged.headline
    assert all(finding.text and finding.level in LEVELS for finding in judged.findings)


@given(spoilt(NUMBERS))
def test_no_number_is_written_that_is_none(metrics):
    for finding in verdict(metrics).findings:
        assert not re.search(r"\b(nan|inf|None)\b", finding.text)


@given(spoilt())
def test_a_good_headline_needs_convergence_and_a_chi2_that_fell(metrics):
    judged = verdict(metrics)
    before, after = metrics.get("chi2_per_ndf_before"), metrics.get("chi2_per_ndf")
    settled = isinstance(metrics.get("convergence"), dict) and metrics["convergence"].get("converged") is True
    fell = all(isinstance(x, int | float) for x in (before, after)) and after < before
    if judged.level == "good":
        assert settled
        assert fell
        assert all(finding.level in ("good", "plain") for finding in judged.findings)
    if judged.level == "bad":
        assert all(finding.level != "good" for finding in judged.findings)


@given(spoilt(), st.sampled_from(["converged", "convergence"]))
def test_what_has_not_converged_is_called_so_whatever_else_there_is(metrics, where):
    status = {"converged": False, "reasons": ["step 3 µm, above 2"], "epochs": 4}
    metrics[where] = False if where == "converged" else status
    judged = verdict(metrics)
    assert judged.level == "bad"
    assert judged.headline.startswith("Not converged")
    if where == "convergence":
        assert "after 4 epochs: step 3 µm, above 2" in text(judged, "convergence")


@given(spoilt(), st.floats(1e-3, 1e3), st.floats(1e-6, 10))
def test_a_chi2_that_rose_is_called_worse(metrics, before, rise):
    metrics |= {"chi2_per_ndf_before": before, "chi2_per_ndf": before * (1 + rise)}
    judged = verdict(metrics)
    assert judged.level == "bad"
    assert "worse than before" in text(judged, "chi2")


@pytest.mark.parametrize(
    ("path", "value", "level", "words"),
    [
        ("chi2_per_ndf", None, "bad", "after the alignment is not a number"),
        ("chi2_per_ndf", math.nan, "bad", "after the alignment is not a number"),
        ("chi2_per_ndf", 3.5, "warning", "has not changed"),
        ("chi2_per_ndf", 1.05, "plain", "5.0 % above that"),
        ("chi2_per_ndf", 1.3, "warning", "30 % above that"),
        ("chi2_per_ndf_before", None, "warning", "before is not known"),
        ("chi2_per_ndf_ideal", None, "good", "true places are not known"),
        ("convergence", ..., "warning", "is not known"),
        ("convergence.converged", None, "warning", "was not judged after 2 epochs"),
        ("n_tracks", 0, "bad", "No track was evaluated"),
        ("n_tracks", None, "bad", "not known"),
        ("n_tracks_rejected", 100, "plain", "0.50 % left out: 100 that cannot be fitted."),
        ("n_tracks_rejected", 2000, "warning", "9.1 % left out"),
        ("n_rejected", 2000, "warning", "2,000 beyond evaluation.max_chi2_per_ndf"),
        ("n_aligned", 0, "bad", "No sensor was aligned"),
        ("n_aligned", None, "warning", "is not known"),
        ("sensors.too_few_hits", 3, "plain", "24 of 24 sensors aligned; 3 held by their volumes"),
        ("sensors", sensors(residuals=2), "warning", "2 sensors need attention (by residuals 2)"),
        ("dca", None, "plain", "no numbers"),
        ("dca.after", dca(0.1, 1.05), "plain", "width up to 1.050 times the ideal"),
        ("dca.after", dca(0.1, 1.2), "warning", "(before: up to 1.50 times)"),
        ("dca.after", dca(9.0, 1.0), "warning", 
         "Mean DCA_xy is −4.500 ± 0.050 µm off ideal at p_T 1.0–5.0 GeV/c, beyond 1.0 µm (5 % of the ideal"),
        ("dca.after.mean_difference_xy_um", [0.1, None], "warning", "DCA_xy: no numbers"),
        ("truth", None, "plain", "The truth is not known"),
        ("truth.layer2.v.after_um", 1.3, "plain", "rigid motions and weak modes removed, is 1.0"),
        ("truth.layer2.v.after_um", 1.3, "plain", "1.30 times the statistical limit, most in layer 2"),
        ("truth.layer2.v.after_um", 2.0, "warning", "1.00–2.00 times the statistical limit"),
        ("truth.layer2.v.after_um", 0.5, "plain", "less than it in 1 of 12"),
        ("pulls.all.all", 0.7, "warning", "too large"),
        ("pulls.all.all", 1.3, "warning", "too small"),
        ("dca.after", dca(0.1, 1.2), "warning", "1.2000 ± 0.0020 times the ideal (at p_T 0.20–1.0 GeV/c,"),
        ("spectrum", None, "plain", "were not looked at"),
        ("spectrum.converged", False, "warning", "had not converged"),
        ("spectrum.modes", [mode("twist 0.9", 25.0)], "warning", "worse than 10 µm: twist 0.9 (25.0 µm)"),
        ("spectrum.modes", [mode("curl 0.9", None)], "warning", "Not known at all: curl 0.9"),
        ("spectrum.modes", [mode("rigid: rotation z", None, 0.99)], "plain", "rigid motions are free"),
    ],
)  # fmt: skip
def test_each_rule_has_its_level_and_its_words(path, value, level, words):
    judged = verdict(changed(path, value))
    topics = {"n": "tracks", "n_aligned": "sensors", "spectrum": "modes", "truth": "limit", "chi2": "chi2"}
    first = path.split(".", maxsplit=1)[0]
    topic = topics.get(first, "chi2" if "chi2" in first else first)
    topic = "tracks" if first.startswith("n_") and first != "n_aligned" else topic
    topic = "attention" if "attention" in words else topic
    assert level in levels(judged, topic)
    assert words in text(judged, topic)
    assert judged.level == ("good" if level == "plain" else level)


@pytest.mark.parametrize(
    ("words", "level", "said"),
    [
        (["seen", "held"], "good", "2 of 2 known to 5.0 µm or better at the edge, or held."),
        (["seen", "weak"], "plain", "1 of 2 known to 5.0 µm or better at the edge; 1 known less well than"),
        (["assumed", "assumed"], "warning", "0 of 2 known .*; 2 told by priors more than by the tracks"),
        (["invisible", "weak"], "warning", "1 not told by the tracks .radial.; 1 known less well"),
        (["unknown", "seen"], "warning", "1 not worked out: the solve did not end .radial."),
    ],
)
@pytest.mark.parametrize("spectrum", [True, False])
def test_weak_modes_are_judged_by_their_table(words, level, said, spectrum):
    metrics = good_metrics()
    if not spectrum:
        del metrics["spectrum"]
    rows = {name: {"verdict": word} for name, word in zip(("radial", "curl"), words, strict=True)}
    metrics["weak_modes"] = {"aim_um": 5.0, "modes": rows}
    judged = verdict(metrics)
    assert re.search(said, text(judged, "modes"))
    assert levels(judged, "modes") == [level, *["good"] * spectrum]
    assert "not looked" not in text(judged, "modes")


def test_a_mode_that_is_not_found_is_said_however_well_its_error_says_it_is_known():
    metrics = good_metrics()
    rows = {"radial": {"verdict": "seen", "sigma_um": 2.0, "injected_um": 50.0, "residual_um": 22.0,
                       "expected_residual_um": 20.0}}  # fmt: skip
    metrics["weak_modes"] = {"aim_um": 5.0, "modes": rows}
    assert "warning" in levels(verdict(metrics), "modes")
    assert "there is left: radial 22.0 ± 2.0 of 50.0 µm (priors: 20.0)." in text(verdict(metrics), "modes")
    for left, sigma in ((4.9, 0.1), (22.0, 8.0)):  # within what was asked for, and within its error
        rows["radial"] |= {"residual_um": left, "sigma_um": sigma}
        assert "there is left" not in text(verdict(metrics), "modes")


def test_a_difference_from_ideal_that_is_no_chance_is_named_with_its_bin():
    metrics = good_metrics()
    metrics["dca"]["after"]["mean_difference_xy_um"] = [0.5, 0.1]
    said = text(verdict(metrics), "dca")
    assert (
        "within 0.50 µm of ideal in every p_T bin, 0.500 ± 0.050 at p_T 0.20–1.0 GeV/c, 10 σ from it" in said
    )
    metrics["dca"]["after"]["mean_difference_error_xy_um"] = [30.0, 0.05]
    assert levels(verdict(metrics), "dca") == ["plain", "good"]
    assert "known to 30 µm or better" in text(verdict(metrics), "dca")


def test_a_bias_in_one_bin_of_phi_is_named_though_all_momenta_together_have_none():
    metrics = good_metrics()
    assert levels(verdict(metrics), "dca_by") == ["good", "good"]
    assert "within 0.10 µm of ideal in every bin of φ, charge and half" in text(verdict(metrics), "dca_by")
    metrics["dca_by"]["phi"]["after"]["mean_difference_xy_um"] = [0.1, -7.0]
    judged = verdict(metrics)
    assert (judged.level, levels(judged, "dca_by")) == ("warning", ["warning", "good"])
    assert "DCA_xy is −7.000 ± 0.050 µm off ideal at φ 1.0 to 5.0, beyond 1.0 µm (5 %" in text(
        judged, "dca_by"
    )
    metrics["dca_by"]["top"]["after"]["mean_difference_xy_um"] = [8.0, 0.1]
    assert "the bottom half" not in text(verdict(metrics), "dca_by")  # 3.2 of its limits; φ 7
    assert "and so in 1 other bin of half of the barrel" in text(verdict(metrics), "dca_by")
    metrics["dca_by"]["phi"]["after"]["mean_difference_error_xy_um"] = [0.05, 3.0]
    assert "8.000 ± 0.050 µm off ideal at the bottom half" in text(
        verdict(metrics), "dca_by"
    )  # −7 ± 3 is chance


def test_without_the_truth_bins_of_phi_are_held_against_zero():
    metrics = good_metrics()
    for table in metrics["dca_by"].values():
        del table["ideal"]
    metrics["dca_by"]["charge"]["after"]["mean_z_um"] = [4.0, -0.1]
    judged = verdict(metrics)
    assert levels(judged, "dca_by") == ["good", "warning"]
    assert "DCA_z is 4.00 ± 0.40 µm off 0 at charge −, beyond 2.5 µm (5 % of the width)." in text(
        judged, "dca_by"
    )


def test_tracks_without_weight_are_not_said_to_have_no_fit():
    metrics = good_metrics() | {"n_tracks_rejected": 130, "n_tracks_weightless": 100, "n_rejected": 20}
    assert text(verdict(metrics), "tracks").endswith(
        "0.74 % left out: 30 that cannot be fitted, 100 that weigh nothing (robust weights), "
        "20 beyond evaluation.max_chi2_per_ndf."
    )


def test_without_the_truth_the_mean_dca_is_held_against_zero():
    metrics = good_metrics()
    del metrics["dca"]["ideal"]
    judged = verdict(metrics)
    assert levels(judged, "dca") == ["good", "good"]
    assert "within 0.10 µm of 0 in every p_T bin, at most 0.25 σ" in text(judged, "dca")
    metrics["dca"]["after"] = dca(4.0, 1.0)
    judged = verdict(metrics)
    assert levels(judged, "dca") == ["warning", "warning"]
    assert "is 4.00 ± 0.40 µm at p_T 0.20–1.0 GeV/c, 10 σ from 0, beyond 3 σ (before" in text(judged, "dca")


def test_bins_with_too_few_tracks_are_not_counted_as_seen():
    metrics = good_metrics()
    for table in metrics["dca"].values():
        for key, column in table.items():
            if not key.startswith(("pt", "n")):
                column[1] = None
    assert "in 1 of 2 p_T bins" in text(verdict(metrics), "dca")


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 6))
def test_numbers_are_written_with_their_digits(value, digits):
    written = short(value, digits).replace("−", "-").replace(",", "")
    mantissa, _, power = written.partition(" × 10")
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) if power else 0
    if abs(value) < 1e300:
        assert float(f"{mantissa}e{exponent}") == pytest.approx(
            value, rel=0.51 * 10 ** (1 - digits), abs=1e-300
        )


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (1116.2004, 0.8664, ("1,116.20", "0.87")),
        (-0.06, 0.69, ("−0.06", "0.69")),
        (148.3, 13.4, ("148", "13")),
        (1.2, 0.002, ("1.2000", "0.0020")),
        (3.14159, None, ("3.14", "–")),
        (None, 0.5, ("–", "0.50")),
    ],
)
def test_a_number_and_its_error_have_the_same_decimals(value, error, said):
    assert alike(value, error) == said


def test_numbers_that_are_none_are_dashes():
    assert [short(value) for value in (None, math.nan, math.inf, "3", True, [1])] == ["–"] * 6
    assert [short(x) for x in (0, 1234.5, 0.012345, -2.5e-7)] == ["0", "1,234", "0.0123", "−2.50 × 10⁻⁷"]


def test_the_rules_are_documented_with_their_numbers():
    text = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    rules = text[text.index("### The report") : text.index("\n## export")]
    for words in (
        f"up to {CHI2_NEAR * 100:g} % above | up to {CHI2_FAR * 100:g} % above | more",
        "{:g} to {:g} | | beyond".format(*CHI2_PLAUSIBLE),
        f"within {MEAN_NEAR * 100:g} % of the ideal width of ideal; truth not known: within {SIGNIFICANT:g}",
        f"up to {WIDTH_NEAR:.2f} times, in every bin | up to {WIDTH_FAR:.2f} times",
        f"up to {LIMIT_NEAR:g} times, or {LIMIT_SPREADS[0]:g} standard deviations",
        f"more than {LIMIT_FAR:g} times and {LIMIT_SPREADS[1]:g} standard deviations",
        "{:g} to {:g} | | beyond".format(*PULLS),
        f"| up to {MANY_REJECTED * 100:g} % | more |",
        f"all known to {WEAK_UM:g} µm",
    ):
        assert words in rules, words
