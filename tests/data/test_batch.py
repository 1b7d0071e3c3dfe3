"""A batch is what its tracks say, however they are padded, joined and cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import BEAM, GUN, barrel, batch_of, planes, simulated

from alignnet.data.batch import Batch, collate, cylinders_of
from alignnet.data.datamodule import to_device
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Scatterers
from alignnet.geometry.its2 import its2
from alignnet.units import PION_MASS

BARREL = barrel()


@pytest.fixture
def tracks() -> Tracks:
    return simulated(BARREL, GUN, 10, hit_efficiency=0.8)


def test_hits_of_a_batch_are_those_of_the_tracks_in_order(tracks):
    batch = batch_of(tracks, BARREL)
    assert torch.equal(batch.sensor[batch.is_hit], torch.from_numpy(tracks.sensor))
    assert torch.equal(batch.uv[batch.is_hit], torch.from_numpy(tracks.uv))
    assert torch.equal(batch.sigma[batch.is_hit], torch.from_numpy(tracks.sigma))
    assert torch.equal(batch.is_hit.sum(-1), torch.from_numpy(tracks.hits_per_track))
    assert batch.sensor.shape[1] == tracks.hits_per_track.max()


def test_padding_repeats_a_hit_of_the_same_track(tracks):
    batch = batch_of(tracks, BARREL)
    padding = ~batch.is_hit
    assert bool(padding.any())
    assert torch.equal(batch.sensor[padding], batch.sensor[:, :1].expand_as(padding)[padding])
    assert torch.equal(batch.uv[padding], batch.uv[:, :1].expand_as(batch.uv)[padding])


def test_events_are_numbered_through_whatever_their_numbers_in_the_file(tracks):
    renamed = replace(tracks, event=tracks.event * 1000 + 7)
    batch = batch_of(renamed, BARREL)
    assert torch.equal(batch.event_number[batch.event], torch.from_numpy(renamed.event))
    assert torch.equal(batch.event.unique(), torch.arange(batch.n_events))


def test_the_covariance_of_a_vertex_is_a_symmetric_matrix_of_its_six_numbers(tracks):
    six = np.tile(np.arange(1.0, 7.0), (len(tracks), 1))
    batch = batch_of(replace(tracks, vertex_cov=six), BARREL)
    assert batch.vertex_cov[0].tolist() == [[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]]


def test_what_a_file_lacks_is_absent_or_usual(tracks):
    bare = batch_of(replace(tracks, vertex=None, vertex_cov=None, p=None, mass=None, kind=None), BARREL)
    assert not bool(bare.has_vertex.any())
    assert bool(bare.p.isnan().all())
    assert bare.mass.unique().tolist() == [PION_MASS]
    assert bool(bare.outward.all())


def test_only_collisions_start_at_the_beam_line_and_have_a_vertex(tracks):
    kind = (np.arange(len(tracks)) % 3).astype(np.int8)
    batch = batch_of(replace(tracks, kind=kind), BARREL)
    collision = torch.from_numpy(kind == 0)
    assert torch.equal(batch.outward, collision)
    assert torch.equal(batch.has_vertex, collision)
    assert not bool(batch.crossed[~collision].any())


def test_a_track_crosses_the_layers_inside_its_last_hit_in_which_it_left_none():
    pipe = Scatterers(
        *(torch.tensor(value, dtype=torch.float64) for value in ([1.0, 5.0], [30.0, 30.0], [0.1, 0.1]))
    )
    detector = replace(BARREL, scatterers=pipe)
    layer = detector.layer.numpy()
    tracks = simulated(detector, GUN, 20, hit_efficiency=0.6)
    found = batch_of(tracks, detector).crossed
    for t, row in enumerate(found.tolist()):
        mine = layer[tracks.sensor[tracks.offset[t] : tracks.offset[t + 1]]]
        reach = [2.5, 4.0, 7.0, 11.0][mine.max()]
        expected = [reach > 1.0, reach > 5.0] + [k < mine.max() and k not in mine for k in range(4)]
        assert row == expected


def test_cylinders_stand_for_barrel_layers_and_not_for_planes():
    detector = its2()
    cylinders = cylinders_of(detector)
    assert cylinders.layer.tolist() == [-1, 0, 1, 2, 3, 4, 5, 6]
    assert cylinders.x_over_x0.tolist() == pytest.approx([0.00227, *[0.0036] * 3, *[0.011] * 4])
    assert cylinders.radius.diff().min() > 0
    assert len(cylinders_of(planes()).radius) == 0


def test_a_batch_without_tracks_has_no_tracks(tracks):
    empty = batch_of(tracks.select(np.array([], dtype=np.int64)), BARREL)
    assert empty.n_tracks == empty.n_events == 0
    assert empty.sensor.shape[0] == empty.crossed.shape[0] == 0


def test_a_batch_of_one_event_is_its_part_of_a_batch_of_many(tracks):
    mine = tracks.event == tracks.event[-1]
    alone, together = batch_of(tracks.select(mine), BARREL), batch_of(tracks, BARREL)
    rows = torch.from_numpy(mine)
    n = alone.sensor.shape[1]
    for name in ("sensor", "uv", "sigma", "is_hit"):
        assert torch.equal(getattr(alone, name), getattr(together, name)[rows][:, :n])
    for name in ("vertex", "vertex_cov", "has_vertex", "p", "mass", "outward", "crossed"):
        assert torch.equal(getattr(alone, name), getattr(together, name)[rows])


def test_parts_of_similar_length_hold_every_track_once(tracks):
    detector = its2()
    batch = batch_of(simulated(detector, ParticleGun(), 10, hit_efficiency=0.9), detector)
    parts = batch.by_length()
    assert len(parts) > 1
    assert sum(part.n_tracks for part in parts) == batch.n_tracks
    assert all(part.n_events == batch.n_events for part in parts)
    for field in ("uv", "sigma", "sensor"):
        whole, cut = (
            torch.cat([getattr(b, field)[b.is_hit] for b in some]).flatten().sort().values
            for some in ([batch], parts)
        )
        assert torch.equal(whole, cut)
    assert sum(int((~part.is_hit).sum()) for part in parts) < int((~batch.is_hit).sum())
    names = [(float(p), int(n)) for part in parts for p, n in zip(part.p, part.event, strict=True)]
    assert sorted(names) == sorted((float(p), int(n)) for p, n in zip(batch.p, batch.event, strict=True))


def test_beams_through_planes_need_no_cylinders():
    detector = planes()
    batch = batch_of(simulated(detector, BEAM, 5), detector)
    assert batch.crossed.shape == (5, 0)


def test_moving_a_batch_to_a_device_moves_every_field(tracks):
    batch = to_device(collate(tracks, BARREL, cylinders_of(BARREL)), torch.device("meta"))
    assert isinstance(batch, Batch)
    assert {field.device.type for field in batch} == {"meta"}
