"""What may move, on the same tracks: rigid sensors, nine free numbers a sensor, one field for the detector.

    python benchmarks/parametrisations.py OUT [--experiment its2_demo] [key=value ...]

runs `alignnet train experiment=…` three times, each into a folder of OUT, and prints a table in Markdown
(docs/results.md): the last epoch's χ²/ndf on the tracks that were trained on and that of the others, what is
left of the misalignment, r.m.s. over inner and outer layers (rigid motions and weak modes removed), and the
DCA at 0.8–1.2 GeV/c against that at the true places. Other keys go to all three. What is done is not done
again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KINDS = {
    "rigid": [],
    "affine": ["sensors.parametrisation=affine", "optimizer.sensor_prior=null"],
    "field": [
        "sensors.parametrisation=field",
        "optimizer=adam",
        "data.batch_size=500",
        "trainer.max_epochs=30",
    ],
}
INNER, OUTER = ("layer0", "layer1", "layer2"), ("layer3", "layer4", "layer5", "layer6")
HEAD = (
    "parametrisation", "CPU min", "χ²/ndf, trained on", "others: before", "after", "true places",
    "left in layers 0–2, u / v / w [µm]", "in layers 3–6", "mean DCA_xy − ideal [µm]", "its width / ideal",
)  # fmt: skip


def main() -> None:
    """Train what has not been trained, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--experiment", default="its2_demo")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    rows = [trained(given.out / kind, kind, given.experiment, given.overrides) for kind in KINDS]
    print("|".join(("", *HEAD, "")), "|".join(("", *["---"] * len(HEAD), "")), sep="\n")
    for kind, metrics in zip(KINDS, rows, strict=True):
        if kind == "rigid":
            print("|".join(("", "before", "", "", *line(metrics, "before")[2:], "")))
        print("|".join(("", kind, *line(metrics, "after"), "")))


def trained(folder: Path, kind: str, experiment: str, overrides: list[str]) -> dict[str, Any]:
    """metrics.json of a training, with its CPU time."""
    path, spent = folder / "metrics.json", folder / "cpu.json"
    if not (path.is_file() and spent.is_file()):
        before = os.times()
        keys = [f"experiment={experiment}", *KINDS[kind], f"hydra.run.dir={folder}", *overrides]
        command = [sys.executable, "-m", "alignnet", "train", *keys, "require_convergence=false"]
        subprocess.run(command, check=True)
        after = os.times()
        seconds = after.children_user - before.children_user
        spent.write_text(json.dumps(seconds + after.children_system - before.children_system))
    metrics: dict[str, Any] = json.loads(path.read_text()) | {"cpu_seconds": json.loads(spent.read_text())}
    return metrics


def line(metrics: dict[str, Any], which: str) -> tuple[str, ...]:
    """The cells of a row but the first: of the answer, or of the places before."""
    dca = metrics["dca"][which]
    k = dca["pt_low"].index(0.8)
    return (
        f"{metrics['cpu_seconds'] / 60:.1f}",
        f"{metrics['history'][-1]['train/chi2_per_ndf']:.3f}",
        f"{metrics['chi2_per_ndf_before']:.2f}",
        f"{metrics['chi2_per_ndf']:.3f}" if which == "after" else "",
        f"{metrics['chi2_per_ndf_ideal']:.3f}",
        left(metrics["truth"], INNER, which),
        left(metrics["truth"], OUTER, which),
        f"{dca['mean_difference_xy_um'][k]:.2f} ± {dca['mean_difference_error_xy_um'][k]:.2f}",
        f"{dca['width_ratio_xy'][k]:.3f} ± {dca['width_ratio_error_xy'][k]:.3f}",
    )


def left(truth: dict[str, Any], layers: tuple[str, ...], which: str) -> str:
    """R.m.s. over some layers, along u, v and w."""
    cells = []
    for name in "uvw":
        squares = [truth[layer][name][f"{which}_um"] ** 2 for layer in layers]
        cells.append(f"{(sum(squares) / len(squares)) ** 0.5:.3g}")
    return " / ".join(cells)


if __name__ == "__main__":
    main()
