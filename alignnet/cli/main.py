"""`alignnet <command> [key=value ...]`: finds the command's file and runs it as if started by itself.

`alignnet train trainer.max_epochs=5` is `python -m alignnet.cli.train trainer.max_epochs=5`, in this process:
then sys.argv and `__main__` are what Hydra reads, and what Lightning repeats to start other ranks of a run.
"""

from __future__ import annotations

import gc
import runpy
import sys
from difflib import get_close_matches

import alignnet
from alignnet.cli.task import file_of

COMMANDS = {
    "simulate": "particles through a misaligned detector: a file of tracks, with the truth",
    "generate": "collisions of an event generator, with decays: a file of events to simulate",
    "find": "find tracks in the hits of a file: a file of tracks to align with",
    "train": "align: fit the places of the sensors so that tracks pass through their hits",
    "watch": "take files as they appear in a folder, publish where volumes are by intervals of validity",
    "evaluate": "compare before, after and truth: tables and pictures",
    "export": "write an alignment for others: ALICE's CCDB object, Millepede, Parquet, CSV",
    "solve": "the problem of a Millepede steering text and its binaries, as pede solves it",
    "convert": "bring other files into the format: hit tables in CSV, ROOT files, ALICE alignment objects",
}
MODULE = "alignnet.cli.{command}"

EXAMPLES = """\
examples:
  alignnet simulate sample=its2_demo          160,000 tracks in a misaligned ITS2
  alignnet train experiment=its2_demo         align with them: tables, pictures, alignment.root
  alignnet evaluate run=DIR                   evaluate that run again, or on other tracks
  alignnet train --help                       what a command does, its keys and choices
"""


def modules_are_kept() -> None:
    """Collect garbage from here on, but for what is there already: modules."""
    gc.freeze()
    gc.enable()


def usage() -> str:
    """What `alignnet` alone prints."""
    listing = "\n".join(f"  {name:<10}{summary}" for name, summary in COMMANDS.items())
    return (
        "alignnet: align particle-tracking detectors by gradient descent\n\n"
        f"usage: alignnet <command> [key=value ...]\n\ncommands:\n{listing}\n\n{EXAMPLES}"
    )


def main() -> int:
    """The console script. Returns the exit code, where the command has not exited by itself."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h", "help"):
        print(usage(), end="")
        return 0
    if command == "--version":
        print(f"alignnet {alignnet.__version__}")
        return 0
    if command not in COMMANDS:
        close = get_close_matches(command, COMMANDS, n=1)
        advice = f"did you mean '{close[0]}'?" if close else f"the commands are {', '.join(COMMANDS)}"
        print(f"alignnet: error: unknown command '{command}'; {advice}", file=sys.stderr)
        return 2
    sys.argv[1:] = rest
    gc.disable()  # imports leave no garbage, and searching for it takes a quarter of their time
    try:
        runpy.run_module(MODULE.format(command=file_of(command, rest)), run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # while modules are imported; later the commands say so themselves
        print("alignnet: interrupted", file=sys.stderr)
        return 130
    finally:
        gc.enable()
    return 0
