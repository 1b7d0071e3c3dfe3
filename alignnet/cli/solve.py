"""`alignnet solve`: the problem of a Millepede steering text, solved in the current folder."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from alignnet.cli.app import CONF, errors_in_one_line
from alignnet.cli.main import modules_are_kept
from alignnet.data.atomic import replacing
from alignnet.data.memory import peak_memory_mb
from alignnet.data.steering import read_steering
from alignnet.errors import ConfigError, ConvergenceError
from alignnet.export.millepede import write_result
from alignnet.solvers.mille_solver import MilleAnswer, solve_steering

log = logging.getLogger("alignnet.solve")

RESULT, NUMBERS = Path("millepede.res"), Path("millepede.json")
EPILOG = """\
keys:
  errors=auto           exact, none, or auto: exact where the factor of the matrix fits in memory
  tolerance=1e-8        the gradient at the end, against the start
  max_iterations=5000   of conjugate gradients

Leaves in the current folder, only when it has come to its end:
  millepede.res         label, value, presigma, difference to the start, error: as pede's, with 17 digits
  millepede.json        iterations, gradient, chi2/ndf, records taken and rejected, CPU seconds by phase

The steering text is pede's: parameters, presigmas, constraints, measurements, cuts and down-weighting are
honoured (docs/command-line.md lists them); which method it asks for makes no difference to the answer.

examples:
  alignnet solve steer.txt
  alignnet export run=DIR format=millepede output=millepede.res mille=tracks.bin && alignnet solve tracks.txt
"""


@dataclass(frozen=True)
class Options:
    """The keys of the command line."""

    errors: str = "auto"
    tolerance: float = 1e-8
    max_iterations: int = 5000


def main() -> None:
    """Read the text, solve, write."""
    modules_are_kept()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with errors_in_one_line(CONF, "solve"):
        text, options = _arguments(sys.argv[1:])
        run(text, options_of(options))


def run(text: Path, options: Options) -> MilleAnswer:
    """Solve a steering text and leave the result in the current folder."""
    start = time.perf_counter()
    _check_folder()
    for path in (RESULT, NUMBERS):
        if path.exists():  # what an earlier run left is kept, as pede keeps it, and not taken for this one's
            os.replace(path, f"{path}~")
    steering = read_steering(text)
    for line in steering.guessed:
        log.warning("%s", line)
    with _progress() as told, _named(text), np.errstate(all="ignore"):  # what is not finite is refused
        answer = solve_steering(steering, options.tolerance, options.max_iterations, options.errors, told)
    if options.errors == "auto" and not np.isfinite(answer.error).any():
        log.warning(
            "no errors: the matrix' factor, or constraints as dense vectors, are too large for the memory"
        )
    _write(answer, options, time.perf_counter() - start)
    _report(answer)
    return answer


def options_of(pairs: list[str]) -> Options:
    """The options of `key=value` arguments.

    Raises:
        ConfigError: an unknown key, or a value that cannot be used.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in Options.__dataclass_fields__ or not equals:
            raise ConfigError(f"unknown key '{key}'; the keys are {', '.join(Options.__dataclass_fields__)}")
        try:
            values[key] = type(getattr(Options, key))(value)
        except ValueError as error:
            raise ConfigError(f"tolerance and max_iterations are numbers: {error}") from error
    options = Options(**values)
    if options.errors not in ("auto", "exact", "none"):
        raise ConfigError(f"errors is {options.errors!r}; choose auto, exact or none")
    if not 0 < options.tolerance < 1 or options.max_iterations < 1:
        raise ConfigError("expected a tolerance between 0 and 1 and at least 1 iteration")
    return options


def _arguments(arguments: list[str]) -> tuple[Path, list[str]]:
    parser = ArgumentParser(
        prog="alignnet solve",
        description="Solve the linear problem of a Millepede steering text and its Mille binaries.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "text", type=Path, nargs="?", help="steering text; the files in it count from this folder or its own"
    )
    parser.add_argument("keys", nargs="*", metavar="key=value")
    parsed = parser.parse_args(arguments)
    if parsed.text is None:
        raise ConfigError(
            "no steering text given: expected `alignnet solve steer.txt`, keys after it if need be, such as "
            "errors=none; `alignnet solve --help` lists them"
        )
    return parsed.text, parsed.keys


def _check_folder() -> None:
    """Refuse a folder in which nothing can be written before the work, not after it."""
    for path in (RESULT, NUMBERS):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, expected a name for the result; rename it")
    try:
        with TemporaryFile(dir="."):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write {RESULT} in {Path.cwd()}: {error.strerror}; solve in another folder"
        ) from error


@contextmanager
def _named(text: Path) -> Iterator[None]:
    """Failures name the steering text."""
    try:
        yield
    except ConvergenceError as error:
        if str(error).startswith(str(text)):
            raise
        raise type(error)(f"{text}: {error}") from error
    except MemoryError as error:
        raise ConvergenceError(f"{text}: too large for the memory ({error}); look at the records") from error


@contextmanager
def _progress() -> Iterator[Callable[[str, float | None], Callable[[float], None]]]:
    """A line for each phase on a terminal, nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def phase(name: str, total: float | None) -> Callable[[float], None]:
            task = bar.add_task(name, total=total)
            return lambda more: bar.advance(task, more)

        yield phase


def _write(answer: MilleAnswer, options: Options, seconds: float) -> None:
    numbers = {
        "parameters": len(answer.label),
        "free": int(answer.free.sum()),
        "records": answer.records,
        "rejected": dict(zip(("undetermined", "chi2", "weight"), answer.rejected, strict=True)),
        "chi2": answer.chi2,
        "ndf": answer.ndf,
        "chi2_per_ndf": answer.chi2 / answer.ndf if answer.ndf > 0 else None,
        "iterations": answer.iterations,
        "passes": answer.passes,
        "settled": answer.settled,
        "gradient": answer.gradient,
        "cpu_seconds": answer.seconds,
        "wall_seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
        "options": asdict(options),
    }
    presigma = [sigma if free else -1.0 for sigma, free in zip(answer.presigma, answer.free, strict=True)]
    with replacing(NUMBERS) as temporary:  # neither appears without the other
        temporary.write_text(json.dumps(numbers, indent=1) + "\n")
        write_result(RESULT, answer.label, answer.value, presigma, answer.difference, answer.error)


def _report(answer: MilleAnswer) -> None:
    log.info(
        "%s records, %s rejected; %s of %s parameters free",
        f"{answer.records:,}", f"{sum(answer.rejected):,}", f"{int(answer.free.sum()):,}",
        f"{len(answer.label):,}",
    )  # fmt: skip
    log.info("χ²/ndf %.5f, gradient %.1e of its start after %d iterations",
             answer.chi2 / max(answer.ndf, 1), answer.gradient, answer.iterations)  # fmt: skip
    if not answer.settled:
        log.warning("cuts and weights still change after %d passes; allow more: method NAME %d 0.01",
                    answer.passes, 2 * answer.passes)  # fmt: skip
    log.info("CPU seconds: %s", ", ".join(f"{name} {s:.1f}" for name, s in answer.seconds.items()))
    log.info("written: %s, %s", RESULT, NUMBERS)


if __name__ == "__main__":
    main()
