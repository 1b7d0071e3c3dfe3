"""The documentation tells the truth: its code runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alignnet.cli.app import CONF
from alignnet.cli.main import COMMANDS
from alignnet.cli.solve import options_of
from alignnet.cli.task import file_of

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PAGES = [REPOSITORY / "README.md", *DOCS, *NOTEBOOKS]
SOURCES = sorted((REPOSITORY / "alignnet").rglob("*.py")) + sorted((REPOSITORY / "tests").rglob("*.py"))

LIGHTNING = (  # advice on speed and on runs without a logger, for training that takes a second
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*Trying to infer the `batch_size`",
    "ignore:.*isinstance.treespec, LeafSpec.* is deprecated",
)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands_of(path: Path) -> list[str]:
    """The commands of a page, from its lines for a shell and from its scripts, a line each."""
    text = "\n".join(block for language in ("sh", "bash") for block in blocks(path, language))
    words = (line.partition(" #")[0].strip() for line in re.sub(r"\\\n\s*", "", text).splitlines())
    found = (re.search(rf"(?:^|-m )alignnet (?:{'|'.join(COMMANDS)}) .*", line) for line in words)
    return [match[0].removeprefix("-m ") for match in found if match]


COMMAND_LINES = [pytest.param(path, line, id=line) for path in DOCS for line in commands_of(path)]


def text_of(path: Path) -> str:
    """What a page says; of a notebook, its cells of text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return "\n".join("".join(cell["source"]) for cell in cells)


def anchors(path: Path) -> set[str]:
    """GitHub's names of a page's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# a block of data-format.md is of a cache of the reader's
RUNNABLE = [path for path in DOCS if blocks(path, "python") and path.name != "data-format.md"]


@pytest.fixture
def _default_dtype():
    """Pages may choose the precision of the numbers that they write down."""
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings(*LIGHTNING)
@pytest.mark.usefixtures("_default_dtype")
@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_the_python_of_the_documentation_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks(path, "python"):
        line = text[: text.index(block)].count("\n")
        exec(compile("\n" * line + block, str(path), "exec"), names)  # line numbers are those of the page


@pytest.mark.parametrize(("path", "line"), COMMAND_LINES)
def test_every_command_that_is_shown_sets_keys_and_choices_that_exist(path, line, tmp_path):
    _, command, *rest = shlex.split(line)
    command = file_of(command, rest)
    overrides = [word for word in rest if "=" in word and not word.startswith("--")]
    if command == "solve":  # whose keys are few, and not Hydra's
        options_of(overrides)
        return
    if "--multirun" in rest:  # the first of the values of each key
        overrides = [re.sub(r"=([^,\[{]+),.*", r"=\1", word) for word in overrides]
    given = [word.partition("=")[2] for word in rest if word.startswith("--config-dir=")]
    write_configurations(path, tmp_path)
    overrides += [f"hydra.searchpath=[file://{tmp_path / folder}]" for folder in given]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        compose(command, overrides=overrides)  # raises for an unknown key or choice


def write_configurations(page: Path, folder: Path) -> None:
    """The files of a page that begin with a comment which names them."""
    for block in blocks(page, "yaml"):
        if name := re.match(r"# ([\w./]+\.yaml)\n", block):
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(block)


SCRIPTS = [
    pytest.param(s, id=f"{path.stem}-{i}") for path in DOCS for i, s in enumerate(blocks(path, "bash"))
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_in_the_language_of_the_shell(script, tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash to read scripts with")
    done = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


SBATCH = {
    "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem-per-cpu", "time", "signal", "requeue",
    "open-mode", "array",
}  # fmt: skip


def test_a_job_starts_once_and_goes_on_from_its_checkpoint(tmp_path):
    """The script of the page, with commands that say how they were called in the place of SLURM's."""
    script = blocks(REPOSITORY / "docs" / "cluster.md", "bash")[0]
    assert set(re.findall(r"^#SBATCH --([\w-]+)", script, flags=re.M)) <= SBATCH
    run = tmp_path / "its2"
    script = script.replace("/shared/runs/its2", str(run))
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*"\n[ {name} = scontrol ] || exit 143\n')
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": "47",
        "SLURM_NTASKS_PER_NODE": "8",
        "SLURM_NNODES": "2",
        "PATH": f"{tmp_path}:/usr/bin:/bin",
    }

    def submitted() -> list[str]:
        done = subprocess.run(["bash", "-c", script], env=job, capture_output=True, text=True, check=False)
        assert done.returncode == 143
        started, queued = done.stdout.splitlines()
        assert queued == "scontrol requeue 47"
        return started.split()

    first = submitted()
    assert first[:3] == ["srun", "alignnet", "train"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        config = compose("train", overrides=first[3:])
    assert (config.trainer.devices, config.trainer.num_nodes) == (8, 2)
    assert OmegaConf.to_object(config.data.files) == ["/shared/its2.root"]
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    assert submitted()[3:] == [f"resume={run}"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_to_a_heading(path):
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", text_of(path)):
        page = (path.parent / target) if target else path
        assert page.is_file(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(page), f"{path.name} links to {target}#{anchor}"


def test_every_page_and_notebook_is_linked_from_the_first():
    text = text_of(PAGES[0])
    for page in PAGES[1:]:
        assert f"]({page.relative_to(REPOSITORY)})" in text, page.name


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
