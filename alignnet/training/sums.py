"""Sums over an epoch's tracks, set by set, and the means that are logged of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from alignnet.loss.chi2 import Chi2
from alignnet.loss.objective import Objective
from alignnet.solvers.hessian import all_reduced
from alignnet.training.robust_schedule import used_fractions

NAMES = ("track", "vertex", "ndf", "total", "count", "tracks", "weight", "hits", "hit_weight")
_COUNTED = NAMES[:5]  # as the weights of the sets say


class EpochSums:
    """What the passes of an epoch have added up, by stage ("train", "val") and set."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], Tensor] = {}

    def forget(self, stage: str) -> None:
        """Begin a pass anew."""
        self.sums = {key: value for key, value in self.sums.items() if key[0] != stage}

    @torch.no_grad()
    def add(self, stage: str, name: str, chi2: Chi2, normalisation: str) -> None:
        """Add a batch of a set."""
        w, hits = chi2.weight, chi2.batch.is_hit & chi2.fit.ok[:, None]
        used = w > 0
        _, ndf = chi2.per_event()
        total, count = chi2.sums(normalisation)
        values = {
            "track": (torch.where(used, chi2.track, 0.0) * w).sum(),
            "vertex": (torch.where(used, chi2.vertex, 0.0) * w).sum() + chi2.origin.sum(),
            "ndf": ndf.sum(),
            "total": total,
            "count": count,
            "tracks": torch.as_tensor(float(chi2.batch.n_tracks)),
            "weight": w.sum(),
            "hits": chi2.batch.is_hit.sum(),
            "hit_weight": (hits if chi2.fit.hit_weight is None else hits * chi2.fit.hit_weight).sum(),
        }
        packed = torch.stack([values[key].detach().cpu().double() for key in NAMES])
        self.sums[stage, name] = self.sums.get((stage, name), torch.zeros_like(packed)) + packed

    def of(self, stage: str, objective: Objective) -> dict[str, dict[str, float]]:
        """The sums of each set over all ranks, by name."""
        empty = torch.zeros(len(NAMES), dtype=torch.float64)
        packed = torch.stack([self.sums.get((stage, one.name), empty) for one in objective.sets])
        rows = all_reduced(packed).tolist()
        return {
            one.name: dict(zip(NAMES, row, strict=True))
            for one, row in zip(objective.sets, rows, strict=True)
        }


def means_of(sums: Mapping[str, float]) -> dict[str, float]:
    """χ²/ndf, its track and vertex parts, and the cost."""
    ndf = max(sums["ndf"], 1.0)
    return {
        "chi2_per_ndf": (sums["track"] + sums["vertex"]) / ndf,
        "chi2_track_per_ndf": sums["track"] / ndf,
        "chi2_vertex_per_ndf": sums["vertex"] / ndf,
        "cost": sums["total"] / max(sums["count"], 1.0),
    }


def joint(sets: Mapping[str, Mapping[str, float]], objective: Objective) -> dict[str, float]:
    """The sums of all sets: χ² and ν as their weights count them, tracks and hits as there are."""
    total = dict.fromkeys(NAMES, 0.0)
    for one in objective.sets:
        for key in NAMES:
            total[key] += sets[one.name][key] * (one.weight if key in _COUNTED else 1.0)
    return total


def fractions(
    sets: Mapping[str, Mapping[str, float]], objective: Objective, epoch: int | None
) -> dict[str, float]:
    """What robust weights have left of tracks and hits of the first set; in training, of any, not too little.

    Raises:
        ConvergenceError: robust weights have rejected too much in training.
    """
    used = [one for one in objective.sets if sets[one.name]["tracks"]]
    found = [used_fractions(one.loss, sets[one.name], epoch) for one in used]
    return found[0] if found else {}
