"""Track finding in ITS2 against multiplicity and p_T: a trained network beside the cellular automaton.

    python benchmarks/its2_finding.py RUN OUT.json [--multiplicities 200 1000] [--tracks 4000]

RUN is the folder of `alignnet train task=trackfinding experiment=trackfinding/its2_network`. Both finders get
the same events, graphs, fit and ambiguity resolution; times are this process's, of one thread, without the
simulation. An entry of OUT.json is one finder at one multiplicity; a file that is there is added to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from alignnet.cli.find import network_of
from alignnet.trackfinding.its2.automaton import Automaton
from alignnet.trackfinding.its2.events import Events, SimulatedEvents
from alignnet.trackfinding.its2.finder import Finder, NetworkScorer
from alignnet.trackfinding.its2.fit import TrackFit
from alignnet.trackfinding.its2.found_tracks import Tally, scores_of
from alignnet.trackfinding.its2.graph import GraphBuilder

SEED = 770_000


def main() -> None:
    """Find, count, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--multiplicities", type=int, nargs="+", default=[50, 100, 200, 500, 1000])
    parser.add_argument("--tracks", type=int, default=4000, help="simulated at each multiplicity")
    parser.add_argument("--vertex", nargs="+", default=["found", "unknown"])
    parser.add_argument("--table", action="store_true", help="only print what OUT.json has, as Markdown")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(given.out.read_text())))
        return
    torch.set_num_threads(1)
    for vertex in given.vertex:
        for n_tracks in given.multiplicities:
            for entry in compared(given.run, vertex, n_tracks, max(2, given.tracks // n_tracks)):
                add(given.out, entry)
                print(json.dumps({k: v for k, v in entry.items() if "/" not in k}), flush=True)


COLUMNS = {
    "edge_purity": "edge purity", "edge_efficiency": "edge efficiency", "efficiency": "track efficiency",
    "efficiency_perfect": "perfect", "fakes": "fakes", "duplicates": "duplicates",
}  # fmt: skip


def table(entries: list[dict[str, Any]]) -> str:
    """A row an entry, by vertex and multiplicity; then the efficiencies in bins of p_T."""
    entries = sorted(entries, key=lambda e: (e["vertex"], e["tracks_per_event"], e["finder"]))
    spent = "seconds_per_event/"
    lines = ["| vertex | tracks | finder | " + " | ".join(COLUMNS.values()) + " | CPU s an event |"]
    lines.append("|---" * (len(COLUMNS) + 4) + "|")
    for entry in entries:
        seconds = sum(value for name, value in entry.items() if name.startswith(spent))
        cells = [entry["vertex"], f"{entry['tracks_per_event']:,}", entry["finder"]]
        cells += [f"{entry[name]:.4f}" for name in COLUMNS] + [f"{seconds:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    bins = [name for name in entries[0] if name.startswith("efficiency/")]
    lines += ["", "| vertex | tracks | finder | " + " | ".join(b.partition("/")[2] for b in bins) + " |"]
    lines.append("|---" * (len(bins) + 3) + "|")
    for entry in entries:
        cells = [entry["vertex"], f"{entry['tracks_per_event']:,}", entry["finder"]]
        lines.append("| " + " | ".join([*cells, *(f"{entry[name]:.3f}" for name in bins)]) + " |")
    return "\n".join(lines)


def compared(run: Path, vertex: str, n_tracks: int, n_events: int) -> list[dict[str, Any]]:
    """Both finders on the same events."""
    source = SimulatedEvents((n_tracks,))
    builder, fit = GraphBuilder(source.detector, vertex=vertex), TrackFit(source.detector)
    finders = {
        "network": Finder(builder, NetworkScorer(network_of(run), builder), fit),
        "automaton": Finder(builder, Automaton(5.0), fit, cell_limit=5.0),
    }
    tallies = {name: Tally() for name in finders}
    warm = source.draw(1, torch.Generator().manual_seed(SEED - 1))
    for finder in finders.values():
        finder(warm.hits)  # what is compiled is compiled now
    for number in range(n_events):
        events = source.draw(1, torch.Generator().manual_seed(SEED + number))
        for name, finder in finders.items():
            count(events, finder, tallies[name])
    about = {"vertex": vertex, "tracks_per_event": n_tracks}
    return [{"finder": name, **about, **tally.figures()} for name, tally in tallies.items()]


def count(events: Events, finder: Finder, tally: Tally) -> None:
    """Find the tracks of an event."""
    found = finder(events.hits)
    tally.add(found, events.hits, scores_of(found, events.hits, events.tracks, events.noise, finder))


def add(path: Path, entry: dict[str, Any]) -> None:
    """Put an entry in the place of one of the same finder, vertex and multiplicity."""
    entries = json.loads(path.read_text()) if path.exists() else []
    key = ("finder", "vertex", "tracks_per_event")
    entries = [old for old in entries if any(old[k] != entry[k] for k in key)]
    path.write_text(json.dumps([*entries, entry], indent=1, allow_nan=True) + "\n")


if __name__ == "__main__":
    main()
