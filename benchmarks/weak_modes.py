"""Which data cure which weak mode of ITS2: all nine at once, by collisions alone and with another set beside.

    python benchmarks/weak_modes.py [--events 4000] [--amplitude 50] [--out weak_modes.json]

Every chip is where nine weak modes of the same amplitude [µm at the edge] put it. Staves and modules move,
each with a prior of 2 mm and 20 mrad, which says next to nothing; one Gauss–Newton step an epoch, as in
`alignnet train`. Prints for each set the part of each mode that was found, and what is left ± its expected
error. A mode whose expected error is above a tenth of the amplitude is marked "?": the data do not see it,
whatever the fraction is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from alignnet import GaussNewton, HelixChi2, SensorLayer, Simulation, its2
from alignnet.data.decay_source import TwoBodyDecays
from alignnet.data.event_table import Events
from alignnet.data.sources import Cosmics, ParticleGun, Source
from alignnet.data.tracks import Tracks
from alignnet.errors import ConvergenceError
from alignnet.evaluation.mode_recovery import ModeRecovery, mode_recoveries
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import Composed, WeakMode
from alignnet.geometry.volumes import Volumes
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.loss.survey import Survey
from alignnet.loss.terms import Terms
from alignnet.solvers.linearised import linearise

MODES = (
    "radial", "curl", "telescope", "elliptical", "clamshell", "skew", "bowing", "twist", "z_expansion",
)  # fmt: skip
PRIOR = {"translation": 0.2, "rotation": 0.02}
JPSI = TwoBodyDecays(3.0969, 0.0, 0.0, (0.1056583755,) * 2, (-13, 13), pt_min=0.5, pt_max=10.0)

Sample = tuple[HelixChi2, Events]


def samples(detector: Detector, truth: Tensor, n: int) -> dict[str, list[Sample]]:
    """Each set as costs and events, by name; n collisions of 8 tracks, 4 n of what has one or two."""
    off = replace(detector, b_z=0.0)

    def made(source: Source, where: Detector, events: int, seed: int) -> Events:
        tracks: Tracks = Simulation(source, where, truth, seed=seed).generate(events)
        return Events(tracks, where)

    def cost(where: Detector, vertex: str) -> HelixChi2:
        return HelixChi2(where, vertex=vertex, normalisation="total")

    gun = ParticleGun(pt_min=0.5, pt_max=5.0)
    collisions, k0s = made(gun, detector, n, 1), TwoBodyDecays()
    return {
        "collisions": [(cost(detector, "absent"), collisions)],
        "vertex": [(cost(detector, "given"), collisions)],
        "field off": [(cost(off, "given"), made(gun, off, n, 2))],
        "cosmics": [(cost(detector, "absent"), made(Cosmics(), detector, 4 * n, 3))],
        "cosmics, off": [(cost(off, "absent"), made(Cosmics(), off, 4 * n, 4))],
        "K0S": [(DecayChi2(detector, k0s.mass, 1e-5, normalisation="total"), made(k0s, detector, 4 * n, 5))],
        "J/psi": [
            (DecayChi2(detector, JPSI.mass, 1e-4, normalisation="total"), made(JPSI, detector, 4 * n, 6))
        ],
    }


def survey_of(detector: Detector, truth: Tensor, folder: Path, sigma: float = 10e-4) -> Survey:
    """Three coordinates of every stave, measured to `sigma` [cm]."""
    lines = [
        f"{name},{dof},0,{sigma}"
        for name in Volumes.of(detector, "stave").names
        for dof in ("du", "dv", "dw")
    ]
    (folder / "survey.csv").write_text("\n".join(["name,dof,value,sigma", *lines]))
    survey = Survey(detector, folder / "survey.csv")
    survey.value.copy_(survey(truth) * sigma)  # what a surveyor finds
    noise = torch.randn(len(lines), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    survey.value.add_(sigma * noise)
    return survey


def aligned(
    detector: Detector, truth: Tensor, sets: Sequence[Sample], terms: Terms, epochs: int
) -> tuple[list[ModeRecovery], list[int]]:
    """The modes after some steps, and the iterations of conjugate gradients that each took."""
    sensors = SensorLayer.of(detector)
    free = {"levels": {"stave": PRIOR, "module": PRIOR}, "schedule": [{"levels": ["stave", "module"]}]}
    optimizer = GaussNewton([sensors.theta], max_iterations=2000, **free)
    optimizer.attach(detector, sensors, terms)
    iterations = []
    for epoch in range(epochs + 1):
        for loss, events in sets:
            for first in range(0, len(events), 1000):
                batch = events.__getitems__(range(first, min(first + 1000, len(events))))
                for part in loss.parts(batch):
                    optimizer.add(linearise(loss, sensors, part))
        if epoch < epochs:
            optimizer.step()
            assert optimizer.report is not None
            iterations.append(optimizer.report.solution.iterations)
    return mode_recoveries(detector, sensors, optimizer.system(), sensors.local(), truth), iterations


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--events", type=int, default=4000, help="collisions of 8 tracks; of the others 4 times as many"
    )
    parser.add_argument("--amplitude", type=float, default=50.0, help="of each mode [µm]")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the table")
    options = parser.parse_args()
    detector, size = its2(b_z=0.5), options.amplitude * 1e-4
    truth = Composed([WeakMode(mode, size) for mode in MODES])(detector)
    table: dict[str, dict[str, list[float]]] = {}
    with TemporaryDirectory() as folder:
        made = samples(detector, truth, options.events)
        surveyed = Terms({"survey": survey_of(detector, truth, Path(folder))})
        first = made["collisions"]
        runs = {name: ((first if name != "vertex" else []) + sets, Terms()) for name, sets in made.items()}
        runs["collisions"] = (first, Terms())
        runs["survey"] = (first, surveyed)
        runs["all"] = ([one for name, sets in made.items() if name != "collisions" for one in sets], surveyed)
        for name, (sets, terms) in runs.items():
            start = time.perf_counter()
            try:
                found, iterations = aligned(detector, truth, sets, terms, options.epochs)
            except ConvergenceError as error:
                print(f"{name}: {error}")
                continue
            print(f"{name}: {time.perf_counter() - start:.0f} s, iterations {iterations}", flush=True)
            table[name] = {}
            for one in found:
                if one.name.removesuffix("_cos") not in MODES:
                    continue
                mark = " " if one.visible(0.1 * size) else "?"
                left, error = (one.found - one.true) * 1e4, one.error * 1e4
                print(
                    f"  {one.name:16s}{one.fraction:8.3f}{mark}   left {left:8.2f} ± {error:6.2f} µm",
                    flush=True,
                )
                table[name][one.name] = [one.fraction, left, error]
            if options.out is not None:
                options.out.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
