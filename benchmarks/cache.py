"""What a cache costs and saves: writing it, the first batch, batches a second, memory.

    python benchmarks/cache.py --tracks outputs/samples/its2_million.root [--copies 5] [--folder /tmp/big]

Joins copies of a simulated file, each with event numbers of its own, to one that is as many times as large.
Then, each in a process of its own: writes the cache; goes over the training events once from the cache;
and once more with the tracks of one copy in memory. Prints tracks a second (wall and CPU) and the largest
resident memory [MB], with the pages of mapped files (RSS) and without (RssAnon). Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import (
    SimulationWriter,
    iterate_tracks,
    read_detector,
    read_metadata,
    read_misalignment,
)

STRIDE = 10_000_000
"""Between the event numbers of two copies."""


class Memory:
    """The largest resident memory of this process while it is watched."""

    def __init__(self) -> None:
        self.peak = {"VmRSS": 0.0, "RssAnon": 0.0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.peak:
                    self.peak[name] = max(self.peak[name], int(value.split()[0]) / 1024)
            time.sleep(0.05)

    def __str__(self) -> str:
        return f"RSS {self.peak['VmRSS']:.0f} MB, RssAnon {self.peak['RssAnon']:.0f} MB"


def join(sample: Path, copies: int, big: Path) -> None:
    """Write a file of several copies."""
    detector = read_detector(sample)
    header = {**read_metadata(sample), "copies": copies}
    with SimulationWriter(big, detector, read_misalignment(sample, detector), header) as writer:
        for copy in range(copies):
            for tracks in iterate_tracks(sample, detector):
                writer.append(replace(tracks, event=tracks.event + copy * STRIDE))


def read(file: Path, cache: str | None) -> None:
    """One pass over the training events."""
    memory, start = Memory(), time.perf_counter()
    data = AlignmentData([str(file)], read_detector(file), split=(0.9, 0.05, 0.05), cache=cache)
    data.setup()
    ready = time.perf_counter()
    print(f"  ready after {ready - start:.2f} s, {data.n_tracks:,} tracks; {memory}")
    batches = iter(data.train_dataloader())
    next(batches)
    begin, cpu = time.perf_counter(), time.process_time()
    print(f"  first batch {begin - ready:.2f} s later")
    n = sum(batch.n_tracks for batch in batches)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(f"  batches: {n / wall:,.0f} tracks/s, {n / cpu:,.0f} a CPU second; {memory}")


def main() -> None:
    """Make the file and start the processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="keep the large file here")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.tracks, None if options.read == "null" else options.read)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        big, cache = folder / "big.root", folder / "cache"
        if not big.is_file():
            join(options.tracks, options.copies, big)
        for what, file, where in (
            ("writing the cache", big, str(cache)),
            ("from the cache", big, str(cache)),
            ("one copy in memory", options.tracks, "null"),
        ):
            print(f"{what} (load {os.getloadavg()[0]:.1f})", flush=True)
            command = [sys.executable, __file__, "--tracks", str(file), "--read", where]
            subprocess.run(command, check=True)
        columns = list(cache.glob("*/*/*.npy"))
        hits = next((p.stat().st_size - 128) // 8 for p in columns if p.name == "uv.npy")
        size = sum(path.stat().st_size for path in columns)
        print(
            f"{size / hits:.1f} bytes a hit, {size / 1e9:.2f} GB, of a file of {big.stat().st_size / 1e9:.2f}"
        )


if __name__ == "__main__":
    main()
