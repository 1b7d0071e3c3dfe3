"""Toy problems of Millepede as files of the current folder, and `alignnet solve` of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mille_toys import Toy, toy

from alignnet.cli.solve import Options, run
from alignnet.data.mille import MilleRecords
from alignnet.data.mille_write import MilleWriter
from alignnet.export.millepede import read_result

TOY = toy(n=150)
EXACT = Options(errors="exact", tolerance=1e-12)


def written(text: str = "", problem: Toy = TOY, records: MilleRecords | None = None) -> Path:
    """A steering text with its binary in the current folder."""
    with MilleWriter("data.bin") as writer:
        writer.append(problem.records if records is None else records)
    Path("steer.txt").write_text(f"Cfiles\ndata.bin\nentries 1\nhugecut 1e6\n{text}\nend\n")
    return Path("steer.txt")


def solved(text: str = "", options: Options = EXACT, **what):
    run(written(text, **what), options)
    return read_result("millepede.res"), json.loads(Path("millepede.json").read_text())


def shifted(problem: Toy = TOY, by: float = 0.3) -> MilleRecords:
    """Records of the same tracks with parameter 11 off by this much more."""
    records = problem.records
    moved = np.where(records.global_label == 11, by * records.global_value, 0.0)
    change = np.bincount(records.measurement_of_global, moved, len(records.y))
    return type(records)(**{**vars(records), "y": records.y + change})
