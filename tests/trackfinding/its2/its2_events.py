"""Small simulated events in ITS2 to find tracks in."""

from __future__ import annotations

from typing import Any

import torch

from alignnet.data.sources import ParticleGun
from alignnet.geometry.its2 import its2
from alignnet.trackfinding.its2.events import Events, SimulatedEvents

DETECTOR = its2()


def drawn(n_tracks: int, seed: int = 1, n_events: int = 1, **options: Any) -> Events:
    """Events of so many tracks; noise and inefficiency as `options` say."""
    source = SimulatedEvents((n_tracks,), **options)
    return source.draw(n_events, torch.Generator().manual_seed(seed))


def separated(n_tracks: int = 30) -> Events:
    """One event of fast tracks, with all their hits and without noise."""
    gun = ParticleGun(pt_min=1.0, eta_max=0.6, vertex_resolution=None, vertex_sigma=(0.0, 0.0, 2.0))
    return drawn(n_tracks, hit_efficiency=1.0, noise_per_sensor=0.0, gun=gun)
