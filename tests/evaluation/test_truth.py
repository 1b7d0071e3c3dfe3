"""Truth recovery: nothing that data cannot see counts, everything else does."""

from __future__ import annotations

import math

import pytest
import torch
from small_detectors import inner_barrel
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.evaluation.truth import truth_recovery
from alignnet.geometry.misalign import Gaussian
from alignnet.geometry.telescope import telescope
from alignnet.geometry.weak_modes import rigid_motion_basis, weak_mode_basis
from alignnet.sensors.hierarchy import volume_motions

UM = 1e-4
KINDS = ("truth", "truth_rigid_only", "truth_layer_rigid")


detector = inner_barrel()
everything = torch.ones(len(detector), dtype=torch.bool)
nominal = torch.zeros(len(detector), 6, dtype=torch.float64)
levels = {"stave": {"translation": 50 * UM, "rotation": 1e-4}, "sensor": {"translation": 10 * UM}}
truth = Gaussian(levels, seed=3)(detector)


def noise(seed: int, size: float = 2 * UM) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(detector), 6, generator=generator, dtype=torch.float64) * torch.tensor(
        [size] * 3 + [0.0] * 3, dtype=torch.float64
    )


def values(recovery: dict, name: str = "after_um") -> Tensor:
    """(layers, 3)"""
    return torch.tensor([[row[c][name] for c in "uvw"] for row in recovery.values()], dtype=torch.float64)


def test_the_truth_itself_leaves_nothing() -> None:
    found = truth_recovery(detector, nominal, truth, truth, everything)
    for kind in KINDS:
        assert list(found[kind]) == ["layer0", "layer1", "layer2"]
        assert values(found[kind]).abs().max() < 1e-9
        assert values(found[kind], "before_um").min() > 5
    assert found["truth"]["layer0"]["u"]["limit_um"] is None
    assert found["truth"]["layer0"]["u"]["efficiency"] is None


@pytest.mark.parametrize("seed", range(3))
def test_recovery_does_not_change_by_motions_that_tracks_do_not_see(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.cat([rigid_motion_basis(detector), weak_mode_basis(detector)])
    mixture = torch.randn(len(basis), generator=generator, dtype=torch.float64) * 1e-6
    answer = truth + noise(seed)
    moved = answer + torch.einsum("m,msi->si", mixture, basis)
    one, other = (truth_recovery(detector, nominal, a, truth, everything)["truth"] for a in (answer, moved))
    torch.testing.assert_close(values(other), values(one), rtol=1e-4, atol=0)


def test_weak_modes_are_counted_where_only_rigid_motions_are_removed() -> None:
    curl = weak_mode_basis(detector)[1] * 20 * UM
    found = truth_recovery(detector, nominal, truth + curl, truth, everything)
    assert values(found["truth"]).max() < 1e-3
    assert values(found["truth_rigid_only"])[:, 0].max() > 1


def test_a_layer_that_moves_as_a_whole_is_well_aligned_within_itself() -> None:
    motions, _ = volume_motions(detector, "layer")
    moved = truth + motions[..., 0] * 30 * UM * (detector.layer == 1)[:, None]
    found = truth_recovery(detector, nominal, moved, truth, everything)
    assert values(found["truth_layer_rigid"]).max() < 1e-6
    assert values(found["truth"])[1, 0] > 3


def test_independent_shifts_come_out_with_their_size_but_for_the_modes_removed() -> None:
    found = values(truth_recovery(detector, nominal, truth + noise(7, 4 * UM), truth, everything)["truth"])
    kept = 1 - 21 / (432 * 3)
    assert found.square().mean().sqrt() == pytest.approx(4 * kept**0.5, rel=0.03)


def test_an_answer_that_errs_as_the_covariance_says_is_efficient() -> None:
    spread = [noise(seed) for seed in range(10, 16)]
    found = truth_recovery(detector, nominal, truth + noise(8), truth, everything, spread)
    for kind in KINDS:
        for row in found[kind].values():
            for c in "uvw":
                assert row[c]["limit_um"] == pytest.approx(2, rel=0.15)
                assert row[c]["efficiency"] == pytest.approx(row[c]["limit_um"] / row[c]["after_um"])
                assert row[c]["efficiency"] == pytest.approx(1, abs=0.2)


def test_draws_are_averaged_in_quadrature() -> None:
    one, three = noise(1), 3 * noise(1)
    alone = truth_recovery(detector, nominal, truth, truth, everything, [one])["truth"]
    both = truth_recovery(detector, nominal, truth, truth, everything, [one, three])["truth"]
    torch.testing.assert_close(values(both, "limit_um"), values(alone, "limit_um") * 5**0.5)


def test_the_spread_of_the_limit_is_that_of_single_answers() -> None:
    common = torch.zeros(len(detector), 6, dtype=torch.float64)
    common[detector.layer == 1, 2] = 1 * UM  # one number a layer: its r.m.s. is as uncertain as |N(0, 1)|
    amounts = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = truth_recovery(
        detector, nominal, truth, truth, everything, [noise(9, 1e-3 * UM) + a * common for a in amounts]
    )
    row = found["truth_rigid_only"]["layer1"]["w"]
    assert row["limit_spread_um"] / row["limit_um"] == pytest.approx((1 - 2 / math.pi) ** 0.5, rel=0.1)
    one = truth_recovery(detector, nominal, truth, truth, everything, [noise(9)])["truth"]["layer1"]["w"]
    assert one["limit_spread_um"] is None


def test_sensors_that_are_not_selected_do_not_count() -> None:
    selected = everything.clone()
    selected[::7] = False
    selected[detector.layer == 2] = False
    wild = truth + noise(2) + (~selected)[:, None] * 1.0
    found = truth_recovery(detector, nominal, wild, truth, selected)
    assert list(found["truth"]) == ["layer0", "layer1"]
    assert values(found["truth"]).max() < 4


def test_no_selected_sensors_give_no_layers() -> None:
    found = truth_recovery(detector, nominal, truth, truth, torch.zeros_like(everything))
    assert found == {kind: {} for kind in KINDS}


def test_shears_of_a_telescope_are_no_error_of_its_alignment() -> None:
    planes = telescope([0.0, 2.0, 5.0, 9.0], 1.0, 1.0)
    start = torch.zeros(4, 6, dtype=torch.float64)
    sheared = start.clone()
    sheared[:, 0] = 1e-3 * planes.translation[:, 2]
    found = truth_recovery(planes, start, sheared, start, torch.ones(4, dtype=torch.bool))
    assert values(found["truth"]).max() < 1e-9
    assert values(found["truth_rigid_only"]).max() > 1
    assert found["truth_layer_rigid"] == {}  # a layer of one sensor has no shape


def test_a_table_of_another_detector_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"`after` has shape \(5, 6\), expected \(432, 6\)"):
        truth_recovery(detector, nominal, truth[:5], truth, everything)
