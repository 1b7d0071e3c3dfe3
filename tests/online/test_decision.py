"""Constants are published for a reason: the first ones when tracks have told something."""

from __future__ import annotations

import pytest
import torch

from alignnet.online.decision import Criterion
from alignnet.solvers.changes import Freedom
from alignnet.solvers.walk import Estimate

N = 12  # two volumes
ONE = torch.tensor([100e-4, 100e-4, 100e-4, 1e-3, 1e-3, 1e-3], dtype=torch.float64) ** 2
INITIAL = torch.diag(ONE.repeat(2))
FREEDOM = Freedom(INITIAL, INITIAL * 1e-6, torch.eye(N, dtype=torch.float64), INITIAL.diagonal()[:6].sqrt())


def estimate(part: float, mean: torch.Tensor | None = None) -> Estimate:
    """Unknowns known to a part of what was known without tracks."""
    return Estimate(torch.zeros(N, dtype=torch.float64) if mean is None else mean, INITIAL * part**2)


@pytest.mark.parametrize(("part", "reasons"), [(0.9, ()), (0.51, ()), (0.49, ("first",)), (0.01, ("first",))])
def test_the_first_constants_go_out_when_tracks_have_told_something(part, reasons):
    decision = Criterion(improved=2.0)(estimate(part), None, FREEDOM, [], [])
    assert (decision.reasons, decision.significant) == (reasons, bool(reasons))
    assert decision.error_ratio == pytest.approx(1 / part)
    assert Criterion(always=True)(estimate(part), None, FREEDOM, [], []).significant


def test_the_next_ones_go_out_when_a_volume_has_moved_or_errors_are_half():
    out = estimate(0.01)
    assert Criterion()(estimate(0.009), out, FREEDOM, [], []).reasons == ()
    assert Criterion()(estimate(0.004), out, FREEDOM, [], []).reasons == ("improved",)
    moved = torch.zeros(N, dtype=torch.float64)
    moved[6] = 20e-4  # du of the second, 14 σ of both together
    decision = Criterion()(estimate(0.01, moved), out, FREEDOM, [], [])
    assert decision.reasons == ("moved",)
    assert [change.place.volume for change in decision.moved] == [1]


def test_one_volume_among_many_has_moved_though_all_together_might_be_chance():
    initial = torch.diag(ONE.repeat(40))
    freedom = Freedom(initial, initial * 1e-6, torch.eye(240, dtype=torch.float64), ONE.sqrt())
    out = Estimate(torch.zeros(240, dtype=torch.float64), initial * 1e-4)
    moved = torch.zeros(240, dtype=torch.float64)
    moved[66] = 9.5e-4 * 2**0.5  # du of the eleventh, by 9.5 σ of both together / √2 each
    decision = Criterion()(Estimate(moved * 0.75, initial * 1e-4), out, freedom, [], [])
    assert decision.p_value > 0.05  # χ² 51 of 240
    assert [change.place.volume for change in decision.moved] == [11]
    assert decision.reasons == ("moved",)
