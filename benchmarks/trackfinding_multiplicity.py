"""Trains the 3D architectures on events of 1 to 50 background tracks and compares them at each number.

    python benchmarks/trackfinding_multiplicity.py [FOLDER [TIMES]]

Runs go to FOLDER (outputs/trackfinding/multiplicity); those that are there stay. They take half a minute of a
core each, in which only attention over lines learns what there is to learn; TIMES as many events take longer.
What is found becomes docs/trackfinding_multiplicity.json, a picture and tables of docs/trackfinding.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from alignnet.data.atomic import replacing
from alignnet.trackfinding.multiplicities import Comparison, comparison, comparison_figure, comparison_table

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
BEGIN, END = "<!-- tables of docs/trackfinding_multiplicity.json -->\n", "<!-- end of tables -->\n"

BACKGROUNDS = "[1,3,10,20,50]"
COMMON = (
    f"toy.background={BACKGROUNDS}", f"test_backgrounds={BACKGROUNDS}", "data.validation=256",
    "data.test=1024", "trainer.max_epochs=4",
)  # fmt: skip
NARROW = "system.hidden=512"
ARCHITECTURES: dict[str, tuple[str, int, *tuple[str, ...]]] = {
    "attention over lines": ("line_planes", 2048),
    "LSTM": ("c1", 4096, NARROW, "system.next_layer=false"),
    "next-layer LSTM": ("c1", 4096, NARROW),
    "deep LSTM": ("c2", 4096, NARROW),
    "next-layer deep LSTM": ("c4", 4096, NARROW),
    "bidirectional LSTM": ("c3", 8192),
    "3D convolutions": ("c6", 768),
    "3D autoencoder": ("c7", 2560),
}
"""Row, events of an epoch, options; hidden units are 512 where the published comparison had as many."""


def main(folder: Path, times: float = 1) -> None:
    """Train what is missing, with so many times the events, and write."""
    runs = {name: folder / name.replace(" ", "_") for name in ARCHITECTURES}
    for k, (name, (row, events, *options)) in enumerate(ARCHITECTURES.items()):
        if not (runs[name] / "metrics.json").is_file():
            once = () if k == 0 else ("baselines=none",)  # the same events for all: one run has them
            train(runs[name], row, *COMMON, f"data.events={round(events * times)}", *options, *once)
    systems = comparison(runs)
    with replacing(DOCS / "trackfinding_multiplicity.json") as temporary:
        temporary.write_text(json.dumps(systems, indent=1) + "\n", encoding="utf-8")
    with replacing(DOCS / "images" / "trackfinding_multiplicity.png") as temporary:
        comparison_figure(systems).savefig(temporary, dpi=110, format="png")
    write_tables(systems)


def train(folder: Path, row: str, *options: str) -> None:
    """One run of `alignnet train`."""
    command = [
        sys.executable,
        "-m",
        "alignnet",
        "train",
        "task=trackfinding",
        f"experiment=trackfinding/{row}",
    ]
    subprocess.run([*command, *options, f"hydra.run.dir={folder}"], check=True, cwd=REPOSITORY)


def write_tables(systems: Comparison) -> None:
    """The tables into docs/trackfinding.md."""
    page = DOCS / "trackfinding.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tables = "\n".join(f"Best {what}:\n\n{comparison_table(systems, merit)}"
                       for merit, what in {"pixel": "pixel", "hit": "lit pixel"}.items())  # fmt: skip
    with replacing(page) as temporary:
        temporary.write_text(
            before + BEGIN + "\n" + tables + "\n" + END + rest.partition(END)[2], encoding="utf-8"
        )


if __name__ == "__main__":
    default = REPOSITORY / "outputs" / "trackfinding" / "multiplicity"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default, *map(float, sys.argv[2:]))
