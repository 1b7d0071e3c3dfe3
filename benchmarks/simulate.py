"""How fast tracks are simulated, with everything switched on, and what matter costs.

    python benchmarks/simulate.py [--events 12500] [--threads 1]

Prints seconds, tracks per second and the time as a part of a minute per 100,000 tracks, for collisions and
cosmic muons in ITS2 and for a beam in a telescope; then the ratio of the times with and without matter.
"""

from __future__ import annotations

import argparse
import time

import torch

from alignnet.data.memory import peak_memory_mb
from alignnet.data.simulate import Simulation
from alignnet.data.sources import Beam, Cosmics, ParticleGun, Source
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.geometry.telescope import telescope

MINUTE_PER_100K = 60 / 100_000
"""What a simulation may take at most [s a track]."""


def seconds(source: Source, detector: Detector, n_events: int, matter: bool = True) -> tuple[float, int, int]:
    """Time of a simulation in chunks, its tracks and its hits."""
    simulation = Simulation(source, detector, scattering=matter, energy_loss=matter)
    simulation.chunk(0, 10)  # warm up
    begin = time.perf_counter()
    n_tracks = n_hits = 0
    for chunk in simulation.chunks(n_events):
        n_tracks, n_hits = n_tracks + len(chunk), n_hits + chunk.n_hits
    return time.perf_counter() - begin, n_tracks, n_hits


def main() -> None:
    """Measure and print one line a source."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=12_500, help="8 tracks each; cosmics 1")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    barrel, planes = its2(), telescope([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], 1.5, 1.5, x_over_x0=0.005)
    cases = (
        ("collisions in ITS2", ParticleGun(), barrel),
        ("cosmics in ITS2", Cosmics(), barrel),
        ("beam in a telescope", Beam(n_tracks_per_event=8), planes),
    )
    print(f"{'':22}{'tracks':>9}{'hits':>10}{'s':>8}{'tracks/s':>11}{'of a minute/100k':>18}")
    for name, source, detector in cases:
        taken, n_tracks, n_hits = seconds(source, detector, arguments.events)
        part = taken / n_tracks / MINUTE_PER_100K
        print(f"{name:22}{n_tracks:9}{n_hits:10}{taken:8.2f}{n_tracks / taken:11.0f}{part:17.1%}")
    n_events = min(arguments.events, 4000)
    ratio = seconds(ParticleGun(), barrel, n_events)[0] / seconds(ParticleGun(), barrel, n_events, False)[0]
    print(f"with matter / without: {ratio:.2f}")
    print(f"peak memory {peak_memory_mb():.0f} MiB")


if __name__ == "__main__":
    main()
