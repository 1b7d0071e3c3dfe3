"""House rules that a reader relies on: arrows point one way, files are small, names say what is inside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "alignnet"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    {"units", "errors"},
    {"geometry"},
    {"physics"},
    {"sensors"},
    {"data"},
    {"loss"},
    {"solvers"},
    {"training"},
    {"evaluation", "export"},
    {"trackfinding"},
    {"online"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# The package's own file hands out names of every layer; python -m alignnet is the command line.
SPECIAL = {"__init__.py", "__main__.py"}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_layers(tree: ast.AST, path: Path) -> Iterator[str]:
    """The first word after `alignnet.` of every import in a file, wherever it stands; "" for alignnet."""
    package = ("alignnet", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "alignnet":
                yield rest.partition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    if path.parent == PACKAGE and path.name in SPECIAL:
        return
    layer = layer_of(path)
    assert layer in RANK, f"{path} is in no layer: give it one in LAYERS, or move it"
    for target in imported_layers(parse(path), path):
        if layer == "cli" and target not in RANK:
            continue  # alignnet itself: its version, its place
        assert target in RANK, f"{path} imports from alignnet itself, which imports {path.name} in turn"
        assert target == layer or RANK[target] < RANK[layer], f"{layer} must not know of {target} ({path})"


def test_a_wrong_arrow_is_seen_however_it_is_written():
    path = PACKAGE / "physics" / "helix.py"
    written = [
        "import alignnet.loss.chi2",
        "from alignnet.loss import chi2",
        "from alignnet import loss",
        "from ..loss.chi2 import HelixChi2",
        "from .. import loss",
        "def late():\n    from alignnet.loss.chi2 import HelixChi2",
    ]
    assert [list(imported_layers(ast.parse(text), path)) for text in written] == [["loss"]] * len(written)
    assert list(imported_layers(ast.parse("from . import material\nimport torch"), path)) == ["physics"]


def test_no_file_hides_two_ideas():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_every_name_says_what_is_inside():
    empty = {"utils", "util", "helper", "helpers", "common", "misc", "tools"}
    words = {part.removesuffix(".py") for path in FILES for part in path.relative_to(PACKAGE).parts}
    assert words & empty == set()


def test_every_file_opens_with_what_it_is_about():
    silent = [
        str(path.relative_to(PACKAGE))
        for path in FILES
        if (tree := parse(path)).body and ast.get_docstring(tree) is None
    ]
    assert silent == []
