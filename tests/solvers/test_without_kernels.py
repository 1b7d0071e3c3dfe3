"""Small Millepede problems are solved without compiled loops as with them: answers, errors and refusals."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mille_toys import toy

from alignnet.data.mille import MilleRecords, offset_of
from alignnet.data.mille_write import pack
from alignnet.data.steering import read_steering
from alignnet.errors import AlignnetError
from alignnet.physics.jit import SWITCH
from alignnet.solvers.mille_solver import MilleAnswer, solve_steering
from alignnet.solvers.records import find_labels

TOY = toy(n=150)
SENSORS = 5


def outlying() -> MilleRecords:
    y = TOY.records.y.copy()
    y[::61] += 8.0
    return dataclasses.replace(TOY.records, y=y)


def odd() -> MilleRecords:
    """Indices and labels that come twice in a measurement, derivatives of 0, and records without a track."""
    r = TOY.records
    index, label, value = r.local_index.copy(), r.global_label.copy(), r.global_value.copy()
    index[(index == 3) & (np.arange(len(index)) % 2 == 0)] = 2
    label[(label == 12) & (np.arange(len(label)) % 3 == 0)] = 11
    value[::19] = 0.0
    kept = r.record_of_measurement[r.measurement_of_local] % 10 > 0
    counts = np.bincount(r.measurement_of_local[kept], minlength=len(r.y))
    return dataclasses.replace(
        r,
        local_offset=offset_of(counts),
        local_index=index[kept],
        local_value=r.local_value[kept],
        global_label=label,
        global_value=value,
    )


def relative() -> MilleRecords:
    """What a sensor moves, the next one's motion undoes: three motions of all of them are not measured."""
    r = TOY.records
    following = 10 * (r.global_label // 10 % SENSORS + 1) + r.global_label % 10
    return dataclasses.replace(
        r,
        global_offset=2 * r.global_offset,
        global_label=np.stack([r.global_label, following], 1).ravel(),
        global_value=np.stack([r.global_value, -r.global_value], 1).ravel(),
    )


def solved(switch: str, monkeypatch: pytest.MonkeyPatch, text: str, records: MilleRecords) -> MilleAnswer:
    monkeypatch.setenv(SWITCH, switch)
    Path("data.bin").write_bytes(pack(records))
    Path("steer.txt").write_text(f"Cfiles\ndata.bin -- 0.7\nentries 1\nhugecut 1e6\n{text}\nend\n")
    return solve_steering(read_steering("steer.txt"), tolerance=1e-13, errors="exact")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


HELD = "".join(
    "Constraint 0.1\n" + "".join(f"{10 * s + k} 1\n" for s in range(1, SENSORS + 1)) for k in (1, 2, 3)
)
PROBLEMS = {
    "records alone": ("", TOY.records),
    "fixed, priors and errors scaled": (
        "Parameter\n11 0.3 0.1\n21 0.5 -1\n32 0 2\nscaleerrors 1.3 0.8\n",
        TOY.records,
    ),
    "constraints": ("Constraint 0.5\n11 1\n21 -1\nConstraint 0\n12 1\n22 1\n33 0.5\n", TOY.records),
    "odd records": ("", odd()),
    "measurements": ("Measurement 1.5 0.1\n41 1\n42 2\n", TOY.records),
    "cuts": ("chisqcut 100 6\nmethod inversion 4 0.001\n", outlying()),
    "weights": ("outlierdownweighting 4\ndwfractioncut 0.3\nmethod inversion 4 0.001\n", outlying()),
    "what records leave free is held": (HELD, relative()),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_answers_are_the_same(problem, monkeypatch):
    text, records = PROBLEMS[problem]
    with_kernels = solved("on", monkeypatch, text, records)
    without = solved("off", monkeypatch, text, records)
    error = np.where(with_kernels.error > 0, with_kernels.error, np.nanmax(with_kernels.error))
    assert (np.abs(without.value - with_kernels.value) / error).max() < 1e-10
    assert np.allclose(without.error, with_kernels.error, rtol=1e-9, atol=0)
    assert without.chi2 == pytest.approx(with_kernels.chi2, rel=1e-11)
    for name in ("ndf", "records", "rejected", "passes", "settled"):
        assert getattr(without, name) == getattr(with_kernels, name)
    assert np.array_equal(without.entries, with_kernels.entries)


def test_cuts_and_weights_of_these_problems_do_something(monkeypatch):
    for problem in ("cuts", "weights"):
        assert sum(solved("off", monkeypatch, *PROBLEMS[problem]).rejected) > 3


def flat() -> MilleRecords:
    """Parameters 11 and 12 always do the same."""
    r, value = TOY.records, TOY.records.global_value.copy()
    value[r.global_label == 12] = 0.0
    return dataclasses.replace(r, global_value=value)


def damaged() -> MilleRecords:
    sigma = TOY.records.sigma.copy()
    sigma[40] = -1.0
    return dataclasses.replace(TOY.records, sigma=sigma)


REFUSED = {
    "rank defect of 3": ("", relative()),
    "rank defect of 1": (HELD.rpartition("Constraint")[0], relative()),
    "parameters 11 to 13 are 3, and their records determine 2": ("", flat()),
    "follows from those before it": ("Constraint 0\n11 1\n21 1\nConstraint 0\n11 2\n21 2\n", TOY.records),
    "are rejected": ("hugecut 0.01\n", TOY.records),
    "expected sigma > 0": ("", damaged()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals_are_the_same(message, monkeypatch):
    said = []
    for switch in ("on", "off"):
        with pytest.raises(AlignnetError, match=message) as refused:
            solved(switch, monkeypatch, *REFUSED[message])
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_labels_are_the_same_whatever_the_blocks_of_records(monkeypatch):
    Path("data.bin").write_bytes(pack(TOY.records, double=False) + pack(relative(), double=True))
    found = []
    for switch, size in (("on", 1 << 22), ("off", 1 << 22), ("off", 1 << 13)):
        monkeypatch.setenv(SWITCH, switch)
        monkeypatch.setattr("alignnet.solvers.records._BATCH", size)
        found.append(find_labels([Path("data.bin")]))
    for other in found[1:]:
        for name, value in vars(found[0]).items():
            assert np.array_equal(getattr(other, name), value), name


def test_a_small_problem_leaves_nothing_compiled(tmp_path):
    Path("data.bin").write_bytes(pack(TOY.records))
    Path("steer.txt").write_text(f"Cfiles\ndata.bin\nentries 1\nhugecut 1e6\n{HELD}end\n")
    command = [sys.executable, "-m", "alignnet", "solve", "steer.txt", "errors=exact"]
    cache = tmp_path / "cache"
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        env=os.environ | {SWITCH: "auto", "NUMBA_CACHE_DIR": str(cache)},
    )
    assert Path("millepede.res").exists()
    assert not list(cache.rglob("*.nbi"))
