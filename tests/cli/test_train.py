"""`alignnet train`: what it leaves, on one process and on several."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import NO_PICTURES, finish, run, start, theta_of, train

from alignnet.data.root import read_alignment, read_alignment_table, read_detector, read_misalignment
from alignnet.geometry.recovery import Recovery, difference

TWO_PROCESSES = ("trainer.devices=2", "trainer.strategy=ddp")


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


# what a run leaves


def test_a_run_leaves_its_answer_its_numbers_its_pictures_and_how_to_repeat_it(trained):
    found = {str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*") if path.is_file()}
    events = {name for name in found if name.startswith("tensorboard/events.out.tfevents.")}
    pictures = {name for name in found if name.startswith("evaluation/") and name.endswith(".png")}
    assert events
    names = ["residuals", "residual_histograms", "truth", "dca", "convergence", "fit_quality"]
    names += ["surface", "surface_before", "surface_ideal"]
    names += [f"dca_{by}" for by in ("phi", "eta", "charge", "top", "side")]
    names += ["residuals_halfbarrel", "residuals_stave"]
    layers = {f"evaluation/corrections_layer{layer}.png" for layer in range(4)}
    assert pictures == layers | {f"evaluation/{name}.png" for name in names}
    for name in pictures:
        content = (trained.folder / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content.endswith(b"IEND\xaeB\x60\x82")
    assert found - events - pictures == {
        "alignment.root", "metrics.json", "train.log", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
        "evaluation/residuals_sensor.csv",
        "tensorboard/hparams.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml",
        "evaluation/report.html",
    }  # fmt: skip


def test_a_run_says_how_it_goes_and_how_well_it_did(trained):
    lines = trained.printed.splitlines()
    assert lines[0].startswith("small barrel: 24 sensors, 300 tracks from ")
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in epochs] == [
        f"epoch {trained.killed}",
        f"epoch {trained.killed + 1}",
    ]
    assert all(" train χ²/ndf " in line and ", val χ²/ndf " in line and " µm" in line for line in epochs)
    assert any(line.startswith("Remaining misalignment") for line in lines)
    assert any(line.startswith("χ²/ndf: before ") for line in lines)
    assert lines[-3] == f"report: {trained.folder / 'evaluation' / 'report.html'}"
    assert lines[-2] == f"alignment: {trained.folder / 'alignment.root'}"
    assert lines[-1].startswith(f"convergence is not judged after {trained.epochs} epochs: Preconditioned")
    assert not any("it/s" in line for line in lines)  # no progress bar where there is no terminal


def test_the_numbers_have_the_names_that_others_rely_on(trained):
    metrics = metrics_of(trained.folder)
    for kind in ("truth", "truth_rigid_only"):
        for layer in range(4):
            for coordinate in "uvw":
                row = metrics[kind][f"layer{layer}"][coordinate]
                assert {"before_um", "after_um", "limit_um"} <= set(row)
                assert all(row[key] > 0 for key in ("before_um", "after_um", "limit_um"))
    for layer in range(4):
        for coordinate in "uv":
            row = metrics["residuals"][f"layer{layer}"][coordinate]
            assert row["width_um"] > 0
            assert abs(row["mean_um"]) < row["width_um"]
    assert set(metrics["dca"]) == {"before", "after", "ideal"}
    assert metrics["n_tracks"] == 300
    assert 0 < metrics["chi2_per_ndf"] < metrics["chi2_per_ndf_before"]
    assert 0.5 < metrics["chi2_per_ndf_ideal"] < 1.5
    assert 0.1 < metrics["seconds"] < 300
    assert len(metrics["history"]) == trained.epochs
    assert all(np.isfinite(value) for row in metrics["history"] for value in row.values())


def test_the_memory_is_that_of_a_process_which_holds_torch_and_a_small_sample(trained):
    assert 150 < metrics_of(trained.folder)["peak_memory_mb"] < 3000


def test_the_answer_is_nearer_to_the_truth_by_what_the_numbers_say(trained, barrel_file):
    detector = read_detector(barrel_file)
    truth = read_misalignment(barrel_file, detector)
    left = difference(read_alignment(trained.folder / "alignment.root", detector), truth, detector)
    aligned = torch.from_numpy(read_alignment_table(trained.folder / "alignment.root").status == 0)
    per_layer = Recovery(detector, aligned).per_layer(left)
    rows = metrics_of(trained.folder)["truth"]
    for layer, values in per_layer.items():
        for value, coordinate in zip(values, "uvw", strict=True):
            assert rows[f"layer{layer}"][coordinate]["after_um"] == pytest.approx(value * 1e4, rel=1e-9)
    assert all(
        rows[f"layer{k}"]["u"]["after_um"] < 0.7 * rows[f"layer{k}"]["u"]["before_um"] for k in range(3)
    )


def test_tensorboard_has_the_cost_by_parts_the_residuals_and_what_remains(trained):
    board = EventAccumulator(str(trained.folder / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    scalars = set(board.Tags()["scalars"])
    layers = range(4)
    assert {"train/chi2_per_ndf", "train/chi2_track_per_ndf", "train/chi2_vertex_per_ndf"} <= scalars
    assert {"val/chi2_per_ndf", "train/gradient_norm", "train/step_um"} <= scalars
    assert {f"residual_mean_um/layer{n}_{c}" for n in layers for c in "uv"} <= scalars
    assert {f"remaining_um/layer{n}_{c}" for n in layers for c in "uvw"} <= scalars
    assert set(board.Tags()["images"]) == {
        "corrections", "residuals", "correction_maps", "convergence", "steps", "dca", "dca_phi", "dca_eta",
        "dca_charge", "dca_top", "dca_side", "truth", "residuals_per_layer", "residuals_stave",
        "residuals_halfbarrel", "surface", "surface_before", "surface_ideal", "fit_quality",
    }  # fmt: skip
    history = [row["train/chi2_per_ndf"] for row in metrics_of(trained.folder)["history"]]
    shown = [event.value for event in board.Scalars("train/chi2_per_ndf")]
    assert shown == pytest.approx(history[-len(shown) :], rel=1e-6)


def test_what_is_in_the_log_file_is_dated(trained):
    lines = (trained.folder / "train.log").read_text().splitlines()
    assert sum("alignnet.training: epoch" in line for line in lines) >= 2


# several processes


TO_THE_END = ("optimizer=gauss_newton", "optimizer.tolerance=1e-10", "optimizer.max_iterations=3000")
HOW = {
    "preconditioned_sgd": ("optimizer=preconditioned_sgd", "optimizer.momentum=0.3"),
    "sgd": ("optimizer=sgd", "optimizer.lr=1e-9"),
    "gauss_newton": TO_THE_END,
}


def assert_same_run(one: Path, other: Path) -> None:
    """Θ of two runs agrees to 1e-10 cm and rad, and so do their numbers."""
    assert theta_of(one).abs().max() > 1e-6
    assert (theta_of(one) - theta_of(other)).abs().max() < 1e-10
    found, expected = (read_alignment_table(folder / "alignment.root") for folder in (other, one))
    assert abs(found.local - expected.local).max() < 1e-10
    assert (found.n_hits == expected.n_hits).all()
    assert np.allclose(found.error, expected.error, rtol=1e-6, equal_nan=True)
    numbers, others = metrics_of(one), metrics_of(other)
    assert others["chi2_per_ndf"] == pytest.approx(numbers["chi2_per_ndf"], rel=1e-6)
    for row, twin in zip(numbers["history"], others["history"], strict=True):
        exact = [key for key in row if not key.startswith(("solver/", "train/gradient", "train/largest"))]
        assert {key: twin[key] for key in exact} == pytest.approx(
            {key: row[key] for key in exact}, rel=1e-4, abs=1e-6
        )


def test_two_processes_do_what_one_does_with_the_joint_batch(few, tmp_path, no_pictures):
    """Shares of a batch are unequal, and the second rank has no event in the last one."""
    how = HOW["preconditioned_sgd"]
    two = (*TWO_PROCESSES, "hydra.run.dir=two")
    printed = run("train", *few, *how, *two, folder=tmp_path, launcher=NO_PICTURES)
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert printed.count("epoch 1:") == 1
    assert printed.count("small barrel: 24 sensors") == 1


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "gauss_newton"])
def test_two_processes_do_what_one_does_with_every_optimizer(few, tmp_path, no_pictures, optimizer):
    how = HOW[optimizer]
    two = (*TWO_PROCESSES, "hydra.run.dir=two")
    run("train", *few, *how, *two, folder=tmp_path, launcher=NO_PICTURES)
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_nodes_started_by_torchrun_do_what_one_process_does(few, tmp_path, no_pictures, free_port):
    how = HOW["preconditioned_sgd"]
    torchrun = ("torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "static")
    nodes = [
        start(
            "train", *few, *how, "trainer.num_nodes=2", "trainer.strategy=ddp", "hydra.run.dir=two",
            folder=tmp_path,
            launcher=(*torchrun, "--master-addr", "127.0.0.1", "--master-port", str(free_port),
                      "--node-rank", str(rank), "-m", "alignnet"),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    ends = [finish(node) for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0], ends
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_nodes_started_by_slurm_do_what_one_process_does(
    few, tmp_path, no_pictures, free_port, monkeypatch
):
    """With what srun tells its tasks; `MASTER_PORT` only so that it is a free one here."""
    how = HOW["preconditioned_sgd"]
    job = {"JOB_ID": "4711", "JOB_NAME": "align", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2"}
    for name, value in {**job, "NODELIST": "localhost", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port))
    nodes = []
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        monkeypatch.setenv("SLURM_NODEID", rank)
        nodes.append(start("train", *few, *how, "trainer.num_nodes=2", "hydra.run.dir=two", folder=tmp_path))
    ends = [finish(node) for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0], ends
    for name in (*job, "NODELIST", "LOCALID", "PROCID", "NODEID"):
        monkeypatch.delenv(f"SLURM_{name}")
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_run_on_two_processes_goes_on_to_the_same_numbers(few, tmp_path, no_pictures):
    how = HOW["gauss_newton"]
    first = [option for option in few if not option.startswith("trainer.max_epochs")]
    run("train", *first, *how, *TWO_PROCESSES, "trainer.max_epochs=1", "hydra.run.dir=two", folder=tmp_path)
    run("train", "resume=two", "trainer.max_epochs=2", folder=tmp_path)
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_averaging_of_partitions_comes_as_far_as_one_process(few, tmp_path, no_pictures):
    how = (
        "optimizer=preconditioned_sgd",
        "averaging=partition",
        "data.partitioned=true",
        "averaging.period=2",
    )
    run("train", *few, *how, *TWO_PROCESSES, "trainer.max_epochs=4", "hydra.run.dir=two", folder=tmp_path)
    train(tmp_path / "one", *few, *how[:1], "trainer.max_epochs=4")
    one, two = (metrics_of(tmp_path / name)["chi2_per_ndf"] for name in ("one", "two"))
    before = metrics_of(tmp_path / "one")["chi2_per_ndf_before"]
    assert two - 1 < 0.5 * (before - 1)
    assert abs(two - one) < 0.5 * (before - one)


def test_a_second_run_in_a_folder_forgets_the_curves_of_the_first(few, tmp_path, no_pictures):
    options = (*few, "optimizer=sgd", "optimizer.lr=1e-9")
    for _ in range(2):
        train(tmp_path, *options, "trainer.max_epochs=1")
        (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    train(tmp_path, *options, "trainer.max_epochs=2", f"resume={tmp_path}")
    assert events.is_file()


# errors of all sensors together


def test_a_run_says_how_well_it_is_known(few, tmp_path):
    options = (
        "optimizer=gauss_newton",
        "trainer.max_epochs=1",
        "evaluation.errors=draws",
        "evaluation.draws=6",
    )
    train(tmp_path, *[o for o in few if not o.startswith("trainer.max")], *options, "evaluation.spectrum=4")
    table, metrics = read_alignment_table(tmp_path / "alignment.root"), metrics_of(tmp_path)
    assert (table.error_kind == 2).all()
    assert (table.error > 0).all()
    assert (metrics["errors"]["kind"], metrics["errors"]["n_draws"]) == ("draws", 6)
    assert 0 < metrics["errors"]["relative"] < 0.5
    assert 0.3 < metrics["pulls"]["all"]["all"] < 3
    assert len(metrics["spectrum"]["modes"]) == 4
    assert (tmp_path / "evaluation" / "spectrum.png").is_file()
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert "spectrum" in board.Tags()["images"]
