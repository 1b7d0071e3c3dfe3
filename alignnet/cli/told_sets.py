"""What a training is told of its data sets before it begins, and what of them cannot be meant."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from alignnet.data.datamodule import AlignmentData
from alignnet.data.o2_runs import is_run
from alignnet.data.root import read_metadata
from alignnet.errors import AlignnetError, ConfigError
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.loss.objective import DataSet

log = logging.getLogger("alignnet.sets")

_SAME_FIELD = 0.01, 1e-3
"""Fraction of a field, and T, within which two are the same."""


def told_sets(data: AlignmentData, sets: tuple[DataSet, ...]) -> list[str]:
    """A line for each set besides the first.

    Args:
        data: with `others`, read.
        sets: costs of these, by the same names.

    Raises:
        ConfigError: a set of decays has no event of two tracks.
    """
    warn_of_field("data", data)
    lines = []
    for one in sets:
        mine = data.others[one.name]
        warn_of_field(f"data.sets.{one.name}", mine)
        n_events, what = len(mine.table), ""
        if isinstance(one.loss, DecayChi2):
            what = f", {check_pairs(one.name, mine):,} pairs"
        lines.append(
            f"data.sets.{one.name}: {mine.n_tracks:,} tracks in {n_events:,} events{what} from "
            f"{', '.join(mine.files)}; {mine.detector.b_z:g} T, weight {one.weight:g}"
        )
    return lines


def check_pairs(name: str, data: AlignmentData) -> int:
    """How many events of a set of decays have the two tracks of one.

    Raises:
        ConfigError: none has.
    """
    counts = np.asarray(data.table.counts(np.arange(len(data.table))))
    pairs = int((counts == 2).sum())
    expected = (
        "expected events that are the two tracks of one decay each, as `alignnet convert from=decays` writes"
    )
    if pairs == 0:
        found = f"{counts.min()} to {counts.max()} tracks" if len(counts) else "no tracks"
        raise ConfigError(
            f"data.sets.{name}.decay: its {len(counts):,} events have {found}, none has 2; {expected}"
        )
    if 2 * pairs < len(counts):
        log.warning(
            "data.sets.%s.decay: %s of its %s events have two tracks, the others do not count; %s",
            name, f"{pairs:,}", f"{len(counts):,}", expected,
        )  # fmt: skip
    return pairs


def warn_of_field(key: str, data: AlignmentData) -> None:
    """Say where a file was made in another field than its tracks are fitted in."""
    for file in data.files:
        field = _field_of(file)
        if field is None:
            continue
        relative, absolute = _SAME_FIELD
        if abs(field - data.detector.b_z) > absolute + relative * abs(field):
            told = "detector.b_z" if key == "data" else f"{key}.b_z"
            log.warning(
                "%s: made at %g T by its metadata, and fitted at %g T; give %s=%g", file, field,
                data.detector.b_z, told, field,
            )  # fmt: skip


def _field_of(file: str) -> float | None:
    """The field in a file's metadata [T]; None for runs of O2, which are looked at where they are read."""
    if is_run(file):
        return None
    try:
        metadata: Mapping[str, object] = read_metadata(file)
    except (AlignnetError, OSError):  # it has none, or none that tells
        return None
    field = metadata.get("b_z_tesla")
    return float(field) if isinstance(field, int | float) and not isinstance(field, bool) else None
