"""The answer for others: ALICE's conditions database, Millepede, and plain tables."""

from __future__ import annotations

from alignnet.export.alice import align_params, read_alice, read_alice_alignment, write_alice
from alignnet.export.millepede import (
    read_result,
    sensor_labels,
    track_records,
    write_mille,
    write_result,
    write_steering,
)
from alignnet.export.table import read_table, write_table

__all__ = [
    "align_params",
    "read_alice",
    "read_alice_alignment",
    "read_result",
    "read_table",
    "sensor_labels",
    "track_records",
    "write_alice",
    "write_mille",
    "write_result",
    "write_steering",
    "write_table",
]
