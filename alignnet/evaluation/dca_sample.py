"""DCA of tracks, each fitted to its hits alone, to the primary vertex of their event, in several geometries.

Tracks are fitted without the vertex and with the full noise model, whatever the cost of the alignment was.
DCA_xy is the signed d0 of `alignnet.physics.helix.Perigee` about the vertex, and DCA_z its z0. The vertex
is

* `given`: the file's, which must not depend on the tracks (a simulation smears the true one);
* `truth`: the true collision, which for particles without decays is where they started;
* `leave_one_out`: fitted from the other tracks of the event, in each geometry anew
  (`alignnet.evaluation.impact`).

Only tracks that every geometry can fit are kept, and p_T, φ and η are those of one of them, the reference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.event_table import Events
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import ConfigError
from alignnet.evaluation.dca import PER_TRACK, DcaSample
from alignnet.evaluation.fitted_tracks import FreeTracks, TrackFitter
from alignnet.evaluation.impact import BeamSpot, Impact, impact, vertex_fit, vertices
from alignnet.evaluation.places import Places
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.physics.helix import Helix

VERTICES = ("given", "truth", "leave_one_out")


def event_batches(
    tracks: Tracks, detector: Detector, vertex: str = "given", batch_events: int = 1000
) -> Iterator[Batch]:
    """Batches of whole events of tracks in memory.

    Args:
        vertex: "truth" puts the true vertex in the place of the file's: `truth_vertex`, or else where the
            particles started; otherwise the file's is left.
        batch_events: events of a batch.

    Raises:
        ConfigError: the true vertex is asked for and not known, or there is no such choice.
    """
    check_vertex(tracks.truth, vertex)
    if vertex == "truth":
        exact = np.zeros((len(tracks), 6))
        tracks = replace(
            tracks, vertex=tracks.truth.get("vertex", tracks.truth["position"]), vertex_cov=exact
        )
    yield from Events(tracks, detector).batches(batch_events)


def check_vertex(truth: Collection[str], vertex: str) -> None:
    """Refuse a reference of the DCA that there is not.

    Raises:
        ConfigError: the true vertex is asked for and not known, or there is no such choice.
    """
    if vertex not in VERTICES:
        raise ConfigError(f"evaluation.dca_vertex is {vertex!r}; choose from {list(VERTICES)}")
    if vertex == "truth" and "position" not in truth:
        raise ConfigError(
            "evaluation.dca_vertex is 'truth', but the tracks have no truth_position; choose given"
        )


def dca_sample(
    loss: HelixChi2,
    detector: Detector,
    geometries: Mapping[str, Tensor],
    batches: Iterable[Batch],
    vertex: str = "given",
    *,
    reference: str | None = None,
    beam_spot: BeamSpot | None = None,
    max_chi2_per_ndf: float | None = None,
    max_vertex_sigma: float = 100e-4,
) -> DcaSample | None:
    """DCA of all tracks that every geometry can fit; None without a field, or without such tracks.

    Args:
        loss: its noise model's options are used, with the full covariance and without the vertex.
        detector: the nominal places.
        geometries: local sixes (sensors, 6) by name, "before", "after" and, where known, "ideal".
        batches: of whole events.
        vertex: "given" or "truth" (then `batches` carry it, see `event_batches`), or "leave_one_out".
        reference: which geometry bins and comparisons refer to; by default "ideal", or else the last.
        beam_spot: with "leave_one_out", joins the vertex fit.
        max_chi2_per_ndf: leave out tracks with a larger χ²/ν in the reference geometry.
        max_vertex_sigma: with "leave_one_out", leave out tracks whose vertex is known worse than this along
            one of the axes [cm].

    Raises:
        ConfigError: there is no such vertex or reference.
    """
    if vertex not in VERTICES:
        raise ConfigError(f"evaluation.dca_vertex is {vertex!r}; choose from {list(VERTICES)}")
    reference = reference or ("ideal" if "ideal" in geometries else list(geometries)[-1])
    if reference not in geometries:
        raise ConfigError(f"the DCA's reference geometry {reference!r} is not one of {list(geometries)}")
    if detector.b_z == 0:
        return None
    fitter, approach = (
        TrackFitter(loss, detector),
        Approach(detector.b_z, vertex, beam_spot, max_vertex_sigma),
    )
    places = {name: Places(detector, local) for name, local in geometries.items()}
    parts = []
    for batch in batches:
        if batch.n_tracks:
            free = {name: fitter.fit_free(place, batch) for name, place in places.items()}
            found = {name: approach(tracks, batch) for name, tracks in free.items()}
            usable = None
            if max_chi2_per_ndf is not None:
                usable = free[reference].chi2 <= max_chi2_per_ndf * free[reference].ndf
            parts.append(sample_of(found, batch, reference, usable))
    return _joined(parts) if any(len(part) for part in parts) else None


class Approached(NamedTuple):
    """Closest approaches of a batch's tracks to the vertices of their events."""

    impact: Impact  # (tracks,), the vertices' uncertainty in its covariance
    known: Tensor  # where fit and vertex are known (tracks,)


class Approach:
    """Takes fitted tracks to the vertices of their events.

    Args:
        b_z: field [T].
        vertex: "given" or "truth" (then batches carry it), or "leave_one_out".
        beam_spot: with "leave_one_out", joins the vertex fit.
        max_sigma: with "leave_one_out", how well a vertex must be known along each axis [cm].
    """

    def __init__(
        self, b_z: float, vertex: str, beam_spot: BeamSpot | None = None, max_sigma: float = 100e-4
    ) -> None:
        self.b_z, self.vertex, self.beam_spot, self.max_sigma = b_z, vertex, beam_spot, max_sigma

    @torch.no_grad()
    def __call__(self, tracks: FreeTracks, batch: Batch) -> Approached:
        """The tracks of a batch."""
        found, known = self._to_vertex(tracks.helix, tracks.covariance, tracks.usable, batch)
        finite = found.distance.isfinite().all(-1) & found.covariance.isfinite().all(-1).all(-1)
        return Approached(found, tracks.usable & known & finite)

    def _to_vertex(
        self, helix: Helix, covariance: Tensor, usable: Tensor, batch: Batch
    ) -> tuple[Impact, Tensor]:
        if self.vertex != "leave_one_out":
            found = impact(helix, covariance, batch.vertex, self.b_z)
            return _with_vertex(found, batch.vertex_cov), batch.has_vertex
        reference, found = vertex_fit(helix, covariance, usable, batch, self.b_z, self.beam_spot)
        others = vertices(found, usable, batch.event, reference, self.beam_spot, leave_one_out=True)
        distance = found.distance + (found.towards @ others.offset[..., None]).squeeze(-1)
        sigma = others.covariance.diagonal(dim1=-2, dim2=-1).amax(-1).sqrt()
        return _with_vertex(found._replace(distance=distance), others.covariance), others.known & (
            sigma < self.max_sigma
        )


def _with_vertex(found: Impact, covariance: Tensor) -> Impact:
    """The same distances, with the uncertainty of the vertices (tracks, 3, 3) in their covariance."""
    return found._replace(
        covariance=found.covariance + found.towards @ covariance @ found.towards.transpose(-1, -2)
    )


def sample_of(
    found: Mapping[str, Approached], batch: Batch, reference: str, usable: Tensor | None = None
) -> DcaSample:
    """The tracks of a batch that all geometries know.

    Args:
        found: by geometry.
        batch: the tracks.
        reference: the geometry of p_T, φ and η.
        usable: leave out others (tracks,).
    """
    keep = torch.stack([one.known for one in found.values()]).all(0)
    if usable is not None:
        keep &= usable
    five = found[reference].impact.perigee
    columns = {
        "pt": five.q_over_pt.abs().reciprocal(),
        "phi": five.phi0,
        "eta": five.tan_lambda.asinh(),
        "charge": five.q_over_pt.sign(),
    }
    impacts = {name: one.impact for name, one in found.items()}
    sigma = {name: one.covariance.diagonal(dim1=-2, dim2=-1).sqrt() for name, one in impacts.items()}
    return DcaSample(
        event=batch.event_number[batch.event][keep].numpy(),
        **{name: _float(column[keep]) for name, column in columns.items()},
        dca={name: _float(one.distance[keep]) for name, one in impacts.items()},
        sigma={name: _float(value[keep]) for name, value in sigma.items()},
        reference=reference,
    )


def _float(values: Tensor) -> Array:
    return values.cpu().to(torch.float32).numpy()


def _joined(parts: list[DcaSample]) -> DcaSample:
    columns: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in PER_TRACK}
    for name in ("dca", "sigma"):
        columns[name] = {k: np.concatenate([getattr(p, name)[k] for p in parts]) for k in parts[0].dca}
    return replace(parts[0], **columns)
