"""Labels of Mille records by sorting them: what `record_kernels.scan` finds, without a compiler."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from alignnet.data.mille import MilleRecords, RawBlock
from alignnet.data.tracks import Array
from alignnet.solvers.record_tables import Labels

SAMPLE = 1000  # records that tell which labels belong together
WIDEST = 12


def labels_of(blocks: Iterable[RawBlock]) -> Labels:
    """The labels of whole files.

    Raises:
        SchemaError: a record is damaged.
    """
    counts, largest, width, n_records = np.zeros((0, 3), np.int64), np.zeros(3, np.int64), 0, 0
    for block in blocks:
        width = width or usual_width(block)
        records = block.records()
        counts = _added(np.concatenate([counts, _counts(records)]))
        largest = np.maximum(largest, _sizes(records))
        n_records += len(records)
    label, measurements, in_records = counts.T.copy()
    sizes = (int(largest[0]), int(largest[1]), int(largest[2]))
    return Labels(label, measurements, in_records, sizes, width or 1, n_records)


def usual_width(block: RawBlock) -> int:
    """How many consecutive labels usually come together in a record: the degrees of freedom of a sensor."""
    part = RawBlock(
        block.words[: block.starts[min(SAMPLE, len(block))]],
        block.starts[: SAMPLE + 1],
        block.path,
        block.first_byte,
    )
    records = part.records()
    owner = np.repeat(np.arange(len(records)), np.diff(records.global_offset[records.record_offset]))
    pair = np.unique(owner * (1 << 32) + records.global_label)
    if not len(pair):
        return 0
    length = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(pair) != 1, [True]])))
    return min(int(np.bincount(length).argmax()), WIDEST)


def track_parameters(records: MilleRecords) -> Array:
    """How many each record has, the largest of its indices (records,)."""
    most = np.zeros(len(records), dtype=np.int64)
    owner = records.record_of_measurement[records.measurement_of_local]
    np.maximum.at(most, owner, records.local_index)
    return most


def _counts(records: MilleRecords) -> Array:
    """Labels, and how many derivatives and records have each (labels, 3)."""
    label, which, derivatives = np.unique(records.global_label, return_inverse=True, return_counts=True)
    owner = records.record_of_measurement[records.measurement_of_global]
    pair = np.unique(owner * len(label) + which)
    in_records = np.bincount(pair % max(len(label), 1), minlength=len(label))
    return np.stack([label, derivatives, in_records], 1)


def _added(counts: Array) -> Array:
    """One row for each label."""
    label, which = np.unique(counts[:, 0], return_inverse=True)
    out = np.zeros((len(label), 3), dtype=np.int64)
    out[:, 0] = label
    np.add.at(out[:, 1:], which, counts[:, 1:])
    return out


def _sizes(records: MilleRecords) -> Array:
    """What `Labels` has as `largest` (3,)."""
    measurements, parameters = np.diff(records.record_offset), track_parameters(records)
    return np.array(
        [
            measurements.max(initial=0),
            parameters[parameters <= measurements].max(initial=0),
            np.diff(records.global_offset).max(initial=0),
        ]
    )
