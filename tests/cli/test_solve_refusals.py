"""`alignnet solve` refuses in one line what it cannot solve, and leaves no result to be taken for one."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from called import called
from solved_toys import EXACT, TOY, solved, written

from alignnet.cli.solve import options_of, run
from alignnet.data.mille import MilleRecords
from alignnet.errors import AlignnetError, ConfigError, ConvergenceError, SchemaError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


REFUSED = {
    "Constraint 0\n999 1\n": (SchemaError, r"steer.txt:\d+: label 999 has no entry"),
    "Parameter\n999 0 0\n": (SchemaError, "parameter 999 has no entry in the binary files"),
    "Constraint 0\n11 1\n12 1\nConstraint 0\n11 2\n12 2\n": (
        SchemaError, r"steer.txt:\d+: the constraint follows from those before it"),
    "Constraint 0\n11 1\n12 1\nConstraint 1\n11 2\n12 2\n": (
        SchemaError, r"steer.txt:\d+: the constraint contradicts those before it"),
    "Parameter\n11 0 -1\nConstraint 0\n11 1\n": (SchemaError, "all of its parameters are fixed"),
    "entries 100000\n": (SchemaError, "no parameter is free"),
    "hugecut 1\nmethod inversion 1 1\n": (ConvergenceError, "records are rejected"),
    "maxrecord 10\n": (SchemaError, "maxrecord is not supported"),
    "nosuchcommand 3\n": (SchemaError, "nosuchcommand"),
    "missing.bin\n": (SchemaError, "missing.bin"),
    "Measurement 0 1e-160\n11 1\n": (SchemaError, r"steer.txt:\d+: found 1e-160"),
    "Measurement 1e300 1\n11 1\n": (SchemaError, r"steer.txt:\d+: found 1e\+300"),
    "Constraint 0\n11 1e300\n12 1e300\n": (SchemaError, r"steer.txt:\d+: found 1e\+300"),
    "Constraint 1e300\n11 1\n": (SchemaError, r"steer.txt:\d+: found 1e\+300"),
    "Parameter\n11 0 1e-200\n": (SchemaError, "steer.txt: parameter 11: found 1e-200"),
    "Parameter\n11 1e300 0\n": (SchemaError, r"steer.txt: parameter 11: found 1e\+300"),
    "entries -5\n": (SchemaError, r"steer.txt:\d+: found -5.0, expected a number >= 0"),
    "chisqcut -3 -3\n": (SchemaError, r"steer.txt:\d+: found -3.0"),
    "dwfractioncut -1\n": (SchemaError, r"steer.txt:\d+: found -1.0"),
    "outlierdownweighting -2\n": (SchemaError, r"steer.txt:\d+: found -2.0"),
    "hugecut -2\n": (SchemaError, r"steer.txt:\d+: found -2.0"),
    "method inversion -3 0.1\n": (SchemaError, r"steer.txt:\d+: found -3.0"),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_solved_is_refused_and_leaves_no_result(text):
    solved()  # an earlier result must not be taken for this run's
    kind, message = REFUSED[text]
    with pytest.raises(kind, match=message):
        solved(text)
    assert not Path("millepede.res").exists()
    assert Path("millepede.res~").is_file()


def test_a_damaged_binary_is_named_with_the_place_and_leaves_no_result():
    text = written()
    content = Path("data.bin").read_bytes()
    Path("data.bin").write_bytes(content[: len(content) // 2 + 2])
    with pytest.raises(SchemaError, match=r"data.bin: record at byte \d+"):
        run(text, EXACT)
    assert not Path("millepede.res").exists()


@pytest.mark.parametrize(
    "keys", ["errors=some", "tolerance=0", "tolerance=x", "max_iterations=0", "colour=red", "x"]
)
def test_keys_that_cannot_be_used_are_named(keys):
    with pytest.raises(ConfigError, match=keys.partition("=")[0] if "=0" not in keys else "tolerance"):
        options_of([keys])


def command_fails(*arguments: str) -> str:
    """The one line that the command says before it ends with code 2."""
    code, out, err = called("solve", *arguments, folder=Path())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("alignnet: error: ")
    return err


def test_without_a_text_it_says_how_it_is_called():
    assert "alignnet solve steer.txt" in command_fails()


@pytest.mark.parametrize("text", ["Parameter\n11 0 1e-40\n", "Constraint 0\n11 1e40\n12 1e-40\n13 1\n"])
def test_numbers_at_the_edge_print_no_warnings(text):
    """Whatever becomes of them, a line is all that is said."""
    written(text)
    code, _, err = called("solve", "steer.txt", folder=Path())  # where a warning is an error
    assert "Warning" not in err
    assert err.count("\n") == (code == 2)
    assert Path("millepede.res").exists() == (code == 0)


def test_a_result_that_cannot_be_written_is_refused_before_the_work(monkeypatch):
    monkeypatch.setattr("alignnet.cli.solve.solve_steering", lambda *_: pytest.fail("it has begun"))
    text = written()
    Path("millepede.json").mkdir()
    with pytest.raises(ConfigError, match=r"millepede.json is a folder"):
        run(text, EXACT)
    Path("millepede.json").rmdir()

    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("alignnet.cli.solve.TemporaryFile", refused)
    with pytest.raises(ConfigError, match=r"cannot write millepede\.res"):
        run(text, EXACT)


def test_failing_runs_keep_the_last_good_result():
    solved()
    good = Path("millepede.res").read_bytes()
    for text in ("Constraint 0\n999 1\n", "maxrecord 1\n", "nosuchcommand 3\n"):
        with pytest.raises(AlignnetError):
            solved(text)
        assert Path("millepede.res~").read_bytes() == good


def test_a_full_disk_leaves_no_result(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("alignnet.cli.solve.write_result", "alignnet.cli.solve.json.dumps"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(ConfigError, match=r"cannot write millepede.json: No space left on device"):
                solved()
        assert sorted(path.name for path in Path().iterdir()) == ["data.bin", "steer.txt"]


@pytest.mark.parametrize("start", [1e6, 1e12])
def test_start_values_that_leave_no_digits_are_refused(start):
    with pytest.raises(ConvergenceError, match=r"^steer.txt: χ²/ndf is .* at the start values"):
        solved(f"hugecut 1e40\nParameter\n11 {start} 0\n")
    near, _ = solved("hugecut 1e40\nParameter\n11 100 0\n")
    value, _ = solved()
    assert near.value == pytest.approx(value.value, abs=1e-5 * np.nanmin(value.error))


def test_a_singular_problem_names_its_text():
    nothing = MilleRecords(**{**vars(TOY.records), "global_value": 0 * TOY.records.global_value})
    with pytest.raises(AlignnetError, match=r"^steer\.txt: "):
        solved(records=nothing)


def test_the_command_ends_with_one_line_and_code_2_or_a_result():
    written()
    command = [sys.executable, "-m", "alignnet", "solve", "steer.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "written: millepede.res, millepede.json"
    written("Constraint 0\n999 1\n")
    assert command_fails("steer.txt").startswith("alignnet: error: steer.txt:")
    assert issubclass(SchemaError, AlignnetError)
