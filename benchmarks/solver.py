"""What `alignnet solve` takes by the number of sensors and of tracks: CPU seconds, iterations, errors.

    python benchmarks/solver.py [--json FILE] [--case SENSORS:TRACKS …] [--errors none]
    python benchmarks/solver.py --steer FOLDER/steer.txt …

Simulates linear barrels (barrel_toy.py) or takes given steering texts, and solves each in a process of its
own with one thread. A virtual machine that gave memory back to its host pays some 3 s for a GB of it at the
first touch: here that is another process', before each case. `reading` is the pass that finds the labels; the
pass that eliminates the tracks' parameters reads the file once more. `pull` is the width of
(solution − truth) / error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import barrel_toy
import numpy as np

from alignnet.export.millepede import read_result

_MEMORY_MB = 4000
CASES = ("1000:20000", "3000:60000", "24120:500000", "24120:2000000")


def solve(text: Path, errors: str, folder: Path) -> dict[str, Any]:
    """The numbers of millepede.json."""
    subprocess.run((sys.executable, "-c", f"bytearray(b'1') * ({_MEMORY_MB} << 20)"), check=True)
    subprocess.run(
        (sys.executable, "-m", "alignnet", "solve", str(text), f"errors={errors}"),
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    return dict(json.loads((folder / "millepede.json").read_text()))


def row(found: dict[str, Any], folder: Path, truth: np.ndarray | None) -> dict[str, Any]:
    """One line of the table."""
    cpu = found["cpu_seconds"]
    line = {
        "parameters": found["parameters"],
        "tracks": found["records"],
        "iterations": found["iterations"],
        "gradient": found["gradient"],
        "chi2_per_ndf": found["chi2_per_ndf"],
        "reading_s": cpu["labels"],
        "records_s": cpu["records"],
        "solution_s": cpu["solution"],
        "errors_s": cpu.get("errors"),
        "cpu_s": cpu["records"] + cpu["solution"],
        "peak_memory_mb": found["peak_memory_mb"],
    }
    if truth is not None:
        line |= against_truth(folder, truth)
    return line


def against_truth(folder: Path, truth: np.ndarray) -> dict[str, Any]:
    """R.m.s. of u, v, w [µm] and the width of the pulls of what was solved for."""
    result = read_result(folder / "millepede.res")
    off = result.value - truth.ravel()[result.label - 1]
    free = result.presigma >= 0
    rms = [float(off[free & ((result.label - 1) % 6 == k)].std() * 1e4) for k in range(3)]
    errors = result.error[free]
    known = np.isfinite(errors) & (errors > 0)
    pull = float((off[free][known] / errors[known]).std()) if known.any() else None
    return {"rms_um": rms, "pull": pull}


def table(lines: list[dict[str, Any]]) -> str:
    """For people."""
    head = ("parameters", "tracks", "iterations", "reading", "records", "solution", "errors", "pull", "MB")
    out = ["  ".join(f"{name:>10}" for name in head)]
    for line in lines:
        numbers = [line[k] for k in ("reading_s", "records_s", "solution_s", "errors_s")]
        cells = [f"{line['parameters']:,}", f"{line['tracks']:,}", str(line["iterations"])]
        cells += ["" if x is None else f"{x:.1f} s" for x in numbers]
        cells += [f"{line['pull']:.3f}" if line.get("pull") else "", f"{line['peak_memory_mb']:.0f}"]
        out.append("  ".join(f"{cell:>10}" for cell in cells))
    return "\n".join(out)


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--case", nargs="+", default=CASES, metavar="SENSORS:TRACKS")
    parser.add_argument(
        "--steer", nargs="+", type=Path, default=[], help="steering texts instead of own toys"
    )
    parser.add_argument("--errors", choices=("auto", "exact", "none"), default="auto")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        barrel_toy.write(folder, 300, 6000)
        solve(folder / "steer.txt", "exact", folder)  # so that nothing is compiled in what is timed
        for text in options.steer:
            truth = text.parent / "truth.npy"
            found = solve(text.resolve(), options.errors, folder)
            lines.append(row(found, folder, np.load(truth) if truth.is_file() else None))
        for case in () if options.steer else options.case:
            sensors, tracks = (int(n) for n in case.split(":"))
            own = folder / "toy"
            own.mkdir()
            truth = barrel_toy.write(own, sensors, tracks)
            lines.append(row(solve(own / "steer.txt", options.errors, own), own, truth))
            shutil.rmtree(own)
    print(table(lines))
    few, many = min(line["iterations"] for line in lines), max(line["iterations"] for line in lines)
    print(f"iterations from {few} to {many}")
    if options.json:
        options.json.write_text(json.dumps({"cases": lines, "threads": 1}, indent=1) + "\n")


if __name__ == "__main__":
    main()
