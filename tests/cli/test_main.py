"""`alignnet <command>`: the list of commands, and how a command is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import alignnet
from alignnet.cli import main as dispatcher

REPOSITORY = Path(__file__).resolve().parents[2]


def call(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["alignnet", *arguments])
    return dispatcher.main()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_alone_it_lists_every_command_with_a_line_of_its_own(monkeypatch, capsys, arguments):
    assert call(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for command, summary in dispatcher.COMMANDS.items():
        assert any(line.split() == [command, *summary.split()] for line in lines)


def test_a_misspelt_command_gets_one_line_that_says_which_was_meant(monkeypatch, capsys):
    assert call(monkeypatch, "trian", "trainer.max_epochs=5") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "alignnet: error: unknown command 'trian'; did you mean 'train'?\n"
    assert call(monkeypatch, "xyz") == 2
    assert "the commands are simulate, generate, find, train, " in capsys.readouterr().err


def test_python_m_alignnet_is_the_console_script():
    run = subprocess.run(
        [sys.executable, "-m", "alignnet", "--version"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == f"alignnet {alignnet.__version__}\n"


def test_lightning_can_repeat_the_run_from_what_it_sees(monkeypatch, capsys, tmp_path):
    """Another rank is `python -m <name of __main__> <arguments>`, or the file in sys.argv[0] with them."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text("import sys, __main__\nprint(__main__.__spec__.name, sys.argv)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(dispatcher, "MODULE", "{command}")
    monkeypatch.setitem(dispatcher.COMMANDS, "recipe", "prints how it was started")
    assert call(monkeypatch, "recipe", "a=1", "b=2") == 0
    assert capsys.readouterr().out == f"recipe {[str(recipe), 'a=1', 'b=2']}\n"


@pytest.mark.parametrize("command", dispatcher.COMMANDS)
def test_every_command_that_is_listed_has_a_recipe_and_a_configuration(command):
    assert (REPOSITORY / "alignnet" / "cli" / f"{command}.py").is_file()
    if command != "solve":  # whose configuration is a steering text
        assert (REPOSITORY / "conf" / f"{command}.yaml").is_file()
