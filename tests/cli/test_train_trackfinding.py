"""`alignnet train task=trackfinding`: what it leaves, that it goes on, and that every row can be trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import configured, finish, start

from alignnet.cli.app import CONF, build
from alignnet.cli.task import file_of
from alignnet.cli.trackfinding import check
from alignnet.cli.trackfinding import main as train_command
from alignnet.errors import ConfigError, SchemaError
from alignnet.trackfinding.multiplicities import comparison, comparison_figure, comparison_table
from alignnet.trackfinding.pictures import printed_curves
from alignnet.trackfinding.table import SHOWN, collected, row_of, short_of_print, table, with_roots

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = sorted(path.stem for path in Path(CONF, "experiment", "trackfinding").glob("*.yaml"))
FEW = ("data.batch_size=2", "data.events=2", "data.validation=2", "data.test=2", "trainer.max_epochs=1")
CPU = "trainer.accelerator=cpu"


def train(folder: Path, *overrides: str) -> dict:
    """Train in this process; the metrics."""
    config = configured("trackfinding", *overrides, CPU, f"hydra.run.dir={folder}", hydra=True)
    config.hydra.runtime.output_dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    HydraConfig.instance().set_config(config)
    try:
        train_command.__wrapped__(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]))
    finally:
        HydraConfig.instance().cfg = None
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def line_run(tmp_path_factory) -> Path:
    """A few seconds of attention over lines in 3D."""
    folder = tmp_path_factory.mktemp("trackfinding") / "run"
    few = ("data.batch_size=16", "data.events=48", "data.validation=32", "data.test=200")
    train(folder, "experiment=trackfinding/line_planes", "trainer.max_epochs=2", *few)
    return folder


def test_a_run_leaves_its_numbers_those_of_the_baselines_its_curve_and_its_pictures(line_run):
    metrics = json.loads((line_run / "metrics.json").read_text())
    assert metrics["training_events"] == 96
    assert [entry["events"] for entry in metrics["history"]] == [48, 96]
    assert set(metrics["baselines"]) == {"seeds_extrapolated", "road_following"}
    assert metrics["test"]["hit"] > 0.95
    assert metrics["test"]["hit"] > metrics["baselines"]["seeds_extrapolated"]["hit"]
    assert 0 < metrics["cpu_minutes"] < 5
    assert {path.name for path in (line_run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    board = EventAccumulator(str(line_run / "tensorboard")).Reload()
    assert {"events", "learning"} <= set(board.Tags()["images"])
    assert {"train/loss_epoch", "val/hit", "val/pixel", "val/track"} <= set(board.Tags()["scalars"])


def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path):
    options = (
        "experiment=trackfinding/a1",
        "data.batch_size=4",
        "data.events=8",
        "data.test=8",
        "cosine=false",
    )
    whole = train(tmp_path / "whole", *options, "data.validation=8", "trainer.max_epochs=2", "baselines=none")
    half = tmp_path / "half"
    train(half, *options, "data.validation=8", "trainer.max_epochs=1", "baselines=none")
    more = (f"resume={half}", "trainer.max_epochs=2", "baselines=none")
    resumed = train(half, *options, "data.validation=8", *more)
    assert resumed["test"] == whole["test"]
    assert resumed["training_events"] == 16
    assert [entry["epoch"] for entry in resumed["history"]] == [0, 1]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_composes_and_its_parts_go_together(row):
    config = configured("trackfinding", f"experiment=trackfinding/{row}")
    check(config)
    toy, objective = build(config.toy), build(config.objective)
    assert config.row
    assert set(config.printed) - {"pixel_without_noise"} <= set(SHOWN)
    for name, node in config.baselines.items():
        assert callable(build(node)), name
    build(config.optimizer)
    assert objective.merits[0] == "loss"
    assert hasattr(toy, "sample")


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains(row, tmp_path):
    metrics = train(tmp_path, f"experiment=trackfinding/{row}", *FEW)
    assert metrics["test"]["loss"] == metrics["test"]["loss"]


def test_two_epochs_that_two_systems_share_have_the_same_events(tmp_path):
    one, two = (
        train(tmp_path / name, f"experiment=trackfinding/{name}", *FEW)["baselines"] for name in ("b1", "b3")
    )
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["task=trackfinding"], "trackfinding"),
        (["experiment=trackfinding/a1", "seed=2"], "trackfinding"),
        (["experiment=telescope"], "train"),
        (["task=alignment", "experiment=trackfinding/a1"], "train"),
        ([], "train"),
    ],
)
def test_the_task_is_read_from_the_command_line(arguments, file):
    assert file_of("train", arguments) == file
    assert file_of("evaluate", arguments) == "evaluate"


def test_the_task_of_a_run_that_goes_on_is_the_runs(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- experiment=trackfinding/a1\n- seed=3\n")
    assert file_of("train", [f"resume={tmp_path}"]) == "trackfinding"
    assert file_of("train", ["resume=/nowhere"]) == "train"


def test_without_a_row_it_says_which_there_are(tmp_path):
    code, _, err = finish(start("train", "task=trackfinding", folder=tmp_path))
    assert code == 2
    assert err.startswith("alignnet: error: nothing to train: toy, system and objective are needed")
    assert "a1, a2, a3" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+data.colour=3", "data.colour: TrackfindingData takes no 'colour'"),
        ("data.events=many", "data.events is 'many'; expected a whole number"),
        ("printed={pixel: high}", "printed is"),
        ("cosine=3", "cosine is 3; expected true or false"),
        ("test_backgrounds=[many]", "test_backgrounds"),
    ],
)
def test_keys_are_checked(override, said):
    with pytest.raises(ConfigError, match=said):
        check(configured("trackfinding", "experiment=trackfinding/a1", override))


def test_only_a_toy_with_background_is_tested_with_others():
    config = configured("trackfinding", "experiment=trackfinding/d1", "test_backgrounds=[1,3]")
    with pytest.raises(ConfigError, match=r"test_backgrounds is \[1, 3\], but this toy has no background"):
        check(config)


def test_runs_become_rows_of_a_table(line_run, tmp_path):
    name, row = row_of(line_run)
    assert name == "C+"
    store = tmp_path / "rows.json"
    first = collected(store, [line_run])
    assert collected(store, []) == first == {"C+": json.loads(json.dumps(row))}
    text = table(first)
    line = next(text for text in text.splitlines() if "| hit |" in text)
    assert f"{row['test']['hit']:.4f}" in line
    assert f"road_following {row['baselines']['road_following']['hit']:.4f}" in line
    assert with_roots({"pull2_slope": 0.25, "mse": 4.0}) == {"pull_slope": 0.5, "mse": 4.0}
    with pytest.raises(SchemaError, match=r"metrics\.json: FileNotFoundError"):
        row_of(tmp_path)


def test_rows_short_of_a_printed_figure_are_named_and_drawn():
    history = [
        {"events": 10.0, "val/hit": 0.5, "val/mse": 3.0},
        {"events": 20.0, "val/hit": 0.7, "val/mse": 2.0},
    ]
    printed = {"hit": 0.8, "mse": 1.0, "pull_slope": 0.7}
    rows = {
        "short": {
            "test": {"hit": 0.7, "mse": 0.9, "pull2_slope": 4.0},
            "printed": printed,
            "history": history,
        },
        "worse": {"test": {"hit": 0.9, "mse": 2.0}, "printed": printed, "history": history},
    }
    short = short_of_print(rows)
    assert short == [("short", "hit"), ("worse", "mse")]
    figure = printed_curves(rows, short)
    assert [axis.get_title() for axis in figure.axes] == ["short", "worse"]
    curve, dashed = figure.axes[1].lines
    assert list(curve.get_ydata()) == [3.0, 2.0]
    assert set(dashed.get_ydata()) == {1.0}


def test_a_system_is_tested_at_several_multiplicities(tmp_path):
    """Attention over lines as it starts, on one background track and on fifty; they become a table."""
    few = ("data.batch_size=8", "data.events=8", "data.validation=8", "data.test=60", "trainer.max_epochs=1")
    options = ("toy.background=[1,50]", "test_backgrounds=[1,50]", "figure_every=0")
    train(tmp_path, "experiment=trackfinding/line_planes", *few, *options)
    systems = comparison({"lines": tmp_path})
    found = systems["lines"]["by_background"]
    assert list(found) == ["1", "50"]
    assert found["1"]["road_following"]["track"] > found["50"]["road_following"]["track"] + 0.05
    assert found["1"]["system"]["track"] > found["50"]["seeds_extrapolated"]["track"]
    text = comparison_table(systems, "hit")
    assert f"| {found['1']['system']['hit']:.4f} | {found['50']['system']['hit']:.4f} |" in text
    assert "| road_following | | | |" in text
    hits = comparison_figure(systems).axes[1]
    assert [line.get_label() for line in hits.lines] == ["lines", "seeds_extrapolated", "road_following"]
    assert list(hits.lines[0].get_ydata()) == [found[b]["system"]["hit"] for b in ("1", "50")]


def test_a_run_at_one_multiplicity_is_not_compared(line_run):
    with pytest.raises(SchemaError, match=r"by_background is empty; expected what .* test_backgrounds"):
        comparison({"lines": line_run})


def test_the_page_has_the_table_of_its_store():
    rows = json.loads((REPOSITORY / "docs" / "trackfinding.json").read_text(encoding="utf-8"))
    assert rows
    assert table(rows) in (REPOSITORY / "docs" / "trackfinding.md").read_text(encoding="utf-8")
