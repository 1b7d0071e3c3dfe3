"""The documentation tells the truth: its Python runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from alignnet.cli.app import CONF
from alignnet.cli.main import COMMANDS
from alignnet.cli.solve import options_of

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
SOURCES = sorted((REPOSITORY / "alignnet").rglob("*.py")) + sorted((REPOSITORY / "tests").rglob("*.py"))

LIGHTNING = (  # advice on speed and on runs without a logger, for training that takes a second
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*Trying to infer the `batch_size`",
    "ignore:.*isinstance.treespec, LeafSpec.* is deprecated",
)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands() -> list[str]:
    lines = [line for path in DOCS for block in blocks(path, "sh") for line in block.splitlines()]
    words = (line.partition(" #")[0].strip() for line in lines)
    return [line for line in words if re.match(rf"alignnet ({'|'.join(COMMANDS)}) ", line)]


def anchors(path: Path) -> set[str]:
    """GitHub's names of a page's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.filterwarnings(*LIGHTNING)
def test_the_python_of_the_documentation_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = REPOSITORY / "docs" / "python.md"
    text = path.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks(path, "python"):
        line = text[: text.index(block)].count("\n")
        exec(compile("\n" * line + block, str(path), "exec"), names)  # line numbers are those of the page


@pytest.mark.parametrize("line", commands())
def test_every_command_that_is_shown_sets_keys_and_choices_that_exist(line):
    _, command, *rest = shlex.split(line)
    overrides = [word for word in rest if "=" in word]
    if command == "solve":  # whose keys are few, and not Hydra's
        options_of(overrides)
        return
    if "--multirun" in rest:  # the first of the values of each key
        overrides = [re.sub(r"=([^,\[]+),.*", r"=\1", word) for word in overrides]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        compose(command, overrides=overrides)  # raises for an unknown key or choice


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_between_pages_lead_to_a_heading(path):
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", path.read_text(encoding="utf-8")):
        page = (path.parent / target) if target else path
        assert page.is_file(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(page), f"{path.name} links to {target}#{anchor}"


def test_sections_that_the_code_refers_to_are_there():
    referred = {
        (page, heading.strip())
        for source in SOURCES
        for page, heading in re.findall(r"docs/([\w-]+\.md)(?:, ([A-Z][\w ]+))?", source.read_text("utf-8"))
    }
    assert referred
    for page, heading in referred:
        path = REPOSITORY / "docs" / page
        assert path.is_file(), page
        assert not heading or f"## {heading}" in path.read_text("utf-8"), f"{page} has no section {heading}"


def test_every_command_has_its_section():
    text = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"\n## {name}\n" not in text] == []
