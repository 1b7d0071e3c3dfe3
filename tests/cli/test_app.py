"""What every command does alike, shown on a small one: configuration, help, and errors in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alignnet.cli.app import build
from alignnet.cli.messages import check_options, one_line
from alignnet.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]

FILES = {
    "conf/draw.yaml": """
defaults:
  - shape: circle
  - _self_
  - override hydra/output: alignnet
  - override hydra/help: alignnet
  - override hydra/job_logging: alignnet
pen:
  width: 2
  ink: ???
times: 1
hydra:
  help:
    header: Draws a shape.
    footer: |-
      the keys used most:
        times    how often
""",
    "conf/shade/grey.yaml": "value: 0.5\n",
    "conf/shape/circle.yaml": "_target_: shapes.Shape\nname: circle\nsizes: [1, 2]\n",
    "conf/shape/square.yaml": "_target_: shapes.Shape\nname: square\nsizes: [3]\n",
    "shapes.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class Pen:
    width: int = 2

class Shape:
    def __init__(self, name, sizes, pen=None):
        self.name, self.sizes, self.pen = name, sizes, pen
        if sizes and sizes[0] < 0:
            from alignnet.errors import GeometryError
            raise GeometryError(f"a {name} of size {sizes[0]}: give one above 0")
""",
    "draw.py": """
import logging
from pathlib import Path
from shapes import Pen
from alignnet.cli.app import build, command
from alignnet.errors import GeometryError

@command("draw", config_path=str(Path(__file__).parent / "conf"))
def main(config):
    if config.times > 1:
        raise GeometryError(f"cannot draw it {config.times} times:\\n give times=1")
    if config.times < 0:
        raise RuntimeError("a mistake of the program")
    shape = build(config.shape, pen=Pen())
    logging.getLogger("somebody.else").info("noise")
    logging.getLogger(__name__).info("%s drawn", shape.name)
    print(type(shape.sizes).__name__, type(shape.pen).__name__, config.pen.ink)

if __name__ == "__main__":
    main()
""",
}


@pytest.fixture
def drawing(tmp_path, monkeypatch) -> Path:
    """The folder of a command `draw`, with conf/ and what its nodes construct; it can be imported from."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    # where results go and how help looks is what every command uses
    shutil.copytree(REPOSITORY / "conf" / "hydra", tmp_path / "conf" / "hydra")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("shapes", None)


@pytest.fixture
def complaint(drawing, monkeypatch):
    """The line about a configuration that cannot be composed, or whose shape cannot be built."""

    def of(*overrides: str) -> str | None:
        monkeypatch.setattr(sys, "argv", ["draw", *overrides])
        conf = str(drawing / "conf")
        try:
            with initialize_config_dir(version_base="1.3", config_dir=conf):
                config = compose("draw", overrides=list(overrides))
            build(config.shape, pen=config.pen.ink)
        except Exception as error:
            return one_line(error, conf, "draw")
        pytest.fail(f"{overrides} was accepted")

    return of


def draw(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "draw.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_a_run_gets_plain_values_and_leaves_its_log_under_outputs(drawing):
    run = draw(drawing, "pen.ink=blue", "shape=square")
    assert (run.returncode, run.stdout, run.stderr) == (0, "square drawn\nlist Pen blue\n", "")
    (log,) = drawing.glob("outputs/draw/*/*/draw.log")
    assert [line.split(": ")[1] for line in log.read_text().splitlines()] == ["noise", "square drawn"]
    assert (log.parent / ".hydra" / "config.yaml").is_file()


def test_help_says_what_the_command_does_and_what_can_be_chosen(drawing):
    run = draw(drawing, "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(
        "usage: alignnet draw [key=value ...]\n\nDraws a shape.\n\nthe keys used most:"
    )
    assert "shape: circle, square" in run.stdout


def test_an_error_is_one_line_and_exit_code_2(drawing):
    run = draw(drawing, "pen.ink=blue", "times=2")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "alignnet: error: cannot draw it 2 times: give times=1\n"


def test_an_unknown_key_is_named_with_the_one_that_was_meant(drawing):
    run = draw(drawing, "pen.withd=3")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("alignnet: error: unknown key 'pen.withd'; did you mean pen.width?")
    assert run.stderr.count("\n") == 1


def test_a_sweep_goes_on_after_an_error_and_still_fails(drawing):
    run = draw(drawing, "--multirun", "pen.ink=blue", "times=2,1")
    assert run.returncode == 2
    assert "circle drawn\nlist Pen blue" in run.stdout
    assert run.stderr.splitlines()[-1] == "alignnet: error: cannot draw it 2 times: give times=1"
    assert "Traceback" not in run.stderr


def test_a_mistake_of_the_program_keeps_its_traceback_and_so_does_debugging(drawing):
    run = draw(drawing, "pen.ink=blue", "times=-1")
    assert run.returncode == 1
    assert run.stderr.endswith("RuntimeError: a mistake of the program\n")
    run = draw(drawing, "pen.ink=blue", "times=2", ALIGNNET_DEBUG="1")
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert "GeometryError: cannot draw it 2 times" in run.stderr


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("tims=3", "unknown key 'tims'; did you mean times?"),
        ("ink=blue", "unknown key 'ink'; did you mean pen.ink?"),
        ("shap=square", "unknown key 'shap'; did you mean shape? `alignnet draw --cfg job` prints all keys"),
        ("s=1", "unknown key 's'; `alignnet draw --cfg job` prints all keys"),
        ("zzz=1", "unknown key 'zzz'; `alignnet draw --cfg job` prints all keys"),
        ("shape=triangle", "shape=triangle: there is no such choice, only circle, square"),
        ("times", "cannot read 'times': values are set as key=value"),
        ("shape=null", "shape is null; `alignnet draw --help` lists the choices"),
        ("pen.width=2", "pen.ink has no value: give one, pen.ink=..."),
        ("+pen.width=3", "Could not append to config. An item is already at 'pen.width'."),
        ("shape.name=${pen.nib}", "Interpolation key 'pen.nib' not found"),
        ("+shape.colour=red", "shape.colour: Shape takes no 'colour', only name, sizes, pen"),
        ("~shape.sizes", "shape: Shape: missing a required argument: 'sizes'; it takes name, sizes, pen"),
        ("~shape._target_", "shape has no _target_"),
        ("shape._target_=shapes.Triangle", "shape: Error locating target 'shapes.Triangle'"),
        ("shape.sizes=[-1]", "a circle of size -1: give one above 0"),
    ],
)
def test_a_line_names_the_key_and_what_it_accepts(complaint, override, line):
    said = complaint(override) if override == "pen.width=2" else complaint(override, "pen.ink=blue")
    assert said.startswith(line)
    assert "\n" not in said


def test_an_error_inside_an_object_that_hydra_makes_is_found(drawing):
    inner = OmegaConf.create({"shape": {"_target_": "shapes.Shape", "name": "circle", "sizes": [-1]}})
    outer = OmegaConf.create({"_target_": "builtins.dict", "inner": inner.shape})
    with pytest.raises(Exception, match="give one above 0") as caught:
        build(outer)
    assert one_line(caught.value, str(drawing / "conf"), "draw") == "a circle of size -1: give one above 0"


def test_what_looks_like_an_option_is_refused_unless_it_is_one(drawing):
    conf = str(drawing / "conf")
    check_options(["--multirun", "-m", "--cfg", "job", "--cfg=job", "times=-1"], conf, "draw")
    with pytest.raises(ConfigError, match=r"unknown option '--width': .* did you mean pen\.width\?"):
        check_options(["--width", "5"], conf, "draw")
    with pytest.raises(ConfigError, match=r"unknown option '-x'"):
        check_options(["-x"], conf, "draw")


def test_a_file_that_is_not_there_is_named_and_a_bug_is_not_explained_away(tmp_path):
    with pytest.raises(OSError, match="no such file") as caught:
        raise FileNotFoundError(2, "no such file", "tracks.root")
    assert one_line(caught.value, str(tmp_path), "draw") == "tracks.root: no such file"
    assert one_line(ZeroDivisionError("division by zero"), str(tmp_path), "draw") is None


def test_build_hands_objects_over_as_they_are(drawing):
    given = {"an": "object"}
    node = OmegaConf.create({"_target_": "shapes.Shape", "name": "circle", "sizes": [1]})
    shape = build(node, pen=given)
    assert shape.pen is given
    assert type(shape.sizes) is list
    assert build(None) is None


def test_a_partial_node_gives_the_callable_still_waiting(drawing):
    node = OmegaConf.create({"_target_": "shapes.Shape", "_partial_": True, "name": "circle"})
    make = build(node, pen="blue")
    assert isinstance(make, partial)
    assert make(sizes=[1]).pen == "blue"
