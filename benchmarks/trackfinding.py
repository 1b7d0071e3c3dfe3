"""Takes runs of track finding into docs/trackfinding.json and makes the table of docs/trackfinding.md anew.

The learning curves that end short of what was printed become docs/images/trackfinding_curves.png.

    python benchmarks/trackfinding.py RUN_FOLDER ...

Without folders the table alone is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alignnet.data.atomic import replacing
from alignnet.trackfinding.pictures import printed_curves
from alignnet.trackfinding.table import collected, short_of_print, table

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- table of docs/trackfinding.json -->\n", "<!-- end of table -->\n"


def main(runs: list[Path]) -> None:
    """Collect and write."""
    rows = collected(DOCS / "trackfinding.json", runs)
    page = DOCS / "trackfinding.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    with replacing(page) as temporary:
        temporary.write_text(before + BEGIN + "\n" + table(rows) + "\n" + END + after, encoding="utf-8")
    with replacing(DOCS / "images" / "trackfinding_curves.png") as temporary:
        printed_curves(rows, short_of_print(rows)).savefig(temporary, dpi=110, format="png")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
