"""Steering text: what pede understands is understood alike, and everything else is named with its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignnet.data.steering import IGNORED, METHODS, Binary, Commands, Line, read_steering
from alignnet.errors import SchemaError
from alignnet.export.millepede import write_result, write_steering

EXAMPLE = """\
* a survey of two planes
Cfiles                      ! the default
tracks.bin
cosmics.dat.gz -- 2.5       ! counts more

Parameter ! label, start, presigma
11  0.25
12  -1.0D-3   .5d+1
13  4         -1     0.0 17
14
Constraint 0.5
11 1.0   12 -2
  12 1 13 0 ! adds up to -1, and a zero
presigma 0.1
21 3
Measurement 0.01 2E-3
12 1.0
comment
11 the first plane, u
method Inversion 3 0.01
end
whatever
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a text, in a folder of its own with two binaries that nobody opens."""
    monkeypatch.chdir(tmp_path)
    for name in ("tracks.bin", "cosmics.dat.gz"):
        Path(name).write_bytes(b"\0")

    def written_and_read(text, name="steer.txt"):
        Path(name).write_text(text, encoding="utf-8")
        return read_steering(name)

    return written_and_read


def rows(combinations):
    return [(c.value, c.sigma, c.labels.tolist(), c.factors.tolist(), c.line.number) for c in combinations]


def test_everything_is_where_it_belongs(read):
    steering = read(EXAMPLE)
    files = [(str(b.path), b.weight, str(b.line)) for b in steering.binaries]
    assert files == [("tracks.bin", 1.0, "steer.txt:3"), ("cosmics.dat.gz", 2.5, "steer.txt:4")]
    assert steering.parameters == {11: (0.25, 0), 12: (-1e-3, 5), 13: (4, -1), 14: (0, 0)}
    assert rows(steering.constraints) == [(0.5, 0, [11, 12, 21], [1, -1, 3], 11)]
    assert rows(steering.measurements) == [(0.01, 2e-3, [12], [1], 16)]
    assert steering.comments == {11: "the first plane, u"}
    assert steering.commands == Commands("inversion", 3, 0.01, presigma=0.1)
    assert (steering.ignored, steering.guessed) == (("cfiles",), ())


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_comments_may_hold_letters_of_any_encoding(read, encoding, ending):
    text = EXAMPLE.replace("a survey", "größe: a survey").replace("first plane", "plane Süd")
    Path("steer.txt").write_bytes(text.replace("\n", ending).encode(encoding))
    assert read_steering("steer.txt").comments == {11: "the plane Süd, u"}


def test_the_current_folder_comes_before_the_texts_own(read):
    Path("run").mkdir()
    Path("run/tracks.bin").write_bytes(b"\0")
    Path("run/2024.bin").write_bytes(b"\0")
    steering = read("tracks.bin\n2024.bin\n../tracks.bin\n", "run/steer.txt")
    assert [str(b.path) for b in steering.binaries] == ["tracks.bin", "run/2024.bin", "run/../tracks.bin"]
    assert steering.binaries[1] == Binary(Path("run/2024.bin"), 1.0, Line(steering.path, 2))


def test_a_text_is_read_after_the_one_that_names_it_as_pede_does(read):
    Path("start.text").write_text("cosmics.dat.gz\nParameter\n1 5 0\nend\nrubbish\n")
    steering = read("tracks.bin\nParameter\nstart.text\n1 4 -1\nmethod inversion\n")
    assert steering.parameters == {1: (5, -1)}
    assert [b.line.file.name for b in steering.binaries] == ["steer.txt", "start.text"]


def test_a_block_ends_with_its_text(read):
    Path("more.txt").write_text("3 1.0\n")
    with pytest.raises(SchemaError, match=r"^more.txt:1: found '3 1.0', expected a keyword"):
        read("tracks.bin\nmore.txt\nConstraint 0\n1 1.0\n")


def test_a_file_with_the_name_of_a_misspelt_keyword_is_a_file(read):
    Path("constraints").write_bytes(b"\0")
    assert str(read("constraints\n").binaries[0].path) == "constraints"


def test_a_result_of_pede_gives_start_values(read):
    write_result("start.txt", [1, 2], [0.5, -0.25], presigma=[0, -1], error=0.1)
    assert read("tracks.bin\nstart.txt\n").parameters == {1: (0.5, 0), 2: (-0.25, -1)}


def test_defaults_are_those_of_pede(read):
    assert read("tracks.bin").commands == Commands()


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("method DECOMPOSITION 2", {"method": "decomposition", "iterations": 2}),
        ("method inversion 5 0.1\nmethod fullMINRES-QLP", {"method": "fullMINRES-QLP", "iterations": 5}),
        ("PreSigma 0.25", {"presigma": 0.25}),
        ("regularization 2 0.5", {"regularization": (2, 0.5), "presigma": 0.5}),
        ("regularisation 2\npresigma .5", {"regularization": (2, 0.5), "presigma": 0.5}),
        ("entries 50", {"entries": (50, 10, 0)}),
        ("entries 50 20 2 ! all", {"entries": (50, 20, 2)}),
        ("entries 0 5", {"entries": (25, 5, 0)}),
        ("countrecords", {"countrecords": True}),
        ("hugecut 1.e7", {"hugecut": 1e7}),
        ("hugecut 0.5", {"hugecut": 1.0}),
        ("chisqcut 30. 6.", {"chisqcut": (30, 6)}),
        ("chisqcut", {"chisqcut": (1, 1)}),
        ("outlierdownweighting 4", {"outlierdownweighting": 4}),
        ("outlierdownweighting 1", {"outlierdownweighting": 2}),
        ("dwfractioncut 0.9", {"dwfractioncut": 0.5}),
        ("scaleerrors 2", {"scaleerrors": (2, 2)}),
        ("scaleerrors 2 3", {"scaleerrors": (2, 3)}),
        ("mrestol 1D-8", {"mrestol": 1e-8}),
        ("printcounts 2", {"printcounts": True}),
        ("printcounts\nprintcounts 0", {}),
        ("skipemptycons 1", {"skipemptycons": True}),
        ("errlabels 3 5\nerrlabels 2147483647", {"errlabels": (3, 5, 2**31 - 1)}),
        ("maxrecord 1000", {"maxrecord": 1000}),
    ],
)
def test_a_command_sets_its_field(read, text, changes):
    assert read("tracks.bin\n" + text).commands == replace(Commands(), **changes)


@pytest.mark.parametrize("method", METHODS.split())
def test_methods_are_known_in_any_case(read, method):
    assert read(f"tracks.bin\nmethod {method.upper()}").commands.method == method


def test_what_is_pedes_own_business_is_listed_once(read):
    lines = [f"{word.upper()} 5 of something" for word in IGNORED.split()]
    assert read("\n".join(["tracks.bin", *lines, *lines])).ignored == tuple(IGNORED.split())


def test_a_close_spelling_is_understood_and_told(read):
    steering = read("tracks.bin\nParameters\n1 2 3\nConstrains 0\n1 1\nchiscut 9 3\nhugcut 1.e7\n")
    assert (steering.parameters, len(steering.constraints)) == ({1: (2, 3)}, 1)
    assert steering.commands == Commands(chisqcut=(9, 3), hugecut=1e7)
    assert steering.guessed == (
        "steer.txt:2: 'Parameters' read as 'parameter'",
        "steer.txt:4: 'Constrains' read as 'constraint'",
        "steer.txt:6: 'chiscut' read as 'chisqcut'",
        "steer.txt:7: 'hugcut' read as 'hugecut'",
    )


labels = st.integers(1, 2**31 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
factors = st.dictionaries(labels, finite.filter(bool), min_size=1, max_size=6)
words = st.text("abcxyz 0123456789.é", min_size=1).map(lambda text: " ".join(text.split())).filter(bool)


@st.composite
def numbers(draw, value):
    """A number as one of the languages writes it, with all its digits."""
    text = draw(st.sampled_from(["{!r}", "{:.17g}", "{:.16E}", "{:+.16e}"])).format(value)
    return text.replace("E", draw(st.sampled_from(["E", "D"]))).replace("e", draw(st.sampled_from("ed")))


@st.composite
def cased(draw, word):
    return "".join(draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in word)


@st.composite
def lines(draw, content):
    """The lines of a block as somebody may have typed them."""
    text = "\n".join(content)
    blank = draw(st.sampled_from([" ", "   ", "\t"]))
    ends = draw(st.sampled_from(["\n", "\r\n", " ! 5 6\n", "\n\n* end\n", "\nthreads 3 1\n"]))
    return text.replace(" ", blank).replace("\n", ends) + ends


@st.composite
def combination_text(draw, keyword, right_side, terms):
    pairs = [f"{label} {draw(numbers(factor))}" for label, factor in terms.items()]
    width = draw(st.integers(1, 3))
    rows = [" ".join(pairs[i : i + width]) for i in range(0, len(pairs), width)]
    head = [draw(cased(keyword)), *[draw(numbers(x)) for x in right_side]]
    return draw(lines([" ".join(head), *rows]))


@given(
    data=st.data(),
    parameters=st.dictionaries(labels, st.tuples(finite, finite), max_size=5),
    constraints=st.lists(st.tuples(finite, factors), max_size=3),
    measurements=st.lists(st.tuples(finite, st.floats(1e-300, 1e300), factors), max_size=3),
    comments=st.dictionaries(labels, words, max_size=3),
    weight=st.floats(0, 1e300),
)
def test_what_is_written_is_read(
    tmp_path_factory, data, parameters, constraints, measurements, comments, weight
):
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.bin").write_bytes(b"\0")
    blocks = [f"a.bin -- {data.draw(numbers(weight))}\n"]
    blocks += [data.draw(combination_text("constraint", (c[0],), c[1])) for c in constraints]
    blocks += [data.draw(combination_text("measurement", m[:2], m[2])) for m in measurements]
    values = [[str(k), *[data.draw(numbers(x)) for x in pair]] for k, pair in parameters.items()]
    blocks += [data.draw(lines(["Parameter", *map(" ".join, values)]))]
    blocks += ["Comment\n" + "".join(f"{label} {text} ! more\n" for label, text in comments.items())]
    path = folder / "round_trip.txt"
    path.write_text("".join(blocks), encoding="utf-8", newline="")
    steering = read_steering(path)
    assert [b.weight for b in steering.binaries] == [weight]
    assert (steering.parameters, steering.comments) == (parameters, comments)
    exact = [(value, 0, terms) for value, terms in constraints]
    for found, expected in ((steering.constraints, exact), (steering.measurements, measurements)):
        terms = [dict(zip(c.labels.tolist(), c.factors.tolist(), strict=True)) for c in found]
        assert [(c.value, c.sigma, t) for c, t in zip(found, terms, strict=True)] == expected
        assert all((np.diff(c.labels) > 0).all() for c in found)


FAULTS = {
    "no binary": ("Parameter\n1 0 0\n", "steer.txt: found no binary"),
    "missing binary": ("\nnone.bin\n", r"steer.txt:2: found 'none.bin', but no such file here or in \."),
    "missing file with a blank": ("my tracks.dat\n", "steer.txt:1: found 'my tracks.dat', but no such file"),
    "missing file with a weight": ("none.bin -- 2\n", "steer.txt:1: found 'none.bin', but no such file"),
    "missing file of another folder": ("../none\n", "steer.txt:1: found '../none', but no such file"),
    "negative weight": ("tracks.bin -- -2\n", r"steer.txt:1: found -2.0, expected a weight >= 0"),
    "weight in letters": ("tracks.bin -- two\n", "steer.txt:1: found 'two', expected a finite number"),
    "itself": ("tracks.bin\n./steer.txt\n", "steer.txt:2: found './steer.txt' again"),
    "Fortran files": ("fortranfiles\n", "steer.txt:1: found 'fortranfiles', expected .*choose Mille's C"),
    "unknown keyword": (
        "tracks.bin\nxyzzy 3\n",
        "steer.txt:2: found 'xyzzy', expected a file that exists or a keyword; closest: [a-z, ]+$",
    ),
    "ambiguous keyword": ("witheliminaton\n", "closest: withelimination, withlapackelimination"),
    "unknown method": ("method magic 3\n", "steer.txt:1: found method 'magic', expected one of inversion, "),
    "no method": ("method\n", "found method '', expected one of inversion, "),
    "method with letters": ("method inversion three\n", "found 'three', expected a finite number"),
    "half an iteration": ("method inversion 1.5\n", "found 1.5, expected an integer"),
    "command alone": ("presigma\n", "steer.txt:1: found 'presigma' alone, expected a number after it"),
    "command with letters": ("hugecut much\n", "found 'much', expected a finite number"),
    "half an entry": ("entries 2.5\n", "found 2.5, expected an integer"),
    "no scale": ("scaleerrors 1 0\n", "found 0.0, expected a scale > 0"),
    "tolerance": ("mrestol 1\n", "found 1.0, expected 1e-10 to 1e-4"),
    "error of no label": ("errlabels 1.5\n", "found '1.5', expected a label"),
    "numbers in no block": ("1 2.0\n", "steer.txt:1: found '1 2.0', expected a keyword such as 'Parameter'"),
    "numbers after method": (
        "Parameter\nmethod inversion\n1 0 0\n",
        "steer.txt:3: found '1 0 0', expected a",
    ),
    "label 0": (
        "Parameter\n0 1 1\n",
        "steer.txt:2: found '0', expected a label: an integer from 1 to 2147483647",
    ),
    "large label": ("Constraint 0\n2147483648 1\n", "steer.txt:2: found '2147483648', expected a label"),
    "huge label": ("Comment\n" + 5000 * "9" + " x\n", "steer.txt:2: found '9+', expected a label"),
    "negative label": ("Measurement 0 1\n-3 1\n", "steer.txt:2: found '-3', expected a label"),
    "broken label": ("Parameter\n1.5 1 1\n", "steer.txt:2: found '1.5', expected a label"),
    "label of other digits": ("Parameter\n1² 1 1\n", "steer.txt:2: found '1²', expected a label"),
    "nan": ("Parameter\n1 nan 1\n", "steer.txt:2: found 'nan', expected a finite number"),
    "inf": ("Constraint 0\n1 1\n1 -inf\n", "steer.txt:3: found '-inf', expected a finite number"),
    "overflow": ("Constraint 1D999\n1 1\n", "steer.txt:1: found '1D999', expected a finite number"),
    "underscore": ("Constraint 0\n1 1_0\n", "steer.txt:2: found '1_0', expected a finite number"),
    "odd pairs": ("Constraint 0\n1 1 2\n", "steer.txt:2: found '1 1 2', expected pairs of label and factor"),
    "no value": ("Constraint\n1 1\n", r"steer.txt:1: found \[\] after 'constraint', expected its value"),
    "negative width": ("Constraint 0 -1\n1 1\n", r"found \[0.0, -1.0\] after 'constraint'"),
    "three values": ("Constraint 0 1 2\n1 1\n", r"found \[0.0, 1.0, 2.0\] after 'constraint'"),
    "no sigma": (
        "Measurement 3\n1 1\n",
        r"found \[3.0\] after 'measurement', expected its value and sigma > 0",
    ),
    "sigma 0": ("Measurement 3 0\n1 1\n", r"steer.txt:1: found \[3.0, 0.0\] after 'measurement'"),
    "empty": (
        "tracks.bin\nConstraint 0\nMeasurement 0 1\n1 1\n",
        "steer.txt:2: found no factor other than 0",
    ),
    "all zero": ("tracks.bin\nMeasurement 0 1\n1 0\n", "steer.txt:2: found no factor other than 0"),
    "cancelled": ("tracks.bin\nConstraint 0\n1 5 1 -5\n", "steer.txt:2: found no factor other than 0"),
    "not text": ("tracks.bin\n\0", r"steer.txt: found byte b'\\x00' at 11, expected text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_line(read, fault):
    text, message = FAULTS[fault]
    with pytest.raises(SchemaError, match=message) as error:
        read(text)
    assert str(error.value).startswith("steer.txt:")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "message"), [("none.txt", "No such file"), (".", "Is a directory")])
def test_what_cannot_be_read_is_named(read, name, message):
    with pytest.raises(SchemaError, match=rf"{name}: cannot be read \({message}"):
        read_steering(name)


def test_texts_that_name_each_other_are_refused(read):
    Path("a.txt").write_text("tracks.bin\nb.txt\n")
    Path("b.txt").write_text("\na.txt\n")
    with pytest.raises(SchemaError, match=r"^b.txt:2: found 'a.txt' again"):
        read_steering("a.txt")


def test_a_line_longer_than_a_file_name_can_be(read):
    wide = " ".join(f"{label} 1.0" for label in range(1, 1001))
    steering = read(f"tracks.bin\nerrlabels {' '.join(map(str, range(1, 200)))}\nConstraint 0\n{wide}\n")
    assert (len(steering.commands.errlabels), len(steering.constraints[0].labels)) == (199, 1000)
    with pytest.raises(SchemaError, match="expected a file that exists or a keyword"):
        read("x" * 5000)


def test_what_alignnet_writes_is_read(read):
    rng = np.random.default_rng(3)
    label, start, matrix = rng.permutation(99)[:12] + 1, rng.normal(size=12), rng.normal(size=(2, 12))
    fixed = np.arange(12) % 5 == 0
    write_steering("steer.txt", ["tracks.bin"], label, fixed, 0.5, start, matrix)
    steering = read_steering("steer.txt")
    presigma = np.where(fixed, -1.0, 0.5).tolist()
    assert steering.parameters == dict(zip(label.tolist(), zip(start, presigma, strict=True), strict=True))
    for constraint, row in zip(steering.constraints, matrix, strict=True):
        order = np.argsort(label)
        assert np.array_equal(constraint.labels, label[order])
        assert np.array_equal(constraint.factors, row[order])
    assert steering.commands == Commands(
        "inversion", 3, 0.01, countrecords=True, entries=(10, 5, 0), hugecut=1e7
    )


def test_long_constraints_are_read_whole(read):
    matrix = np.random.default_rng(4).normal(size=(2, 100_000))
    with Path("cons.txt").open("w") as file:
        for row in matrix:
            file.write("Constraint 0.0\n")
            file.write("\n".join(f"{j + 1} {row[j]:.9g}" for j in range(len(row))) + "\n")
    constraints = read("tracks.bin\ncons.txt\n").constraints
    assert [str(c.line) for c in constraints] == ["cons.txt:1", "cons.txt:100002"]
    for constraint, row in zip(constraints, matrix, strict=True):
        assert np.array_equal(constraint.labels, np.arange(1, 100_001))
        np.testing.assert_allclose(constraint.factors, row, rtol=1e-8)
