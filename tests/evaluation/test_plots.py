"""Figures show the numbers that they are given, and draw without a word of warning."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from alignnet.data.tracks import Tracks
from alignnet.errors import GeometryError
from alignnet.evaluation import plots
from alignnet.evaluation.dca import DcaSample, dca_table
from alignnet.evaluation.dca_sample import event_batches
from alignnet.evaluation.decays import Decays, decays_of
from alignnet.evaluation.physics_plots import physics_figures
from alignnet.evaluation.quality_plots import quality_figures
from alignnet.evaluation.residuals import residual_metrics, residual_summary
from alignnet.evaluation.style import lin_log_micrometres
from alignnet.geometry.detector import Detector
from alignnet.geometry.telescope import telescope
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.hierarchy import volume_motions
from alignnet.sensors.sensor import SensorLayer

UM = 1e-4


def drawn(figure: Figure) -> bytes:
    """The figure as PNG; a warning, for example of a missing glyph, is an error in tests."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def texts_of(figure: Figure) -> str:
    parts = [(axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) for axis in figure.axes]
    return " ".join(text for part in parts for text in part)


def dca_numbers(before: float, n: int = 4000) -> dict[str, Any]:
    """A table of made-up tracks, DCA of 30 µm and, before the alignment, `before` more of it."""
    rng = np.random.default_rng(1)
    good = rng.normal(0, 30 * UM, (n, 2)).astype(np.float32)
    bad = good * (1 + before / 30) + np.float32(before * UM)
    geometries = {"before": bad, "after": good * 1.02, "ideal": good}
    sample = DcaSample(
        event=np.arange(n) // 8,
        pt=rng.uniform(0.2, 5, n).astype(np.float32),
        phi=rng.uniform(-3.1, 3.1, n).astype(np.float32),
        eta=rng.uniform(-1, 1, n).astype(np.float32),
        charge=np.ones(n, dtype=np.float32),
        dca=geometries,
        sigma={name: np.full((n, 2), 30 * UM, dtype=np.float32) for name in geometries},
        reference="ideal",
    )
    table = dca_table(sample)
    assert table is not None
    return table


@pytest.mark.parametrize("before", [3.0, 400.0], ids=["nearly aligned", "far off"])
def test_the_dca_figure_holds_every_mean_and_width_of_its_table(before: float) -> None:
    table = dca_numbers(before)
    figure = plots.dca_mean_and_width(table)
    upper, lower = figure.axes[0], figure.axes[2]
    for axis, key in ((upper, "mean_xy_um"), (lower, "width_xy_um")):
        shown = {c.get_label(): c.lines[0].get_ydata() for c in axis.containers}
        for name, columns in table.items():
            np.testing.assert_allclose(shown[name], columns[key])
            low, high = axis.get_ylim()
            assert min(columns[key]) > low
            assert max(columns[key]) < high
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["before", "after", "ideal"]
    assert "[µm]" in texts_of(figure)
    assert "GeV" in texts_of(figure)
    assert drawn(figure)


def test_empty_bins_are_gaps() -> None:
    table = dca_numbers(3.0, n=40)
    assert None in table["after"]["mean_xy_um"]
    assert drawn(plots.dca_mean_and_width(table))


def test_points_of_a_bin_lie_in_the_bin() -> None:
    table = dca_numbers(3.0)
    figure = plots.dca_mean_and_width(table, ("z",))
    for container in figure.axes[1].containers:
        x = np.asarray(container.lines[0].get_xdata())
        assert (x > np.array(table["ideal"]["pt_low"])).all()
        assert (x < np.array(table["ideal"]["pt_high"])).all()


def test_truth_recovery_shows_all_layers_and_only_what_is_known() -> None:
    row = {"before_um": 80.0, "after_um": 2.0, "limit_um": None, "efficiency": None}
    recovery = {f"layer{i}": dict.fromkeys("uvw", row) for i in (0, 1, 5)}
    figure = plots.truth_recovery(recovery)
    for axis in figure.axes:
        assert {line.get_label() for line in axis.get_lines()} == {"before", "after"}
        assert list(axis.get_xticks()) == [0, 1, 5]
        assert axis.get_yscale() == "log"
        low, high = axis.get_ylim()
        assert low < 2 < 80 < high
    assert drawn(figure)
    with_limit = {name: dict.fromkeys("uvw", row | {"limit_um": 1.5}) for name in recovery}
    labels = {line.get_label() for line in plots.truth_recovery(with_limit).axes[0].get_lines()}
    assert "statistical limit" in labels


@pytest.fixture(scope="module")
def summaries(
    detector: Detector, tracks: Tracks, loss: HelixChi2, layer_moved: torch.Tensor
) -> dict[str, Any]:
    sensors, found = SensorLayer.of(detector), {}
    few = tracks.select(tracks.event < 40)
    for name, local in (("before", layer_moved), ("after", torch.zeros_like(layer_moved))):
        sensors.set_local(local)
        found[name] = residual_summary(loss, sensors, detector, event_batches(few, detector))
    return found


def test_residual_histograms_have_the_area_that_their_range_holds(summaries: dict[str, Any]) -> None:
    figure = plots.residual_histograms(summaries["after"], summaries["before"])
    axis = figure.axes[0]
    values, edges, _ = axis.patches[1].get_data()
    assert axis.patches[1].get_label() == "after"
    assert 0.97 < (values * np.diff(edges)).sum() <= 1 + 1e-9
    assert drawn(figure)


def test_residuals_per_layer_shows_means_and_widths(summaries: dict[str, Any]) -> None:
    metrics = residual_metrics(summaries["after"], summaries["before"])["residuals"]
    figure = plots.residuals_per_layer(metrics)
    lower = {line.get_label(): line.get_ydata() for line in figure.axes[3].get_lines()}
    rows = [row["v"] for row in metrics.values()]
    np.testing.assert_allclose(lower["before"], [row["unbiased_before_within_um"] for row in rows])
    np.testing.assert_allclose(lower["expected"], [row["expected_unbiased_within_um"] for row in rows])
    assert drawn(figure)
    assert drawn(plots.residuals_per_layer(residual_metrics(summaries["after"])["residuals"]))


@pytest.mark.parametrize("layer", [0, 4])
def test_a_map_of_a_layer_moved_along_z_has_one_colour_however_its_sensors_are_mounted(
    detector: Detector, layer: int
) -> None:
    motions, _ = volume_motions(detector, "layer")
    figure = plots.correction_map(detector, 20 * UM * motions[..., 2], layer)
    maps = [c for axis in figure.axes for c in axis.collections if isinstance(c, PolyCollection)][:3]
    colours = [np.asarray(cells.get_array()) for cells in maps]
    assert len(colours[0]) == int((detector.layer == layer).sum())
    np.testing.assert_allclose(colours[1], 20)
    np.testing.assert_allclose(colours[0], 0, atol=1e-9)
    assert drawn(figure)


def test_a_map_covers_the_layer_once_around(detector: Detector) -> None:
    figure = plots.correction_map(detector, torch.zeros(len(detector), 6).double(), 3)
    cells = next(c for c in figure.axes[0].collections if isinstance(c, PolyCollection))
    corners = np.array([path.vertices[:4] for path in cells.get_paths()])
    assert np.ptp(corners[..., 1], axis=1).max() < 0.5  # none reaches from one end of the map to the other
    assert 2 * np.pi < np.ptp(corners[..., 1]) < 2 * np.pi + 0.5
    assert np.abs(corners[..., 0]).max() == pytest.approx(42.21, abs=0.02)


def test_planes_across_the_beam_are_mapped_in_x_and_y() -> None:
    planes = telescope([0.0, 2.0, 4.0], 1.0, 0.84)
    local = torch.zeros(3, 6, dtype=torch.float64)
    local[1] = torch.tensor([30 * UM, -10 * UM, 5 * UM, 0, 0, 0])
    figure = plots.correction_map(planes, local, 1)
    values = [float(axis.collections[0].get_array()[0]) for axis in figure.axes[:3]]
    assert values == pytest.approx([30, -10, -5])  # w is −z
    assert "x [cm]" in texts_of(figure)
    assert drawn(figure)
    with pytest.raises(GeometryError, match="no layer 7"):
        plots.correction_map(planes, local, 7)


def test_convergence_shows_training_and_validation() -> None:
    history = [{"epoch": float(e), "train/chi2_per_ndf": 50.0 * 0.1**e + 1} for e in range(4)]
    figure = plots.convergence([row | {"val/chi2_per_ndf": 1.5} for row in history], ideal=1.0)
    assert len(figure.axes[0].get_lines()) == 3
    assert drawn(figure)
    assert len(plots.convergence(history).axes[0].get_lines()) == 1
    assert drawn(plots.convergence(history[:1]))


@pytest.mark.parametrize("before", [0.0, 40.0, 3000.0])
def test_without_the_truth_the_ratios_before_are_on_their_axis(before: float) -> None:
    table = {name: columns for name, columns in dca_numbers(before).items() if name != "ideal"}
    for columns in table.values():  # the reference is after itself
        ratio = np.array(columns["width_xy_um"]) / np.array(table["after"]["width_xy_um"])
        columns["width_ratio_xy"] = ratio.tolist()
    axis = plots.dca_mean_and_width(table, ["xy"]).axes[2]
    low, high = axis.get_ylim()
    ratios = np.array(table["before"]["width_ratio_xy"])
    assert ((ratios >= low) & (ratios <= high)).all()


@pytest.mark.parametrize(("low", "high"), [(-60, 20), (-15, 15), (-70, 400), (-3000, 900), (-1e4, 1e5)])
def test_numbers_of_a_lin_log_axis_do_not_lie_over_each_other(low: float, high: float) -> None:
    figure = Figure(figsize=(4.1, 2.0))
    axis = figure.subplots()
    lin_log_micrometres(axis, low, high)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert len(boxes) >= 4
    assert 0.0 in axis.get_yticks()
    ordered = sorted(boxes, key=lambda box: box.y0)
    assert all(one.y1 <= other.y0 for one, other in itertools.pairwise(ordered))


def test_a_decay_without_a_peak_has_no_figure() -> None:
    none = Decays(0.5, decays_of({"k0s": {}, "lambda": {}})).metrics()
    found = copy.deepcopy(none)
    found["k0s"]["all"] |= {"mean_mev": [497.6], "mean_error_mev": [0.2]}
    assert set(physics_figures({"decays": {"before": none, "after": found}})) == {"mass_k0s"}
    axis = physics_figures({"decays": {"after": found}})["mass_k0s"].axes[1]
    assert axis.get_xlim()[1] > 1  # of the bins, though none has a peak


def test_surface_maps_are_of_every_geometry() -> None:
    one = {"layer0": {f"mean_{c}_um": [[220.0, -220.0], [None, 1.0]] for c in "uv"}}
    figures = quality_figures({"surface": {"before": one, "after": one, "ideal": one}})
    assert set(figures) == {"surface", "surface_before", "surface_ideal"}
    assert "±220 µm" in texts_of(figures["surface_before"])
