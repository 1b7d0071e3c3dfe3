"""Numbers, tables and pictures of an answer's errors."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from small_detectors import barrel, random_local

from alignnet.evaluation import plots
from alignnet.evaluation.tables import show
from alignnet.evaluation.uncertainty import error_metrics, pull_metrics, spectrum_metrics
from alignnet.geometry.recovery import displacement_metric
from alignnet.geometry.weak_modes import WeakMode, rigid_motion_basis
from alignnet.solvers.errors import Errors, Removal
from alignnet.solvers.spectrum import Spectrum

DETECTOR = barrel()
METRIC = displacement_metric(DETECTOR)
EVERYONE = torch.ones(24, dtype=torch.bool)
SIGMA = torch.tensor([5e-4] * 3 + [1e-4] * 3, dtype=torch.float64).expand(24, 6)


def independent_errors() -> Errors:
    """Errors of sensors that know nothing of each other."""
    columns = torch.diag(SIGMA.flatten()).view(-1, 24, 6)
    removal = Removal(columns[:0], METRIC)
    nothing = torch.zeros(24, 6, dtype=torch.float64)
    return Errors(SIGMA, nothing, removal, columns, torch.zeros_like(columns), torch.zeros_like(METRIC), 0)


def test_a_draw_from_the_errors_has_pulls_of_width_one_wherever_the_whole_is():
    errors, widths = independent_errors(), []
    truth = random_local(24)
    for seed in range(20):
        noise = SIGMA * torch.randn(24, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        moved = torch.einsum("a,asd->sd", torch.full((6,), 1e-3).double(), rigid_motion_basis(DETECTOR))
        found = pull_metrics(DETECTOR, errors, truth + noise + moved, truth, EVERYONE)
        assert set(found) == {"layer0", "layer1", "layer2", "layer3", "all"}
        widths.append(found["all"]["all"] ** 2)
    assert (sum(widths) / 20) ** 0.5 == pytest.approx(1, abs=0.05)


def test_only_aligned_sensors_and_free_degrees_of_freedom_have_pulls():
    errors = independent_errors()
    aligned = EVERYONE & (DETECTOR.layer > 0)
    errors.sigma.data = errors.sigma.clone()
    errors.sigma[:, 2] = 0
    found = pull_metrics(DETECTOR, errors, random_local(24), random_local(24, seed=3), aligned)
    assert found["layer0"]["du"] is None
    assert found["all"]["dw"] is None
    assert found["all"]["dv"] > 0


def test_errors_are_summed_up_by_layer():
    found = error_metrics(DETECTOR, independent_errors(), EVERYONE & (DETECTOR.layer < 2))
    assert {key for key in found if key.startswith("layer")} == {"layer0", "layer1"}
    assert found["layer1"]["dv_um"] == pytest.approx(5)
    assert found["layer1"]["rot_w_mrad"] == pytest.approx(0.1)
    assert (found["kind"], found["relative"]) == ("exact", 0)


def modes() -> Spectrum:
    motion = torch.stack([rigid_motion_basis(DETECTOR)[2], WeakMode("curl", 1.0)(DETECTOR)])
    return Spectrum(torch.tensor([0.0, 1e6]).double(), motion, torch.tensor([1e-16, 1e-3]).double(), 1, True)


def test_modes_have_names_and_expected_errors():
    found = spectrum_metrics(DETECTOR, modes())
    null, curl = found["modes"]
    assert found["n_null"] == 1
    assert null["amplitude_um"] is None
    assert null["name"] == "rigid: translation z (1.00)"
    assert curl["amplitude_um"] == pytest.approx(10)


def test_tables_and_picture_show_them(tmp_path):
    metrics = {
        "spectrum": spectrum_metrics(DETECTOR, modes()),
        "errors": error_metrics(DETECTOR, independent_errors(), EVERYONE),
        "pulls": pull_metrics(DETECTOR, independent_errors(), SIGMA, 0 * SIGMA, EVERYONE),
    }
    text = io.StringIO()
    show(metrics, Console(file=text, width=80))
    assert "rigid: translation z (1.00)" in text.getvalue()
    assert "Pulls of the answer" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 80
    plots.spectrum(metrics["spectrum"]).savefig(tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").stat().st_size > 1000
