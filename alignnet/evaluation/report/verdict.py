"""The verdict of a report: what the rules find in the numbers, and the words that stand above it.

A good headline needs a converged training, a χ²/ndf that fell, and no rule that finds fault; under a bad one
nothing is called good. The rules and what they are judged by are in docs/command-line.md, The report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from alignnet.evaluation.report import rules_dca, rules_fit, rules_modes, rules_physics
from alignnet.evaluation.report.finding import Finding
from alignnet.evaluation.report.numbers import plural

RULES = (
    rules_fit.convergence,
    rules_fit.chi2,
    rules_dca.dca,
    rules_dca.across,
    rules_physics.limit,
    rules_physics.pulls,
    rules_fit.sensors,
    rules_fit.attention,
    rules_fit.tracks,
    rules_modes.modes,
)
"""In the order in which an expert asks."""

_BAD = {
    "convergence": "Not converged",
    "chi2": "χ² does not support this alignment",
    "sensors": "No sensor was aligned",
    "tracks": "No track was evaluated",
}


@dataclass(frozen=True)
class Verdict:
    """A headline and the findings under it."""

    level: str  # of LEVELS
    headline: str
    findings: tuple[Finding, ...]


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """The verdict on an alignment.

    Args:
        metrics: nested as in metrics.json; whatever is missing or not finite is said to be so.
    """
    findings = tuple(finding for rule in RULES for finding in rule(metrics))
    counts = Counter(finding.level for finding in findings)
    if counts["bad"]:
        findings = tuple(replace(f, level="plain") if f.level == "good" else f for f in findings)
        found = [_BAD.get(f.topic, f.topic) for f in findings if f.level == "bad"]
        return Verdict("bad", f"{'; '.join(dict.fromkeys(found))}. Do not use this alignment.", findings)
    settled = any(f.topic == "convergence" and f.level == "good" for f in findings)
    if counts["warning"] or not settled:
        judged = "Converged" if settled else "Convergence is not known"
        return Verdict("warning", f"{judged}, with {plural(counts['warning'], 'warning')}", findings)
    return Verdict("good", "Converged, without warnings", findings)
