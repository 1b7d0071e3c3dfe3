"""How much faster two processes train than one on the same joint batches, and whether they end in one place.

    python benchmarks/processes.py [--events 2500] [--epochs 6] [--repeat 3] [--optimizer preconditioned_sgd]

Simulates a misaligned ITS2, then runs `alignnet train` in turn: with one process of one thread; with two
such; and two independent runs of one process at the same time, which share nothing but the machine. What
these lose is the machine's (shared cores, caches and memory): 2 × one / pair is the most that two processes
can gain on it. Prints the median time of an epoch of each, the two ratios, and how far the parameters
differ [cm, rad].
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alignnet.data.root_alignment import read_alignment_table

QUIET = ("trainer.enable_progress_bar=false", "figure_every=0", "early_stop=null", "evaluation.limit=false")


def start(*arguments: str) -> subprocess.Popen[str]:
    """`alignnet` with one thread a process."""
    return subprocess.Popen(
        (sys.executable, "-m", "alignnet", *arguments),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait; stop here with what it said if it failed."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args}\n{said}")


def train(sample: Path, run: Path, devices: int, options: argparse.Namespace) -> subprocess.Popen[str]:
    """A training on the joint batches, evaluated on few tracks."""
    return start(
        "train",
        f"data.files=[{sample}]",
        f"optimizer={options.optimizer}",
        f"data.batch_size={options.batch}",
        f"trainer.devices={devices}",
        "trainer.accelerator=cpu",
        f"trainer.max_epochs={options.epochs}",
        "evaluation.max_tracks=1000",
        f"hydra.run.dir={run}",
        *QUIET,
    )


def epochs(run: Path) -> list[float]:
    """Seconds of the epochs of a run but the first."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [
        late.wall_time - early.wall_time for early, late in pairwise(events.Scalars("train/chi2_per_ndf"))
    ]


def places(run: Path) -> np.ndarray:
    """Parameters that a run left, all of its sensors' [cm, rad]."""
    return read_alignment_table(run / "alignment.root").local


def measure(sample: Path, options: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Epoch times of the three ways, in turn, and how far two processes end from one."""
    cases = {"one": (1,), "two": (2,), "pair": (1, 1)}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(options.repeat):
        for name, devices in cases.items():
            runs = [sample.parent / f"{name}-{repeat}-{place}" for place in range(len(devices))]
            started = [train(sample, run, n, options) for run, n in zip(runs, devices, strict=True)]
            for process in started:
                finish(process)
            seconds[name] += [taken for run in runs for taken in epochs(run)]
            print(f"{name:>5}: {median(seconds[name]):.2f} s an epoch", flush=True)
    one, two = (places(sample.parent / f"{name}-0-0") for name in ("one", "two"))
    return seconds, float(np.abs(one - two).max())


def main() -> None:
    """Measure, then print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=2500, help="8 tracks each")
    parser.add_argument("--batch", type=int, default=500, help="events of a joint batch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--optimizer", default="preconditioned_sgd")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.root"
        finish(start("simulate", "sample=its2_demo", f"n_events={options.events}", f"output={sample}"))
        seconds, difference = measure(sample, options)
    one, two, pair = (median(seconds[name]) for name in ("one", "two", "pair"))
    print(f"two processes are {one / two:.2f} times as fast as one; this machine allows {2 * one / pair:.2f}")
    print(f"largest difference of a parameter: {difference:.1e}")


if __name__ == "__main__":
    main()
