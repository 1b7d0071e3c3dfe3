"""An exactly linear alignment problem of any size, as Mille files with known truth.

Seven barrel layers with the radii of ITS2 and its numbers of chips, scaled; tracks from a luminous region of
σ = 5 cm with d0, φ0, curvature, z0 and tan λ to be fitted, nothing known of the vertex; hits of 5 µm; sensors
off by 30 µm and 1 mrad. Constraints hold at their true values the rigid motions of the whole and what is a
change of d0, curvature or tan λ of all tracks: turns that are the same or grow with r², and a telescope.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignnet.data.mille import MilleRecords
from alignnet.data.mille_write import MilleWriter
from alignnet.data.tracks import Array

LAYERS = (
    (2.34, 12, 9), (3.15, 16, 9), (3.93, 20, 9), (19.6, 48, 56), (24.55, 60, 56), (34.39, 84, 98),
    (39.34, 96, 98),
)  # fmt: skip
"""Radius [cm], sensors around and along."""

SIGMA, SHIFT, TURN = 5e-4, 30e-4, 1e-3
CHUNK = 50_000


@dataclass(frozen=True)
class Barrel:
    """Sensors of all layers, one after the other: place (sensors, 3) [cm], azimuth (sensors,)."""

    shape: list[tuple[float, float, int, int, int]]  # radius, half length, around, along, first sensor
    place: Array
    azimuth: Array

    @staticmethod
    def of(sensors: int) -> Barrel:
        """About so many sensors."""
        scale, shape, place, azimuth, first = np.sqrt(sensors / 24120), [], [], [], 0
        for radius, around, along in LAYERS:
            n, m = max(4, round(around * scale)), max(1, round(along * scale))
            half = 1.3 * radius + 4  # tracks beyond it count for the last sensor
            phi, z = np.meshgrid(
                2 * np.pi * (np.arange(n) + 0.5) / n, half * ((2 * np.arange(m) + 1) / m - 1)
            )
            phi, z = phi.T.ravel(), z.T.ravel()
            shape.append((radius, half, n, m, first))
            place.append(np.stack([radius * np.cos(phi), radius * np.sin(phi), z], -1))
            azimuth.append(phi)
            first += n * m
        return Barrel(shape, np.concatenate(place), np.concatenate(azimuth))

    def __len__(self) -> int:
        return len(self.place)

    def unseen(self) -> Array:
        """Sensors' motions in (u, v, w, three rotations) that tracks do not feel (9, sensors, 6)."""
        u = np.stack([-np.sin(self.azimuth), np.cos(self.azimuth), 0 * self.azimuth], -1)
        v = np.broadcast_to([0.0, 0.0, 1.0], u.shape)
        axes = np.stack([u, v, np.cross(u, v)], 1)
        motions = np.zeros((9, len(self), 6))
        radius = np.hypot(*self.place[:, :2].T)
        motions[6, :, 0], motions[7, :, 0], motions[8, :, 1] = 1.0, radius**2 / 1600, radius / 40
        for k, unit in enumerate(np.eye(3)):
            motions[k, :, :3] = axes @ unit
            motions[3 + k, :, :3] = np.einsum("sij,sj->si", axes, np.cross(unit, self.place)) / 40
            motions[3 + k, :, 3:] = axes @ unit / 40
        return motions


def hits(barrel: Barrel, n: int, draw: np.random.Generator) -> tuple[Array, Array, Array]:
    """Sensors (n, 7) and derivatives of u and v by (u, v, w, rotations) and by the five track parameters."""
    pt = np.minimum(0.3 * draw.random(n) ** (-1 / 1.5), 20)[:, None]
    curvature = 0.0015 / pt * draw.choice([-1, 1], (n, 1))
    phi0, z0 = 2 * np.pi * draw.random((n, 1)), draw.normal(0, 5, (n, 1)).clip(-7, 7)
    slope = np.sinh(draw.uniform(-1.2, 1.2, (n, 1)))
    r = np.array([layer[0] for layer in barrel.shape])
    phi, z = phi0 + curvature * r / 2, z0 + slope * r
    columns = [
        first + np.mod(phi[:, k] / (2 * np.pi) * around, around).astype(int) * along
        + ((z[:, k] + half) / (2 * half) * along).astype(int).clip(0, along - 1)
        for k, (_, half, around, along, first) in enumerate(barrel.shape)
    ]  # fmt: skip
    sensor = np.stack(columns, 1)
    away = np.remainder(phi - barrel.azimuth[sensor] + np.pi, 2 * np.pi) - np.pi
    u, v = r * np.tan(away), z - barrel.place[sensor][..., 2]
    tu, tv = np.tan(away + curvature * r / 2), slope * np.ones_like(r)
    o = np.zeros_like(u)
    own = np.stack([
        np.stack([-1 + o, o, tu, tu * v, -tu * u, v], -1), np.stack([o, -1 + o, tv, tv * v, -tv * u, -u], -1)
    ], 2)  # fmt: skip
    track = np.stack([
        np.stack([1 + o, r + o, r**2 / 200 + o, o, o], -1), np.stack([o, o, o, 1 + o, r + o], -1)
    ], 2)  # fmt: skip
    return sensor, own, track


def records(barrel: Barrel, truth: Array, n: int, draw: np.random.Generator) -> MilleRecords:
    """n tracks with noise, y = measured − predicted."""
    sensor, own, track = hits(barrel, n, draw)
    y = np.einsum("tlkp,tlp->tlk", own, truth[sensor]) + draw.normal(0, SIGMA, own.shape[:3])
    label = np.broadcast_to(1 + 6 * sensor[..., None, None] + np.arange(6), own.shape)
    local = np.broadcast_to(np.arange(1, 6), track.shape)
    used, seen = own != 0, track != 0
    return MilleRecords(
        record_offset=np.arange(n + 1) * 14,
        y=y.ravel(),
        sigma=np.full(y.size, SIGMA),
        local_offset=np.concatenate([[0], np.cumsum(seen.sum(-1).ravel())]),
        local_index=local[seen],
        local_value=track[seen],
        global_offset=np.concatenate([[0], np.cumsum(used.sum(-1).ravel())]),
        global_label=label[used],
        global_value=own[used],
    )


def write(folder: Path, sensors: int, tracks: int, seed: int = 1) -> Array:
    """Mille file and steering text in a folder; returns the truth (sensors, 6)."""
    draw, barrel = np.random.default_rng(seed), Barrel.of(sensors)
    truth = draw.normal(size=(len(barrel), 6)) * np.repeat([SHIFT, TURN], 3)
    seen = np.zeros(len(barrel), dtype=bool)
    with MilleWriter(folder / "tracks.bin") as writer:
        for first in range(0, tracks, CHUNK):
            some = records(barrel, truth, min(CHUNK, tracks - first), draw)
            seen[(some.global_label - 1) // 6] = True
            writer.append(some)
    lines = ["Cfiles", "tracks.bin", "hugecut 1e7", "entries 10"]
    for motion in barrel.unseen() * seen[:, None]:
        factors = (f"{i + 1} {x:.17g}" for i, x in enumerate(motion.ravel()) if x != 0)
        lines += [f"Constraint {(motion * truth).sum():.17g}", *factors]
    (folder / "steer.txt").write_text("\n".join([*lines, "end", ""]))
    return truth
