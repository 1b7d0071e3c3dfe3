"""What each thing that is not as the fit believes costs: lost and wrong hits, dead sensors, wrong physics.

    python benchmarks/robustness.py OUT [key=value ...] [--seeds 1 2 3]

For each line a wedge of ITS2 is simulated (`alignnet simulate sample=robustness`, with a fault of the data)
and aligned (`alignnet train experiment=robustness`, with a mistake of the fit), each into a folder of OUT;
the lines of a seed have the same particles and places. A table in Markdown (docs/results.md) on standard
output: r.m.s. to the truth of all aligned sensors, rigid motions and weak modes removed, the statistical
limit (what that line's fit believes), and the ratio to the first line. Other keys go to all trainings. What
is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CUT = ("loss.hit_weights.kind=cut",)


@dataclass(frozen=True)
class Line:
    """Of the table: what is not as in the first one."""

    name: str
    fault: tuple[str, ...] = ()  # keys of alignnet simulate
    mistake: tuple[str, ...] = ()  # keys of alignnet train

    @property
    def folder(self) -> str:
        """Of its training."""
        return "_".join(key.replace("=", "_") for key in (*self.fault, *self.mistake)) or "as_simulated"


LINES = (
    Line("as simulated"),
    Line("hit efficiency 0.9", ("fault=inefficient",)),
    Line("5 % of the sensors dead", ("fault=dead_sensors",)),
    Line("10 % of the staves dead", ("fault=dead_staves",)),
    Line("5 % wrong hits", ("fault=wrong_hits",)),
    Line("5 % wrong hits, hit_weights.kind=cut", ("fault=wrong_hits",), CUT),
    Line("scattering budget 20 % too small", mistake=("mistake=thin",)),
    Line("scattering budget 20 % too large", mistake=("mistake=thick",)),
    Line("field 0.1 % too small", mistake=("mistake=weak_field",)),
    Line("field 0.1 % too large", mistake=("mistake=strong_field",)),
    Line("2 % of the hits 5 times wider", ("fault=wide_hits",)),
    Line("2 % of the kinks 5 times larger", ("fault=large_kinks",)),
    Line("both, hit_weights.kind=cut", ("simulation.hit_tail=0.02", "simulation.scattering_tail=0.02"), CUT),
)


@dataclass(frozen=True)
class Found:
    """The answer of a line."""

    n_aligned: int
    chi2_per_ndf: float
    left: np.ndarray  # mean square displacement to the truth along u, v, w of all sensors [µm²]
    limit: np.ndarray  # that of draws


def main() -> None:
    """Run what has not been run, and print a line as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of particles and places")
    parser.add_argument("keys", nargs="*", help="of alignnet train")
    given = parser.parse_args()
    print("| | sensors aligned | χ²/ndf | left u, v, w [µm] | limit u, v, w [µm] | left / as simulated |")
    print("|---|---|---|---|---|---|", flush=True)
    reference = None
    for line in LINES:
        found = [aligned(given.out / f"seed{seed}", line, seed, given.keys) for seed in given.seeds]
        left, limit = (np.mean([getattr(f, name) for f in found], axis=0) for name in ("left", "limit"))
        reference = left.sum() if reference is None else reference
        numbers = [" / ".join(f"{x:.2f}" for x in np.sqrt(squares)) for squares in (left, limit)]
        n, chi2 = (np.mean([getattr(f, name) for f in found]) for name in ("n_aligned", "chi2_per_ndf"))
        ratio = float((left.sum() / reference) ** 0.5)
        print(
            f"| {line.name} | {n:.0f} | {chi2:.3f} | {numbers[0]} | {numbers[1]} | {ratio:.2f} |", flush=True
        )


def aligned(folder: Path, line: Line, seed: int, keys: list[str]) -> Found:
    """Simulate and align."""
    tracks = folder / f"{Line('', line.fault).folder}.root"
    run = folder / line.folder
    if not tracks.is_file():
        places = ("sample=robustness", f"output={tracks}", f"seed={seed}", f"misalignment.seed={seed}")
        alignnet("simulate", *places, *line.fault)
    if not (run / "metrics.json").is_file():
        settings = ("experiment=robustness", f"data.files=[{tracks}]", f"hydra.run.dir={run}")
        alignnet("train", *settings, *line.mistake, "require_convergence=false", *keys)
    metrics = json.loads((run / "metrics.json").read_text())
    return Found(
        metrics["n_aligned"], metrics["chi2_per_ndf"], *(mean_square(metrics, k) for k in ("after", "limit"))
    )


def mean_square(metrics: dict[str, Any], which: str) -> np.ndarray:
    """Over all aligned sensors, along u, v, w [µm²]."""
    truth, sensors = metrics["truth"], metrics["sensors"]
    squares = [[truth[layer][name][f"{which}_um"] ** 2 for name in "uvw"] for layer in truth]
    return np.average(squares, axis=0, weights=[sensors[layer]["aligned"] for layer in truth])


def alignnet(*arguments: str) -> None:
    """Run a command; what it says goes to the run's own log."""
    subprocess.run([sys.executable, "-m", "alignnet", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
