"""What is damaged in the folder of a training run is one error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alignnet.cli.run_folder import trained_config, trained_metrics, warn_unless_converged
from alignnet.errors import CheckpointError

CONFIG = "data: {files: [tracks.root]}\ndetector: {path: null}\nsensors: {start: null}\n"


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder as a training leaves it."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(CONFIG)
    (tmp_path / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: {tmp_path}}}}}\n")
    (tmp_path / "alignment.root").touch()
    return tmp_path


def test_the_configuration_of_a_run_is_found_wherever_it_is_asked_for(run):
    assert trained_config(run).data.files == [str(run / "tracks.root")]


@pytest.mark.parametrize("name", ["config.yaml", "hydra.yaml"])
@pytest.mark.parametrize("content", [b"\x80\xff", b"a: [1, 2", b"[1, 2]\n", b"a: ${b", b"- words\n"])
def test_a_damaged_configuration_is_named(name, content, run):
    (run / ".hydra" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"\.hydra/{name}: damaged, ") as caught:
        trained_config(run)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("missing", ["data", "detector", "sensors"])
def test_a_configuration_of_another_program_is_named(missing, run):
    lines = [line for line in CONFIG.splitlines() if not line.startswith(missing)]
    (run / ".hydra" / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(CheckpointError, match=rf"config\.yaml: damaged, or not of a .* it has no {missing}"):
        trained_config(run)


DAMAGED = {
    "": "is empty",
    '{"history": [': r"is no JSON \(Expecting value",
    "[1, 2]": "has no numbers by their names",
    '{"convergence": 3}': "has a convergence that alignnet train does not write",
    '{"convergence": {"converged": false}}': "has a convergence that",
    '{"history": {"epoch": 1}}': "has a history that",
}


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_metrics_are_named(content, run):
    (run / "metrics.json").write_text(content)
    for use in (trained_metrics, warn_unless_converged):
        with pytest.raises(CheckpointError, match=rf"metrics\.json: damaged, it {DAMAGED[content]}.*remove"):
            use(run)


def test_a_run_may_have_no_metrics(run, caplog):
    assert trained_metrics(run) == {}
    warn_unless_converged(run)
    assert not caplog.messages


def test_what_has_not_converged_is_told(run, caplog):
    status = {"converged": False, "reasons": ["the step is 3 µm"]}
    (run / "metrics.json").write_text(json.dumps({"convergence": status, "history": [{"epoch": 0.0}]}))
    warn_unless_converged(run)
    assert caplog.messages == [f"{run} has not converged: the step is 3 µm"]


@settings(max_examples=50)
@given(content=st.binary(max_size=40) | st.recursive(st.integers(), st.lists).map(lambda v: str(v).encode()))
def test_bytes_that_are_no_object_are_an_error(content, tmp_path_factory):
    assume(not content.strip().startswith(b"{"))
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.json: damaged, it "):
        trained_metrics(folder)
