"""Built-in detectors: ITS3's half-cylinders, discs, and a barrel with endcaps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from alignnet.data.crossings import crossings
from alignnet.data.sources import ParticleGun
from alignnet.data.streams import Streams
from alignnet.errors import GeometryError
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.geometry.its3 import its3
from alignnet.geometry.tracker import barrel_endcap, discs
from alignnet.physics.helix import from_momentum

BUILDERS: dict[str, Callable[[], Detector]] = {
    "its3": lambda: its3(outer_barrel=False), "discs": discs, "barrel_endcap": barrel_endcap,
}  # fmt: skip


def layers_hit(detector: Detector, eta: tuple[float, float]) -> Tensor:
    """Layers that tracks of p_T > 5 GeV/c from the middle cross, (tracks, layers)."""
    gun = ParticleGun(
        n_tracks_per_event=400, pt_min=5.0, pt_max=20.0, eta_max=eta[1], vertex_sigma=(1e-3, 1e-3, 1e-3)
    )
    particles = gun.particles(1, Streams(3, 0), 0, detector.b_z)
    wanted = (particles.momentum[:, 2] / particles.momentum[:, :2].norm(dim=-1)).asinh() > eta[0]
    parts = (part[wanted] for part in (particles.position, particles.momentum, particles.charge))
    found = crossings(detector, from_momentum(*parts, detector.b_z))
    hit = torch.zeros(int(wanted.sum()), len(detector.layers), dtype=torch.bool)
    hit[found.track, detector.layer[found.sensor]] = True
    return hit


@pytest.mark.parametrize("name", BUILDERS)
def test_frames_are_right_handed_and_names_say_where_a_sensor_is(name):
    detector = BUILDERS[name]()
    u, w, v = detector.rotation.unbind(-1)
    assert torch.allclose(torch.linalg.cross(v, u), w, atol=1e-12)
    for layer in detector.layers:
        mine = [n for n, k in zip(detector.names, detector.layer.tolist(), strict=True) if k == layer]
        assert len({n.split("/")[1] for n in mine}) == 1


def test_its3_has_six_half_cylinders_and_the_outer_barrel_of_its2():
    detector, outer = its3(), its2()
    keep = outer.layer > 2
    assert len(detector) == 6 + int(keep.sum())
    assert torch.equal(detector.sensor_id[6:], outer.sensor_id[keep])
    assert torch.equal(detector.translation[6:], outer.translation[keep])
    assert detector.names[6:] == tuple(n for n, k in zip(outer.names, keep.tolist(), strict=True) if k)
    assert detector.groups("half_barrel")[0][:6].tolist() == [0, 1, 2, 3, 4, 5]


def test_half_cylinders_lie_at_their_radius_on_either_side():
    detector = its3(outer_barrel=False)
    edge = torch.stack([detector.half[:, 0], torch.zeros(6).double()], -1)
    for uv in (edge, -edge, 0 * edge):
        local = detector.surface.point(uv)
        place = detector.translation + (detector.rotation @ local[..., None]).squeeze(-1)
        assert torch.allclose(place[:, :2].norm(dim=-1), detector.curvature_radius, atol=1e-12)
        assert (place[::2, 1] > 0).all()
        assert (place[1::2, 1] < 0).all()
    # 1 mm between the edges of the two halves
    ends = detector.translation + (detector.rotation @ detector.surface.point(edge)[..., None]).squeeze(-1)
    starts = detector.translation + (detector.rotation @ detector.surface.point(-edge)[..., None]).squeeze(-1)
    assert torch.allclose((ends[::2] - starts[1::2]).norm(dim=-1), torch.full((3,), 0.1).double(), rtol=1e-3)


def test_tracks_leave_a_hit_in_every_bent_layer_but_for_the_gaps():
    detector = its3(outer_barrel=False)
    hit = layers_hit(detector, (-1.5, 1.5))
    gap = 0.2 / (2 * math.pi * detector.curvature_radius[::2])
    assert torch.allclose(1 - hit.double().mean(0), gap, atol=0.02)


def test_discs_leave_no_hole_within_their_radii():
    detector = discs()
    low, high = math.asinh(80 / 17.0), math.asinh(30 / 2.8)  # through all discs, within the innermost's rings
    assert layers_hit(detector, (low, min(high, 3.2))).all()


def test_a_barrel_with_endcaps_has_hits_up_to_its_acceptance():
    detector = barrel_endcap()
    central, forward = layers_hit(detector, (-0.9, 0.9)), layers_hit(detector, (1.8, 2.3))
    assert central[:, :6].double().mean() > 0.995
    assert not central[:, 6:].any()
    assert (forward.sum(-1) >= 5).double().mean() > 0.99
    assert not forward[:, 11:].any()  # none at z < 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: its3(radii=[2.4, 1.8]), "ascending radii above"),
        (lambda: its3(radii=[1.5]), "ascending radii above"),
        (lambda: its3(gap=6.0), "gap is 6.0"),
        (lambda: discs(z=[]), "0 layers"),
        (lambda: discs(radii=[3.0]), "at least two radii"),
        (lambda: discs(radii=[5.0, 4.0]), "ascending order"),
        (lambda: barrel_endcap(endcap_z=[50.0]), "beyond the half_length"),
        (lambda: barrel_endcap(radii=[3.0, 3.0]), "ascending order"),
    ],
)
def test_numbers_that_make_no_detector_are_refused(build, words):
    with pytest.raises(GeometryError, match=words):
        build()
