"""How fast a run of ALICE O2 goes into the cache that a training reads: CPU and wall time a track.

    python benchmarks/o2.py --tracks outputs/samples/its2_million.root [--folder RUN] [--json [PATH]]

Writes the tracks of a file of ITS2 as a run (or takes the one that is in the folder), reads it once to
compile, and then `--repeat` times into an empty cache: all tracks, and those of selection=collisions. CPU
time is that of all threads of the process; where other programs share the cores it tells more than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from alignnet.data.cache import cached
from alignnet.data.o2_output import O2Writer
from alignnet.data.o2_pixels import SubPixels
from alignnet.data.o2_runs import TRACKS, O2Runs
from alignnet.data.o2_selection import Selection
from alignnet.data.root_tracks import iterate_tracks
from alignnet.geometry.its2 import its2

SELECTIONS = {
    "all": Selection(),
    "collisions": Selection(
        pt=(0.3, None), max_abs_eta=1.2, min_clusters=6, min_contributors=3, max_dca=(0.03, 0.06)
    ),
}
"""conf/selection/*.yaml."""

DETECTOR = its2()


def write(sample: Path, run: Path) -> None:
    """The tracks of a file as a run."""
    with O2Writer(run, DETECTOR, SubPixels()) as writer:
        for tracks in iterate_tracks(sample, DETECTOR):
            writer.append(tracks)


def timed(runs: O2Runs, run: Path) -> dict[str, float]:
    """One way into an empty cache."""
    with tempfile.TemporaryDirectory(dir=run) as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        source = runs.source(run, DETECTOR)
        kept = cached(source, DETECTOR, folder).rows["track"]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"read": source.n_tracks, "kept": kept, "wall_s": wall, "cpu_s": cpu}


def measured(run: Path, name: str, repeat: int) -> dict[str, float]:
    """The best of several times."""
    runs = O2Runs(selection=SELECTIONS[name])
    trials = [timed(runs, run) for _ in range(repeat)]
    best = {key: min(trial[key] for trial in trials) for key in ("cpu_s", "wall_s")}
    found = {**trials[0], **best}
    return found | {
        "cpu_us_per_track": 1e6 * best["cpu_s"] / found["read"],
        "tracks_per_cpu_s": found["read"] / best["cpu_s"],
        "tracks_per_s": found["read"] / best["wall_s"],
    }


def main() -> None:
    """Make the run, read it, and say what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=Path, required=True, help="a file of tracks in ITS2")
    parser.add_argument("--folder", type=Path, help="of the run, which is kept there")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="PATH", help="numbers as JSON; no PATH: stdout"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = options.folder or Path(temporary)
        if not (run / TRACKS).is_file():
            write(options.tracks, run)
        timed(O2Runs(), run)
        found = {name: measured(run, name, options.repeat) for name in SELECTIONS}
    if options.json != "-":
        for name, row in found.items():
            print(
                f"{name}: {row['read']:,} tracks, {row['kept']:,} kept; {row['cpu_us_per_track']:.2f} µs CPU "
                f"each ({row['tracks_per_cpu_s']:,.0f} a CPU second), {row['tracks_per_s']:,.0f} a second "
                f"(load {os.getloadavg()[0]:.1f})"
            )
    text = json.dumps(found | {"cores": os.cpu_count(), "load": os.getloadavg()[0]}, indent=2)
    if options.json == "-":
        print(text)
    elif options.json is not None:
        Path(options.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
