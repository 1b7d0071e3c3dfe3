"""What each thing that is not as the fit believes costs: lost and wrong hits, dead sensors, wrong physics.

    python benchmarks/robustness.py [--events 12000] [--seeds 1 2 3]

A part of ITS2 (all layers, a sixth of the azimuth, 12 cm along the beam) is simulated and aligned once for
each line, with the same particles, staves 30 µm and chips 10 µm off, these widths as priors. A table in
Markdown (docs/results.md) on standard output: r.m.s. to the truth of all aligned sensors, rigid motions and
weak modes removed, the statistical limit of that line's own data (what its fit believes), and the ratio to
the line "as simulated". Each line's keys are those of `alignnet simulate` and `alignnet train`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from alignnet.data.datamodule import to_device
from alignnet.data.dead import Dead
from alignnet.data.event_table import Events
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.geometry.misalign import Gaussian
from alignnet.geometry.recovery import Recovery, difference, displacement
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.hit_weights import HitWeights
from alignnet.loss.noise import NoiseModel
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.linearised import linearise
from alignnet.training.optim import GaussNewton
from alignnet.units import UM

LEVELS = {
    "stave": {"translation": 30e-4, "rotation": 0.1e-3},
    "sensor": {"translation": 10e-4, "rotation": 0.2e-3},
}
STEPS, DRAWS = 4, 8
COLUMNS = ("sensor_id", "layer", "rotation", "translation", "half", "centre", "x_over_x0", "curvature_radius")


@dataclass(frozen=True)
class Variation:
    """A line of the table: what is not as in the first one."""

    name: str
    simulation: dict[str, Any] = field(default_factory=dict)  # simulation.… of alignnet simulate
    noise: dict[str, Any] = field(default_factory=dict)  # loss.noise.… of alignnet train
    hit_weights: str = "none"  # loss.hit_weights.kind
    field_scale: float = 1.0  # detector.b_z of alignnet train, over that of the simulation


VARIATIONS = (
    Variation("as simulated"),
    Variation("hit efficiency 0.9", {"hit_efficiency": 0.9}),
    Variation("5 % of the sensors dead", {"dead": Dead(fractions={"sensor": 0.05})}),
    Variation("10 % of the staves dead", {"dead": Dead(fractions={"stave": 0.1})}),
    Variation("5 % wrong hits", {"outlier_fraction": 0.05}),
    Variation("5 % wrong hits, hit_weights.kind=cut", {"outlier_fraction": 0.05}, hit_weights="cut"),
    Variation("scattering budget 20 % too small", noise={"material_scale": 0.8}),
    Variation("scattering budget 20 % too large", noise={"material_scale": 1.2}),
    Variation("field 0.1 % too small", field_scale=0.999),
    Variation("field 0.1 % too large", field_scale=1.001),
    Variation("2 % of the hits 5 times wider", {"hit_tail": 0.02}),
    Variation("2 % of the kinks 5 times larger", {"scattering_tail": 0.02}),
    Variation("both, hit_weights.kind=cut", {"hit_tail": 0.02, "scattering_tail": 0.02}, hit_weights="cut"),
)


def part_of_its2() -> Detector:
    """Its sensors within 60° and ± 6 cm."""
    full = its2()
    x, y, z = full.translation.unbind(-1)
    rows = ((torch.atan2(y, x).abs() < torch.pi / 6) & (z.abs() < 6)).nonzero().squeeze(-1)
    names = (
        "sensor_id",
        "layer",
        "rotation",
        "translation",
        "half",
        "centre",
        "x_over_x0",
        "curvature_radius",
    )
    columns = {name: getattr(full, name)[rows] for name in names}
    return replace(full, names=tuple(full.names[i] for i in rows.tolist()), **columns)


@dataclass(frozen=True)
class Found:
    """The answer of a variation."""

    chi2_per_ndf: float
    left: torch.Tensor  # mean square displacement to the truth along u, v, w of all sensors [cm²]
    limit: torch.Tensor  # that of draws
    n_aligned: int


def aligned(detector: Detector, one: Variation, n_events: int, seed: int) -> Found:
    """Simulate and align."""
    truth = Gaussian(LEVELS, seed=seed)(detector)
    gun = ParticleGun(pt_min=0.5, eta_max=0.3, vertex_sigma=(50e-4, 50e-4, 1.0))
    tracks = Simulation(gun, detector, truth, seed=seed, min_hits=4, **one.simulation).generate(n_events)
    believed = replace(detector, b_z=detector.b_z * one.field_scale)
    weights = HitWeights(kind=one.hit_weights)
    loss = HelixChi2(
        believed, NoiseModel(believed, **one.noise), "given", normalisation="total", hit_weights=weights
    )
    sensors, events = SensorLayer.of(believed), Events(tracks, believed)
    prior = {name: value for name, value in LEVELS.items() if name != "sensor"}
    solver = GaussNewton([sensors.theta], levels=prior, sensor_prior=LEVELS["sensor"])
    solver.attach(believed, sensors)
    for _ in range(STEPS):
        _linearised(solver, loss, sensors, events)
        solver.step()
    chi2 = _linearised(solver, loss, sensors, events)
    system = solver.system()
    used = system[0].problem.hits() >= solver.min_hits
    draws = [displacement(detector, solver.error_draw(system, k)) for k in range(DRAWS)]
    recovery = Recovery(detector, used)
    left = _mean_square(recovery, difference(sensors.local(), truth, detector), detector)
    limit = torch.stack([_mean_square(recovery, draw, detector) for draw in draws]).mean(0)
    return Found(chi2, left, limit, int(used.sum()))


def _linearised(solver: GaussNewton, loss: HelixChi2, sensors: SensorLayer, events: Events) -> float:
    """Add all tracks to the next step; their χ²/ndf."""
    total = torch.zeros(2, dtype=torch.float64)
    for rows in np.split(np.arange(len(events)), range(1000, len(events), 1000)):
        batch = to_device(events.__getitems__(rows.tolist()), sensors.theta.device)
        with torch.no_grad():
            total += torch.stack([part.sum() for part in loss(sensors, batch).per_event()])
        for part in loss.parts(batch):
            solver.add(linearise(loss, sensors, part))
    return float(total[0] / total[1])


def _mean_square(recovery: Recovery, moved: torch.Tensor, detector: Detector) -> torch.Tensor:
    """Over all sensors, along u, v, w (3,) [cm²]."""
    layers = recovery.per_layer(moved)
    count = torch.bincount(detector.layer)
    sums = sum(torch.tensor(values) ** 2 * float(count[layer]) for layer, values in layers.items())
    return torch.as_tensor(sums) / float(sum(count[layer] for layer in layers))


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=12_000, help="of eight particles each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of particles and places")
    options = parser.parse_args()
    detector = part_of_its2()
    print(f"{len(detector)} sensors, {options.events} events, seeds {options.seeds}\n")
    print("| | sensors aligned | χ²/ndf | left u, v, w [µm] | limit u, v, w [µm] | left / as simulated |")
    print("|---|---|---|---|---|---|", flush=True)
    reference = None
    for one in VARIATIONS:
        found = [aligned(detector, one, options.events, seed) for seed in options.seeds]
        left, limit = (
            torch.stack([getattr(f, name) for f in found]).mean(0).sqrt() / UM for name in ("left", "limit")
        )
        reference = left if reference is None else reference
        ratio = float((left.square().sum() / reference.square().sum()).sqrt())
        chi2 = np.mean([f.chi2_per_ndf for f in found])
        n = np.mean([f.n_aligned for f in found])
        numbers = [" / ".join(f"{x:.2f}" for x in three.tolist()) for three in (left, limit)]
        print(
            f"| {one.name} | {n:.0f} | {chi2:.3f} | {numbers[0]} | {numbers[1]} | {ratio:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
