"""The page of a watch: what moved and when, constants against time with their errors, files and their quality."""

from __future__ import annotations

from alignnet.online.watch import Watch


def write_report(watch: Watch) -> None:
    """Write OUTPUT/report.html."""
