"""Steering text of Millepede-II's `pede`: its files, parameters, constraints, measurements and commands.

    tracks.bin -- 2.0         a Mille binary in C format, and its weight, by default 1
    more.txt                  further text like this one
    Parameter                 then lines  label value presigma   presigma < 0: fixed at the value
    Constraint 0.0            then lines  label factor …         Σ factor · p = 0
    Measurement 0.01 0.002    then lines  label factor …         Σ factor · p = 0.01 ± 0.002
    Comment                   then lines  label text
    method inversion 3 0.01   a command and its numbers
    end                       nothing after it is read

A comment follows `!`, or fills a line that begins with `*`. As in pede, a text is read after the one that
names it, so that what it says wins; where a parameter is given twice the last value other than 0 counts, and
the last presigma other than 0; and no command but `method` ends a block.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alignnet.data.mille_write import MAX_LABEL
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

METHODS = """inversion diagonalization decomposition fullMINRES sparseMINRES fullMINRES-QLP sparseMINRES-QLP
    fullLAPACK unpackedLAPACK sparsePARDISO"""
BLOCKS = "parameter constraint measurement comment method"
# How pede itself computes, prints and checks.
IGNORED = """bandwidth cache cfiles checkinput checkparametergroups closeandreopen compress debug force
    globalcorr histprint iterateentries lapackwitherrors linesearch localfit matiter matmoni maxlocalcond
    memorydebug monitorprogress monitorpulls monitorresiduals mresmode mrestranscond nofeasiblestart
    outlierfracwarnthreshold pairentries postprocessing print printrecord pullrange readerroraseof
    resolveredundancycons subito threads weightedcons withelimination withlapackelimination withmultipliers
    wolfe"""


@dataclass(frozen=True)
class Line:
    """Where something stands, for messages."""

    file: Path
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(frozen=True)
class Combination:
    """Σ factor · p = value: exactly, for a constraint, or ± sigma > 0, for a measurement.

    A constraint has sigma 0, unless one is written, which pede reads and does not use.
    """

    value: float
    sigma: float
    labels: Array  # ascending, each once, int64 (labels,)
    factors: Array  # none of them 0, float64 (labels,)
    line: Line


@dataclass(frozen=True)
class Binary:
    """A Mille file, and the weight of all its records."""

    path: Path
    weight: float
    line: Line


@dataclass(frozen=True)
class Commands:
    """What the commands ask for; defaults are pede's."""

    method: str = "sparseMINRES"
    iterations: int = 1
    convergence: float | None = None  # end where the objective is expected to drop by less
    presigma: float = 0.0  # of parameters without their own
    regularization: tuple[float, float] | None = None  # factor, and the same presigma
    entries: tuple[int, int, int] = (25, 10, 0)  # least in files, least accepted, factor of the iterated cut
    countrecords: bool = False  # entries are counted a record, not a measurement
    hugecut: float = 50.0  # of χ², in units of its 3-sigma limit
    chisqcut: tuple[float, float] | None = None  # the same, in the first and second iteration, as written
    outlierdownweighting: int = 0
    dwfractioncut: float = 0.0
    scaleerrors: tuple[float, float] = (1.0, 1.0)  # of measurements with and without global derivatives
    mrestol: float = 1e-6
    printcounts: bool = False
    skipemptycons: bool = False
    errlabels: tuple[int, ...] = ()
    maxrecord: int = 0  # 0: all


@dataclass(frozen=True)
class Steering:
    """All that a steering text says, together with the texts that it names."""

    path: Path
    binaries: tuple[Binary, ...]
    parameters: dict[int, tuple[float, float]]  # label: start value, presigma
    constraints: tuple[Combination, ...]
    measurements: tuple[Combination, ...]
    comments: dict[int, str]
    commands: Commands
    ignored: tuple[str, ...]  # keywords that change nothing here
    guessed: tuple[str, ...]  # keywords that were misspelt: where, what, and read as what


def read_steering(path: str | Path) -> Steering:
    """Read a steering text and all that it names, from the current folder or else from the text's own.

    Raises:
        SchemaError: a file is missing or not text, or a line cannot be understood: names file and line.
    """
    reader = _Reader(Path(path))
    for text in reader.texts:  # grows while texts name others
        reader.read(text)
    if not reader.binaries:
        raise SchemaError(f"{path}: found no binary, expected at least one line that names a Mille file")
    commands, regularization = reader.commands, reader.commands.regularization
    if regularization:
        commands = replace(commands, regularization=(regularization[0], commands.presigma))
    return Steering(
        path=Path(path),
        binaries=tuple(reader.binaries),
        parameters=reader.parameters,
        constraints=tuple(sums.combination() for sums in reader.sums if sums.keyword == "constraint"),
        measurements=tuple(sums.combination() for sums in reader.sums if sums.keyword == "measurement"),
        comments=reader.comments,
        commands=commands,
        ignored=tuple(dict.fromkeys(reader.ignored)),
        guessed=tuple(reader.guessed),
    )


class _Reader:
    """What has been read so far; `row` takes the lines of numbers of the block that is open."""

    def __init__(self, path: Path) -> None:
        self.texts, self.path, self.number = [path], path, 0
        self.row: Callable[[str], None] = _no_block
        self.binaries: list[Binary] = []
        self.parameters: dict[int, tuple[float, float]] = {}
        self.sums: list[_Sum] = []
        self.comments: dict[int, str] = {}
        self.commands = Commands()
        self.ignored: list[str] = []
        self.guessed: list[str] = []

    @property
    def line(self) -> Line:
        return Line(self.path, self.number)

    def read(self, path: Path) -> None:
        """Read one text, and note which others it names."""
        self.path, self.row = path, _no_block
        for self.number, text in _lines(path):
            try:
                (self.numbers if text[0] in "+-.0123456789" else self.words)(text)
            except ValueError as error:
                raise SchemaError(f"{self.line}: {error}") from error

    def numbers(self, text: str) -> None:
        """A line of the open block, or ../tracks.bin."""
        try:
            self.row(text)
        except ValueError:
            if not self.file(text):
                raise

    def words(self, text: str) -> None:
        """A keyword and what follows it, or the name of a file."""
        word, *words = text.split()
        keyword = word.lower().replace("isation", "ization")
        if keyword not in KEYWORDS:
            if self.file(text):
                return
            keyword = self.guess(word)
        if keyword in BLOCKS.split():
            self.open(keyword, words)
        elif keyword in COMMANDS:
            if not words and keyword not in BARE.split():
                raise ValueError(f"found {keyword!r} alone, expected a number after it")
            changed = COMMANDS[keyword](self.commands, *map(_number, words))
            self.commands = replace(self.commands, **changed)
        elif keyword == "fortranfiles":
            raise ValueError("found 'fortranfiles', expected files in C format: choose Mille's C variant")
        else:
            self.ignored.append(keyword)

    def file(self, text: str) -> bool:
        """Note the file that a line names, if it names one."""
        name, _, weight = (part.strip() for part in text.partition(" -- "))
        found = next(filter(os.path.isfile, [Path(name), self.path.parent / name]), None)
        if found is None and re.match(r"\S*/|\S+\.[A-Za-z]\w*$|.*\.(bin|dat|gz|txt)$", name):
            raise ValueError(f"found {name!r}, but no such file here or in {self.path.parent}")
        if found is None:
            return False
        if not re.search("x.*t|t.*x", name[-4:].lower()):  # which is how pede knows a text
            factor = _number(weight or "1")
            self.binaries.append(Binary(found, _checked(factor, factor >= 0, "a weight >= 0"), self.line))
        elif any(found.samefile(text) for text in self.texts):
            raise ValueError(f"found {name!r} again, expected a text that is not yet read")
        else:
            self.texts.append(found)
        return True

    def guess(self, word: str) -> str:
        """The one keyword that a misspelt word is close to."""
        close = difflib.get_close_matches(word.lower(), KEYWORDS, cutoff=0.8)
        if len(close) != 1:
            near = ", ".join(close or difflib.get_close_matches(word.lower(), KEYWORDS, cutoff=0))
            raise ValueError(f"found {word!r}, expected a file that exists or a keyword; closest: {near}")
        self.guessed.append(f"{self.line}: {word!r} read as {close[0]!r}")
        return close[0]

    def open(self, keyword: str, words: list[str]) -> None:
        """Begin a block, or with `method` none."""
        if keyword == "parameter":
            self.row = self.parameter
            if words:
                self.parameter(" ".join(words))
        elif keyword == "comment":
            self.row = self.comment
        elif keyword == "method":
            self.row = _no_block
            self.commands = _method(self.commands, *words)
        else:
            self.sums.append(_Sum(keyword, self.line, [_number(word) for word in words]))
            self.row = self.sums[-1].row

    def parameter(self, text: str) -> None:
        label, *words = text.split()
        value, presigma, *_ = (*map(_number, words[:2]), 0.0, 0.0)
        before = self.parameters.get(_label(label), (0.0, 0.0))
        self.parameters[int(label)] = (value or before[0], presigma or before[1])

    def comment(self, text: str) -> None:
        label, *words = text.split(None, 1)
        self.comments[_label(label)] = " ".join(words)


class _Sum:
    """A combination while its rows are read."""

    def __init__(self, keyword: str, line: Line, numbers: list[float]) -> None:
        self.keyword, self.line = keyword, line
        self.value, self.sigma, *_ = (*numbers, 0.0, 0.0)
        if len(numbers) not in (1, 2) or self.sigma < 0 or (keyword == "measurement" and self.sigma == 0):
            expected = "value and sigma > 0" if keyword == "measurement" else "value"
            raise ValueError(f"found {numbers} after {keyword!r}, expected its {expected}")
        self.labels: list[int] = []
        self.factors: list[float] = []

    def row(self, text: str) -> None:
        words = text.split()
        if len(words) % 2:
            raise ValueError(f"found {text!r}, expected pairs of label and factor")
        for i in range(0, len(words), 2):
            self.labels.append(_label(words[i]))
            self.factors.append(_number(words[i + 1]))

    def combination(self) -> Combination:
        labels, inverse = np.unique(np.array(self.labels, dtype=np.int64), return_inverse=True)
        factors = np.bincount(inverse, self.factors, minlength=len(labels))
        used = factors != 0
        if not used.any():
            raise SchemaError(f"{self.line}: found no factor other than 0, expected lines 'label factor'")
        return Combination(self.value, self.sigma, labels[used], factors[used], self.line)


def _no_block(text: str) -> None:
    raise ValueError(f"found {text!r}, expected a keyword such as 'Parameter' before lines of numbers")


def _method(commands: Commands, name: str = "", iterations: str = "0", limit: str = "", *_: str) -> Commands:
    names = {known.lower(): known for known in METHODS.split()}
    if name.lower() not in names:
        raise ValueError(f"found method {name!r}, expected one of {', '.join(names.values())}")
    return replace(
        commands,
        method=names[name.lower()],
        iterations=_whole(_positive(_number(iterations))) or commands.iterations,
        convergence=_number(limit) if limit else None,
    )


# What a command changes, given the commands before it and its numbers. Numbers too many are not looked at.
COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "presigma": lambda c, x, *_: {"presigma": x},
    "regularization": lambda c, x, s=None, *_: {
        "regularization": (x, 0.0),
        "presigma": c.presigma if s is None else s,
    },
    "entries": lambda c, *x: {
        "entries": tuple(
            _whole(a) if _positive(a) > 0.5 else b for a, b in zip((*x, 0, 0), c.entries, strict=False)
        )
    },
    "countrecords": lambda c, *_: {"countrecords": True},
    "hugecut": lambda c, x, *_: {"hugecut": max(_positive(x), 1.0)},
    "chisqcut": lambda c, a=1.0, b=1.0, *_: {"chisqcut": (_positive(a), _positive(b))},
    "outlierdownweighting": lambda c, x, *_: {"outlierdownweighting": max(_whole(_positive(x)), 2 * (x > 0))},
    "dwfractioncut": lambda c, x, *_: {"dwfractioncut": min(_positive(x), 0.5)},
    "scaleerrors": lambda c, *x: {
        "scaleerrors": tuple(_checked(a, a > 0, "a scale > 0") for a in (x[0], x[:2][-1]))
    },
    "mrestol": lambda c, x, *_: {"mrestol": _checked(x, 1e-10 <= x <= 1e-4, "1e-10 to 1e-4")},
    "printcounts": lambda c, x=1, *_: {"printcounts": x != 0},
    "skipemptycons": lambda c, *_: {"skipemptycons": True},
    "errlabels": lambda c, *x: {"errlabels": (*c.errlabels, *(_label(f"{label:.17g}") for label in x))},
    "maxrecord": lambda c, x, *_: {"maxrecord": max(_whole(x), 0)},
}
BARE = "countrecords chisqcut printcounts skipemptycons"  # commands that may have no number
KEYWORDS = [*BLOCKS.split(), *COMMANDS, *IGNORED.split(), "fortranfiles"]


def _label(word: str) -> int:
    label = int(word) if word.isdigit() and word.isascii() and len(word) < 99 else 0
    if 0 < label <= MAX_LABEL:
        return label
    raise ValueError(f"found {word!r}, expected a label: an integer from 1 to {MAX_LABEL}")


def _number(word: str) -> float:
    """A number, with D for the exponent if Fortran wrote it."""
    try:
        value = float(word.upper().replace("D", "E"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in word or not word.isascii():
        raise ValueError(f"found {word!r}, expected a finite number")
    return value


def _positive(value: float) -> float:
    return _checked(value, value >= 0, "a number >= 0")


def _whole(value: float) -> int:
    return int(_checked(value, value.is_integer(), "an integer"))


def _checked(value: float, good: bool, expected: str) -> float:
    if not good:
        raise ValueError(f"found {value}, expected {expected}")
    return value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that says something, without comments, up to `end`."""
    for number, line in enumerate(_content(path).split("\n"), start=1):
        text = line.partition("!")[0].strip()
        if text.lower() == "end":
            return
        if text and text[0] != "*":
            yield number, text


def _content(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SchemaError(f"{path}: cannot be read ({error.strerror}), expected steering text") from error
    if control := re.search(rb"[\0-\x08\x0e-\x1f]", data):
        raise SchemaError(f"{path}: found byte {control[0]!r} at {control.start()}, expected text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:  # a comment from before UTF-8
        return data.decode("latin-1")
