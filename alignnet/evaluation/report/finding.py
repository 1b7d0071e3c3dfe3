"""What the rules of the verdict say: a sentence each, and how good or bad that is."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("good", "plain", "warning", "bad")
"""From what carries a good verdict to what forbids it; `plain` is neither."""


@dataclass(frozen=True)
class Finding:
    """One sentence of a verdict."""

    topic: str  # "convergence", "chi2", "dca", "sensors", "limit", "pulls", "tracks", "attention", "modes"
    level: str  # of LEVELS
    text: str

    @property
    def rank(self) -> int:
        """0 for good to 3 for bad."""
        return LEVELS.index(self.level)
