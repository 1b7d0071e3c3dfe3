"""Detectors small enough for dense matrices, and exact or noisy tracks through them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch, collate, cylinders_of
from alignnet.data.simulate import Simulation
from alignnet.data.sources import Beam, Cosmics, ParticleGun, Source
from alignnet.data.tracks import Tracks, concatenate
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector, Scatterers
from alignnet.geometry.its2 import its2
from alignnet.geometry.telescope import telescope
from alignnet.physics.helix import Helix, from_momentum

QUIET = {"scattering": False, "energy_loss": False, "smearing": False, "hit_efficiency": 1.0}

COLUMNS = ("sensor_id", "layer", "rotation", "translation", "half", "centre", "x_over_x0", "curvature_radius")
"""The tensors of a detector that have a row for each sensor."""


def double(*values: float) -> Tensor:
    """Numbers as a tensor in double precision."""
    return torch.tensor(values, dtype=torch.float64)


def barrel(
    radii: tuple[float, ...] = (2.5, 4.0, 7.0, 11.0),
    staves: int = 6,
    chips: int = 1,
    b_z: float = 0.5,
    x_over_x0: float = 0.005,
) -> Detector:
    """Flat staves of `chips` sensors along z on each radius; neighbours overlap, layers are turned in φ."""
    rotation, translation, half, names, layers = [], [], [], [], []
    for layer, radius in enumerate(radii):
        half_u, half_v = 1.15 * radius * math.tan(math.pi / staves), 2.0 + 0.8 * radius
        for stave in range(staves):
            azimuth = 2 * math.pi * (stave + 0.3 * layer) / staves
            outward = torch.tensor([math.cos(azimuth), math.sin(azimuth), 0.0], dtype=torch.float64)
            z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
            turn = torch.stack([torch.linalg.cross(-outward, z), -outward, z], -1)  # columns u, w, v
            for chip in range(chips):
                place = (radius + 0.1 * radius * (stave % 2)) * outward
                along = (2 * chip + 1 - chips) * half_v / chips
                rotation.append(turn)
                translation.append(place + along * z)
                half.append([half_u, half_v / chips])
                names.append(f"B/BLayer{layer}/BHalfBarrel{2 * stave // staves}/BStave{stave}/BChip{chip}")
                layers.append(layer)
    n = len(names)
    return Detector(
        name="small barrel",
        sensor_id=torch.arange(n),
        names=tuple(names),
        layer=torch.tensor(layers),
        rotation=torch.stack(rotation),
        translation=torch.stack(translation),
        half=torch.tensor(half, dtype=torch.float64),
        centre=torch.tensor([0.05, -0.02], dtype=torch.float64).repeat(n, 1),
        x_over_x0=torch.full((n,), x_over_x0, dtype=torch.float64),
        curvature_radius=torch.zeros(n, dtype=torch.float64),
        b_z=b_z,
    )


def planes(n: int = 6, b_z: float = 0.0, x_over_x0: float = 0.005) -> Detector:
    """Parallel planes across a beam along z."""
    return telescope([2.0 * i + 0.3 * (i % 2) for i in range(n)], 3.0, 3.0, x_over_x0, b_z)


def four_planes() -> Detector:
    """Four planes that differ in everything, identifiers out of order."""
    generator = torch.Generator().manual_seed(3)
    turn, place, centre = (torch.randn(4, k, generator=generator, dtype=torch.float64) for k in (3, 3, 2))
    return replace(
        telescope([0.0, 2.0, 4.0, 6.0], [1.0, 1.5, 2.0, 2.5], 0.7, [0.125, 0.25, 0.0, 0.5], b_z=-0.5),
        name="four planes",
        names=("box/upper/plane0", "box/upper/plane1", "box/lower/plane0", "box/lower/plane1"),
        sensor_id=torch.tensor([70, 3, 100, 42]),
        rotation=rigid.exp(turn),
        translation=place,
        centre=centre,
        curvature_radius=double(0, 1.8, 0, 2.4),
        scatterers=Scatterers(double(1.86, 25.0), double(44.4, 90.0), double(0.00227, 0.01)),
    )


def part_of(detector: Detector, rows: Tensor) -> Detector:
    """The detector of some sensors, in the order of these rows."""
    columns = {name: getattr(detector, name)[rows] for name in COLUMNS}
    return replace(detector, names=tuple(detector.names[i] for i in rows), **columns)


def inner_barrel() -> Detector:
    """The three inner layers of ITS2: 432 sensors."""
    full = its2()
    return part_of(full, (full.layer < 3).nonzero().squeeze(-1))


GUN = ParticleGun(n_tracks_per_event=4, pt_min=0.3, pt_max=3.0, eta_max=0.8, vertex_sigma=(0.02, 0.02, 1.0))
COSMICS = Cosmics(p_min=2.0, p_max=10.0, half_x=3.0, half_z=3.0, distance=40.0)
BEAM = Beam(momentum=3.0, divergence=0.1, spot=0.4, start_z=-1.0)


def simulated(
    detector: Detector, source: Source, n_events: int, misalignment: Tensor | None = None, **options: object
) -> Tracks:
    """Simulated tracks; without options, with all noise."""
    return Simulation(source, detector, misalignment, **options).generate(n_events)


def exact(detector: Detector, source: Source, n_events: int, seed: int = 0) -> Tracks:
    """Tracks without any noise in the perfect detector, their vertices the true ones."""
    tracks = simulated(detector, source, n_events, seed=seed, **QUIET)
    return tracks if tracks.vertex is None else replace(tracks, vertex=tracks.truth["position"].copy())


def mixed(first: Tracks, second: Tracks) -> Tracks:
    """Tracks of two sources as one table; the second has its events numbered after those of the first."""
    second = replace(second, event=second.event + first.event.max() + 1)
    vertex, cov = (np.zeros((len(second), k)) for k in (3, 6))
    cov[:, [0, 2, 5]] = 1.0
    return concatenate([first, replace(second, vertex=vertex, vertex_cov=cov)])


def batch_of(tracks: Tracks, detector: Detector) -> Batch:
    """All tracks as one batch."""
    return collate(tracks, detector, cylinders_of(detector))


def true_helix(tracks: Tracks, b_z: float) -> Helix:
    """The states in which particles were made."""
    position, momentum, charge = (torch.from_numpy(tracks.truth[k]) for k in ("position", "momentum", "q"))
    return from_momentum(position, momentum, charge.double(), b_z)


def random_local(n: int, shift: float = 0.01, turn: float = 1e-3, seed: int = 1) -> Tensor:
    """Local sixes with these r.m.s. [cm, rad]."""
    scale = torch.tensor([shift] * 3 + [turn] * 3, dtype=torch.float64)
    return scale * torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
