"""Which data cure which weak mode of ITS2: all nine at once, by collisions alone and with another set beside.

    python benchmarks/weak_modes.py [--events 10000] [--amplitude 50] [--out weak_modes.json]

Nine weak modes of the same amplitude [µm at the edge] have moved the staves of the inner and the modules of
the outer barrel, which keep their shape. These 1,752 bodies are free, with a prior of 5 mm and 50 mrad each,
which says next to nothing. One Gauss–Newton step from the drawing, on the sum of the sets' linear systems,
each made once. For every mode what is left ± its expected error, and the verdict of
`alignnet.evaluation.weak_modes`, which knows the errors only, not the truth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from alignnet import GaussNewton, HelixChi2, SensorLayer, Simulation, its2
from alignnet.data.batch import Batch
from alignnet.data.decay_source import TwoBodyDecays
from alignnet.data.event_table import Events
from alignnet.data.sources import Cosmics, ParticleGun, Source
from alignnet.evaluation.weak_modes import mode_metrics
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import Composed, WeakMode
from alignnet.geometry.stiff import Stiff
from alignnet.geometry.weak_modes import WEAK_MODES
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.loss.mass_scale import mass_scale
from alignnet.loss.survey import Survey
from alignnet.loss.terms import Terms
from alignnet.solvers.assembled import AssembledProblem
from alignnet.solvers.constrained import minimised
from alignnet.solvers.linearised import linearise
from alignnet.training.uncertainty import Uncertainty
from alignnet.units import UM

FREE = {"levels": {"module": {"translation": 0.5, "rotation": 0.05}}, "schedule": [{"levels": ["module"]}]}
GUN = ParticleGun(pt_min=3.0, pt_max=20.0)
MUONS = Cosmics(p_min=10.0)
K0S = TwoBodyDecays(pt_min=1.0)
JPSI = TwoBodyDecays(3.0969, 0.0, 0.0, (0.1056583755,) * 2, (-13, 13), pt_min=3.0, pt_max=20.0)
SURVEYED = {"du": 10 * UM, "dv": 10 * UM, "dw": 10 * UM, "rot_w": 20e-6}
"""How well a survey knows the staves of layers 3 and 6 [cm, rad]."""


class Bench:
    """Data sets, and the linear system of each at the drawing.

    Args:
        detector: the nominal places, with a field.
        truth: the true ones (sensors, 6).
        events: collisions of 8 tracks; four times as many cosmic rays, a quarter as many decays.
    """

    def __init__(self, detector: Detector, truth: Tensor, events: int) -> None:
        self.detector, self.off, self.truth = detector, replace(detector, b_z=0.0), truth
        self.events, self.sensors = events, SensorLayer.of(detector)
        self.systems: dict[str, AssembledProblem] = {}

    def add_all(self) -> None:
        """Simulate each set and linearise it."""
        n = self.events
        self.add("collisions", GUN, self.detector, n, 1, "absent")
        self.add("vertex", GUN, self.detector, n, 1, "given")
        self.add("field off", GUN, self.off, n, 2, "given")
        self.add("cosmics", MUONS, self.detector, 4 * n, 3, "absent")
        self.add("cosmics, off", MUONS, self.off, 4 * n, 4, "absent")
        self.add_decays("K0S", K0S, 1e-5, 5)
        self.add_decays("J/psi", JPSI, 1e-4, 6)

    def add(self, name: str, source: Source, where: Detector, n: int, seed: int, vertex: str) -> None:
        """A set of single tracks."""
        loss = HelixChi2(where, vertex=vertex, normalisation="total")
        self._linearised(name, loss, self._batches(source, where, n, seed, self.truth))

    def add_decays(self, name: str, source: TwoBodyDecays, width: float, seed: int) -> None:
        """A set of decays; the mass is that of four times as many in a perfect detector."""
        n = self.events // 4
        loss = DecayChi2(self.detector, source.mass, width, normalisation="total")
        perfect = self._batches(source, self.detector, 4 * n, seed + 100, torch.zeros_like(self.truth))
        found = mass_scale(loss, self.sensors, perfect)
        print(f"{name}: found at {found.mass:.6f} ± {found.error:.6f} GeV/c², true {source.mass}", flush=True)
        loss.mass = found.mass
        self._linearised(name, loss, self._batches(source, self.detector, n, seed, self.truth))

    def _batches(self, source: Source, where: Detector, n: int, seed: int, places: Tensor) -> Iterator[Batch]:
        for tracks in Simulation(source, where, places, seed=seed).chunks(n, 2000):
            events = Events(tracks, where)
            yield events.__getitems__(range(len(events)))

    def _linearised(self, name: str, loss: HelixChi2, batches: Iterator[Batch]) -> None:
        start, system = time.process_time(), AssembledProblem(self.sensors)
        n_tracks = 0
        for batch in batches:
            n_tracks += batch.n_tracks
            for part in loss.parts(batch):
                system.add(linearise(loss, self.sensors, part))
        self.systems[name] = system
        print(f"{name}: {n_tracks} tracks, {time.process_time() - start:.0f} s", flush=True)

    def modes(self, names: list[str], terms: Terms) -> dict[str, Any]:
        """The modes after a step on some sets and terms."""
        optimizer = GaussNewton([self.sensors.theta], **FREE)
        optimizer.attach(self.detector, self.sensors, terms)
        problem = AssembledProblem.sum_of(self.sensors, [self.systems[name] for name in names])
        hierarchy, inverse = optimizer.system(problem)
        start = torch.zeros_like(self.truth)
        step = minimised(hierarchy, -hierarchy.collect(hierarchy.gradient(start)), inverse, 1e-6, 200)
        aligned = torch.ones(len(self.detector), dtype=torch.bool)
        errors = Uncertainty(weak_modes=True).modes((hierarchy, inverse), self.detector, aligned)
        assert errors is not None
        answer = hierarchy.expand(step.x)
        modes: dict[str, Any] = mode_metrics(self.detector, errors, start, answer, self.truth)["modes"]
        return modes


def of_bodies(detector: Detector) -> Detector:
    """The same with each inner stave, which has no modules, as one, so that a level has all stiff bodies."""
    inner = "/ITSUModule0/ITSUChip"
    names = (n if "ITSUModule" in n else n.replace("/ITSUChip", inner) for n in detector.names)
    return replace(detector, names=tuple(names))


def survey_of(detector: Detector, truth: Tensor, folder: Path) -> Terms:
    """The staves of layers 3 and 6 as a surveyor finds them."""
    staves = sorted({name.split("/ITSUHalfStave")[0] for name in detector.names if name.startswith(
        ("ITS/ITSULayer3/", "ITS/ITSULayer6/"))})  # fmt: skip
    lines = [f"{name},{dof},0,{sigma}" for name in staves for dof, sigma in SURVEYED.items()]
    (folder / "survey.csv").write_text("\n".join(["name,dof,value,sigma", *lines]))
    survey = Survey(detector, folder / "survey.csv")
    noise = torch.randn(len(lines), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    survey.value.copy_(survey.sigma * (survey(truth) + noise))
    return Terms({"survey": survey})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--events",
        type=int,
        default=10_000,
        help="collisions of 8 tracks; 4 times as many cosmic rays, a quarter as many decays",
    )
    parser.add_argument("--amplitude", type=float, default=50.0, help="of each mode [µm]")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the table")
    options = parser.parse_args()
    detector, size = of_bodies(its2(b_z=0.5)), options.amplitude * UM
    truth = Stiff(Composed([WeakMode(mode, size) for mode in WEAK_MODES]), ["module"])(detector)
    bench = Bench(detector, truth, options.events)
    bench.add_all()
    with TemporaryDirectory() as folder:
        survey = survey_of(detector, truth, Path(folder))
    others = [name for name in bench.systems if name not in ("collisions", "vertex")]
    runs = {"collisions": (["collisions"], Terms()), "vertex": (["vertex"], Terms())}
    runs |= {name: (["collisions", name], Terms()) for name in others}
    runs |= {"survey": (["collisions"], survey), "all": (["vertex", *others], survey)}
    table: dict[str, Any] = {}
    for name, (sets, terms) in runs.items():
        start = time.process_time()
        table[name] = bench.modes(sets, terms)
        print(f"{name}: {time.process_time() - start:.0f} s", flush=True)
        for mode, row in table[name].items():
            left, sigma = -row["residual_um"], row["sigma_um"] or float("inf")
            print(f"  {mode:22s}{left:9.2f} ± {sigma:7.2f} µm  {row['verdict']}", flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(table, indent=1))
    print(f"{time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
