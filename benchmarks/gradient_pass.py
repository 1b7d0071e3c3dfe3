"""How fast a pass over stored tracks is: a fit step, χ², and its gradient scattered to the sensors.

    python benchmarks/gradient_pass.py [--tracks 200000] [--repeat 5] [--threads 2] [--json [PATH]]

Simulates tracks of seven hits in a misaligned ITS2, fits them once and packs them into stores on disk, of
which one is mapped at a time. Then, on the same tracks at the same states:

* fused: `GradientPass` over all stores, Θ moved by about 1 µm before each pass;
* eager: one step of `HelixChi2.refit` by tensors, χ² by `HelixChi2.at`, and its gradient in Θ, in float64, in
  batches of 8192 tracks, with one thread and with as many as the kernels have: the faster counts.

Prints tracks per second of both (wall and CPU time; medians), their ratio, the largest difference of a
residual [µm] and the relative one of the gradient, what the parts take, and the bytes and floating-point
operations of a track beside what this machine copies.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from alignnet.data.batch import Batch, collate, cylinders_of
from alignnet.data.memory import peak_memory_mb
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.loss import gradient_kernels as kernels
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.loss.gradient_pass import GradientPass
from alignnet.loss.lane_kernels import LANES, compiled
from alignnet.loss.noise import NoiseModel
from alignnet.loss.track_store import TrackStore
from alignnet.sensors.sensor import SensorLayer

N_HITS = 7
STORE = 131_072  # tracks of a store
EAGER = 8192  # tracks of a batch of the eager path
MOVE = torch.tensor([1e-4] * 3 + [1e-5] * 3, dtype=torch.float64)  # of Θ before a pass [cm, rad]

_CROSSING, _MEET, _FORCES, _ROWS, _SOLVE = 77, 38, 16, 202, 190
"""Floating-point operations of `lane_kernels`, counted in its lines: four of a plane, the last of a track."""


class Sample(NamedTuple):
    """What both paths work on."""

    sensors: SensorLayer
    loss: HelixChi2
    folders: list[Path]
    batch: Batch  # some of the tracks, as tensors
    n_tracks: int

    def stores(self) -> Iterator[TrackStore]:
        """The stores, one in memory at a time."""
        return (TrackStore.open(folder) for folder in self.folders)


class Speed(NamedTuple):
    """Medians over repetitions, and the best of them: what others on the machine took is not in it."""

    best: float
    per_second: float
    per_cpu_second: float
    cpu_seconds: float


def batches(detector: Detector, n_tracks: int) -> Iterator[Batch]:
    """Tracks of seven hits in a detector whose sensors are 20 µm and 0.2 mrad off."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([2e-3] * 3 + [2e-4] * 3, dtype=torch.float64)
    local = scale * torch.randn(len(detector), 6, generator=generator, dtype=torch.float64)
    simulation, cylinders = Simulation(ParticleGun(), detector, local, seed=1), cylinders_of(detector)
    left, chunk = n_tracks, 0
    while left > 0:
        tracks = simulation.chunk(chunk, 2000)
        rows = np.flatnonzero(tracks.hits_per_track == N_HITS)[:left]
        yield collate(tracks.select(rows), detector, cylinders)
        left, chunk = left - len(rows), chunk + 1


def prepare(folder: Path, n_tracks: int) -> Sample:
    """Simulate, fit, pack and save."""
    detector = its2()
    sensors, loss = SensorLayer.of(detector), HelixChi2(detector, NoiseModel(detector, "none"), "absent")
    waiting: list[TrackStore] = []
    folders: list[Path] = []
    first: Batch | None = None
    done = 0
    for batch in batches(detector, n_tracks):
        first = batch if first is None else first
        waiting.append(TrackStore.of(loss, sensors, batch))
        done += len(waiting[-1])
        if sum(len(store) for store in waiting) >= STORE or done >= n_tracks:
            folders.append(folder / str(len(folders)))
            TrackStore.joined(waiting).save(folders[-1])
            waiting = []
    assert first is not None
    total = sum(len(TrackStore.open(folder)) for folder in folders)
    per_hit = {name: getattr(first, name)[:EAGER] for name in Batch._fields if name != "event_number"}
    return Sample(sensors, loss, folders, first._replace(**per_hit), total)


def speed(task: Callable[[], object], n_tracks: int, repeat: int) -> Speed:
    """Median speed of a task that takes so many tracks, after a first run that is not counted."""
    task()
    wall, cpu = [], []
    for _ in range(repeat):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        task()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    return Speed(n_tracks / min(wall), n_tracks / median(wall), n_tracks / median(cpu), median(cpu))


def fused(sample: Sample, threads: int, repeat: int) -> Speed:
    """Passes over all stores."""
    gradient_pass = GradientPass(sample.sensors, threads=threads, fused=True)
    generator = torch.Generator().manual_seed(2)
    theta = sample.sensors.theta.data

    def task() -> None:
        theta.copy_(MOVE * torch.randn(theta.shape, generator=generator, dtype=theta.dtype))
        gradient_pass(sample.stores())

    return speed(task, sample.n_tracks, repeat)


def eager_step(sample: Sample, fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals after one fit step, and the gradient of Σχ², by tensors and autograd."""
    planes = sample.sensors.planes(sample.batch.uv, sample.batch.sensor)
    fit = sample.loss.refit(planes.detach(), fit, sample.batch, 1)
    chi2 = sample.loss.at(planes, fit, sample.batch)
    (gradient,) = torch.autograd.grad(chi2.track.sum(), sample.sensors.theta)
    return chi2.residual.detach(), gradient


def starting_fit(sample: Sample) -> Fit:
    """The tracks of the eager path, fitted to nominal sensors."""
    sample.sensors.theta.data.zero_()
    with torch.no_grad():
        return sample.loss.fit(sample.sensors.planes(sample.batch.uv, sample.batch.sensor), sample.batch)


def errors(sample: Sample) -> dict[str, float]:
    """Largest difference of a residual [µm] and relative one of the gradient, from the same states."""
    fit = starting_fit(sample)
    store = TrackStore.of(sample.loss, sample.sensors, sample.batch)
    generator = torch.Generator().manual_seed(3)
    sample.sensors.theta.data.copy_(10 * MOVE * torch.randn(len(sample.sensors), 6, generator=generator))
    residual, gradient = eager_step(sample, fit)
    gradient_pass = GradientPass(sample.sensors, fused=True)
    found = gradient_pass(store)
    apart = (gradient_pass.residuals(store) - residual).abs().max()
    relative = (found.theta - gradient).norm(dim=0) / gradient.norm(dim=0)
    return {"max_error_um": 1e4 * float(apart), "max_gradient_error": float(relative.max())}


@compiled
def only_gather(tiles, sensors, table, n_planes):  # type: ignore[no-untyped-def]
    """The poses of all hits' sensors, and nothing else."""
    work, n_hits = kernels.work_space(n_planes), sensors.shape[1] // LANES
    for number in range(len(tiles)):
        kernels.gather(n_hits, n_planes, sensors[number], table, tiles[number], work)
    return work[0]


@compiled
def only_scatter(tiles, sensors, n_planes, forces):  # type: ignore[no-untyped-def]
    """Forces of all hits to their sensors, and nothing else."""
    work, n_hits = kernels.work_space(n_planes), sensors.shape[1] // LANES
    for number in range(len(tiles)):
        kernels.scatter(n_hits, n_planes, sensors[number], tiles[number], work, forces)


def parts(sample: Sample, repeat: int) -> dict[str, float]:
    """CPU nanoseconds a track of the parts, on one thread; of the last, microseconds a pass."""
    store = TrackStore.open(sample.folders[0])
    n = len(store.tiles)
    tiles, sensors = store.tiles.view(n, -1).numpy(), store.sensor.view(n, -1).numpy()
    poses = torch.rand(len(sample.sensors) * kernels.POSE_ROWS, dtype=torch.float64).numpy()
    forces = torch.zeros(len(sample.sensors) * kernels.FORCE_ROWS, dtype=torch.float64).numpy()
    gradient_pass = GradientPass(sample.sensors, threads=1, fused=True)
    empty = store.part(0, 1)
    tasks = {
        "gather": lambda: only_gather(tiles, sensors, poses, store.n_planes),
        "scatter": lambda: only_scatter(tiles, sensors, store.n_planes, forces),
        "all": lambda: gradient_pass(store),
    }
    took = {name: 1e9 / speed(task, len(store), repeat).per_cpu_second for name, task in tasks.items()}
    chain = speed(lambda: gradient_pass(empty), 1, repeat).cpu_seconds
    took["sensors"] = 1e9 * chain / len(store)
    took["compute"] = took["all"] - took["gather"] - took["scatter"] - took["sensors"]
    return {f"{name}_ns": value for name, value in took.items()} | {"sensors_ms_a_pass": 1e3 * chain}


def copy_bandwidth(repeat: int) -> float:
    """What one thread of this machine copies, read and written [GB/s]."""
    source = np.ones(2**23)
    target = np.zeros_like(source)
    return 2 * source.nbytes / 1e9 * speed(lambda: np.copyto(target, source), 1, repeat).per_cpu_second


def per_track(n_planes: int) -> dict[str, float]:
    """Bytes that go through memory and through caches, and operations, of a track in a pass."""
    flops = n_planes * (4 * _CROSSING + 2 * 13 + 2 * _MEET + _FORCES + _ROWS) + _SOLVE
    streamed = 8 * (11 + 5 * n_planes) + 4 * n_planes
    written = 8 * (7 + 2 + n_planes)
    gathered, scattered = 8 * 9 * n_planes, 2 * 8 * 6 * n_planes
    return {
        "memory_bytes_per_track": streamed + written,
        "gather_bytes_per_track": gathered,
        "scatter_bytes_per_track": scattered,
        "flops_per_track": flops,
    }


def measure(options: argparse.Namespace) -> dict[str, float]:
    """All numbers."""
    with tempfile.TemporaryDirectory() as folder:
        sample = prepare(Path(folder), options.tracks)
        found = {"n_tracks": float(sample.n_tracks), "threads": float(options.threads), **errors(sample)}
        fit, n_eager = starting_fit(sample), sample.batch.n_tracks
        torch.set_num_threads(options.threads)
        both = speed(lambda: eager_step(sample, fit), n_eager, options.repeat)
        torch.set_num_threads(1)
        eager = speed(lambda: eager_step(sample, fit), n_eager, options.repeat)
        one, all_ = (fused(sample, threads, options.repeat) for threads in (1, options.threads))
        found |= parts(sample, options.repeat)
    found |= {
        "tracks_per_s": all_.per_second,
        "best_tracks_per_s": all_.best,
        "tracks_per_cpu_s": all_.per_cpu_second,
        "tracks_per_s_one_thread": one.per_second,
        "tracks_per_cpu_s_one_thread": one.per_cpu_second,
        "cpu_s_per_pass": all_.cpu_seconds,
        "eager_tracks_per_s": max(eager.per_second, both.per_second),
        "best_eager_tracks_per_s": max(eager.best, both.best),
        "eager_tracks_per_cpu_s": eager.per_cpu_second,
        "ratio": all_.per_second / max(eager.per_second, both.per_second),
        "cpu_ratio": all_.per_cpu_second / eager.per_cpu_second,
    }
    shape = per_track(N_HITS)
    return found | shape | {
        "gflops_per_core": shape["flops_per_track"] * one.per_cpu_second / 1e9,
        "memory_gb_per_s_per_core": shape["memory_bytes_per_track"] * one.per_cpu_second / 1e9,
        "copy_gb_per_s": copy_bandwidth(options.repeat),
        "peak_memory_mb": peak_memory_mb(),
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="PATH", help="numbers as JSON; no PATH: stdout"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options)
    if options.json != "-":
        for name, value in found.items():
            print(f"{name:30}{value:14.4g}")
    text = json.dumps(found, indent=2)
    if options.json == "-":
        sys.stdout.write(text + "\n")
    elif options.json is not None:
        Path(options.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
