"""Finding and aligning in turn: tracks found on misaligned events align the detector, then find more tracks.

    python benchmarks/its2_loop.py OUT [--network RUN] [--events 100] [--tracks 200] [--stave 0.01]

simulates, aligns with the tracks as they were simulated (the true association), and then twice finds tracks
with the network (without one, the automaton) and aligns with them: first with the sensors at their nominal
places, then where the first round has put them. OUT/loop.json has a row a round: figures of merit of the
finding, and what is left of the misalignment, r.m.s. over all sensors [µm]. What is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from alignnet.data.root import read_alignment, read_detector, read_misalignment

CHIP = 0.001  # [cm] by how much chips are off their staves
ALIGN = [
    "loss.vertex=absent", "optimizer=gauss_newton_float32", "data.split=[0.9,0.05,0.05]",
    "trainer.max_epochs=5", "evaluation.part=test", "evaluation.limit=false", "evaluation.report=false",
    "evaluation.numbers=[]", "figure_every=0", "require_convergence=false",
]  # fmt: skip
ROBUST = [
    "loss.weights.kind=huber_cut", "loss.weights.switch_epoch=0", "loss.weights.threshold=3",
    "loss.weights.quantile=0.5",
]  # fmt: skip
"""For tracks that were found, some of which have a wrong hit."""

FIGURES = ("efficiency", "efficiency_perfect", "fakes", "duplicates", "edge_purity", "edge_efficiency")


def main() -> None:
    """Run what has not been run, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", help="folder of a training run")
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--tracks", type=int, default=200, help="of an event")
    parser.add_argument("--stave", type=float, default=0.01, help="by how much staves are off [cm]")
    given = parser.parse_args()
    folder, stave, start = given.out, given.stave, time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    hits = folder / "hits.root"
    simulate(hits, given.events, given.tracks, stave)
    rows = {"true association": aligned(hits, folder / "align_truth")}
    settings = {name: str(value) for name, value in vars(given).items() if name != "out"}
    alignment, systematic = None, stave
    for number in (1, 2):
        found = folder / f"found{number}.root"
        figures = find(hits, found, given.network, alignment, systematic)
        answer = aligned(found, folder / f"align{number}", *ROBUST)
        rows[f"round {number}"] = {**{name: figures[name] for name in FIGURES}, **answer}
        alignment, systematic = folder / f"align{number}" / "alignment.root", 2 * CHIP
        (folder / "loop.json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    print(json.dumps(rows, indent=2), f"{time.perf_counter() - start:.0f} s", sep="\n")


def simulate(hits: Path, n_events: int, n_tracks: int, stave: float) -> None:
    """Events of one collision each in a misaligned ITS2, with noise."""
    of_stave, of_chip = f"translation: {stave}, rotation: 1.0e-4", f"translation: {CHIP}, rotation: 2.0e-4"
    levels = f"{{stave: {{{of_stave}}}, sensor: {{{of_chip}}}}}"
    if not hits.exists():
        alignnet(
            "simulate", f"output={hits}", f"n_events={n_events}", f"source.n_tracks_per_event={n_tracks}",
            "source.spectrum=thermal", "source.pt_max=10", "source.vertex_resolution=null", "seed=11",
            "simulation.noise_per_sensor=0.005", f"misalignment.levels={levels}",
        )  # fmt: skip


def find(
    hits: Path, found: Path, network: str | None, alignment: Path | None, systematic: float
) -> dict[str, Any]:
    """Find tracks with the sensors where an alignment has them; figures of merit."""
    metrics = found.with_suffix(".json")
    if not metrics.exists():
        alignnet(
            "find", f"input={hits}", f"output={found}", f"metrics={metrics}",
            f"graph.systematic={systematic}", f"network={network or 'null'}",
            f"alignment={alignment or 'null'}",
        )  # fmt: skip
    figures: dict[str, Any] = json.loads(metrics.read_text())
    return figures


def aligned(tracks: Path, run: Path, *keys: str) -> dict[str, float]:
    """Align with a file of tracks; what is left of the misalignment, r.m.s. over all sensors [µm]."""
    answer = run / "alignment.root"
    if not answer.exists():
        alignnet("train", f"data.files=[{tracks}]", f"hydra.run.dir={run}", *ALIGN, *keys)
    detector = read_detector(tracks)
    off = (read_alignment(answer, detector) - read_misalignment(tracks, detector))[:, :3]
    layer, cm = detector.layer, 1e4
    whole = {f"left_{name}_um": rms(off[:, k]) * cm for k, name in enumerate("uvw")}
    return whole | {
        f"left_{name}_um/layer{n}": rms(off[layer == n, k]) * cm
        for n in detector.layers
        for k, name in enumerate("uvw")
    }


def rms(values: torch.Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean().sqrt())


def alignnet(*arguments: str) -> None:
    """Run a command."""
    print("alignnet", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "alignnet", *arguments], check=True)


if __name__ == "__main__":
    main()
