"""Noise: as many hits as asked for, where a sensor can have them, and no track that is any different."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import uproot
from scipy import stats
from small_detectors import GUN, barrel

from alignnet.data.noise import NoiseHits, noise_hits
from alignnet.data.o2 import ABSENT, FRAME_STRIDE, O2Source
from alignnet.data.o2_output import NAMES, O2Writer
from alignnet.data.o2_pixels import Boxes, SubPixels
from alignnet.data.o2_selection import Selection
from alignnet.data.root_noise import NoiseFile, has_noise
from alignnet.data.root_tracks import read_tracks
from alignnet.data.root_write import SimulationWriter
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.streams import Streams
from alignnet.data.tracks import Tracks, concatenate
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.its2 import its2

BARREL, ITS2 = barrel(), its2()
METADATA = {"generator": "tests", "seed": 1}


def same(one: Tracks, other: Tracks) -> None:
    for name in (f.name for f in fields(Tracks) if f.name != "truth"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name, column in one.truth.items():
        assert np.array_equal(column, other.truth[name]), name


@pytest.mark.parametrize("mean", [0.02, 0.7])
def test_each_sensor_has_a_poisson_number_an_event(mean):
    n = 4000
    hits = noise_hits(BARREL, n, 10, mean, (5e-4, 6e-4), Streams(3, 0))
    assert (np.diff(hits.event) >= 0).all()
    assert 10 <= hits.event.min() <= hits.event.max() < n + 10
    table = np.bincount((hits.event - 10) * len(BARREL) + hits.sensor, minlength=n * len(BARREL))
    seen = np.bincount(table)
    bins = min(len(seen), 4)
    observed = np.append(seen[: bins - 1], seen[bins - 1 :].sum())
    expected = stats.poisson(mean).pmf(np.arange(bins - 1))
    expected = len(table) * np.append(expected, 1 - expected.sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    of_sensor = np.bincount(hits.sensor, minlength=len(BARREL))
    assert stats.chisquare(of_sensor).pvalue > 1e-3
    assert np.array_equal(np.unique(hits.sigma, axis=0), [[5e-4, 6e-4]])


def test_noise_is_even_over_the_active_area():
    hits = noise_hits(ITS2, 20, 0, 0.05, (5e-4, 5e-4), Streams(5, 0))
    assert len(hits) > 20_000
    place = (hits.uv - ITS2.centre.numpy()[hits.sensor]) / ITS2.half.numpy()[hits.sensor]
    for axis in place.T:
        assert np.abs(axis).max() <= 1
        assert stats.kstest(axis, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(place.T)[0, 1]) < 4 / np.sqrt(len(hits))


def test_tracks_are_the_same_with_and_without_noise():
    quiet, noisy = (
        Simulation(GUN, BARREL, seed=7, noise_per_sensor=mean, outlier_fraction=0.1) for mean in (0.0, 3.0)
    )
    same(noisy.chunk(2, 30, 60), quiet.chunk(2, 30, 60))
    assert len(quiet.noise(2, 30, 60)) == 0
    whole, fewer = noisy.noise(2, 30, 60), noisy.noise(2, 20, 60)
    assert len(whole) > 1000
    first = np.arange(len(whole))[whole.event < 80]
    assert len(fewer) == len(first)
    assert np.array_equal(fewer.event, whole.event[first])
    other = noisy.noise(3, 30, 60)
    assert len(np.intersect1d(other.uv[:, 0], whole.uv[:, 0])) == 0


@pytest.mark.parametrize("mean", [-0.1, -1])
def test_there_are_no_fewer_than_none(mean):
    with pytest.raises(ConfigError, match=f"noise_per_sensor is {mean}, expected a number >= 0"):
        Simulation(GUN, BARREL, noise_per_sensor=mean)


@pytest.fixture
def file(tmp_path):
    """Two chunks of tracks and their noise."""
    simulation = Simulation(GUN, BARREL, seed=2, noise_per_sensor=0.5)
    with SimulationWriter(tmp_path / "noisy.root", BARREL, None, METADATA) as writer:
        for index in range(2):
            writer.append(simulation.chunk(index, 20, 20 * index))
            writer.append_noise(simulation.noise(index, 20, 20 * index))
    parts = [simulation.noise(index, 20, 20 * index) for index in range(2)]
    return tmp_path / "noisy.root", NoiseHits.joined(parts)


def test_a_file_holds_noise_beside_its_tracks(file):
    path, known = file
    assert has_noise(path)
    found = NoiseFile(path, BARREL)
    whole = NoiseHits.joined(list(found.chunks(step=100)))
    for name in ("event", "sensor", "uv"):
        assert np.array_equal(getattr(whole, name), getattr(known, name)), name
    assert whole.sigma == pytest.approx(known.sigma, rel=1e-7)
    some = found.of(np.array([25, 3, 25]))
    assert set(some.event) == {3, 25}
    assert np.array_equal(some.uv, known.uv[np.isin(known.event, [3, 25])])
    assert len(found.of(np.array([1000]))) == 0
    assert len(read_tracks(path, BARREL))


@pytest.mark.parametrize(
    ("branch", "value", "told"),
    [
        ("event", 99, "branch event, entry 1: found [0-9]+, expected events in ascending order"),
        ("sensor", 24119, "branch sensor, entry 0: found 24119, expected a sensor_id of"),
        ("u", np.nan, "branch u, entry 0: found nan, expected finite"),
        ("sigma_v", 0.0, "branch sigma_v, entry 0: found 0.0, expected a resolution > 0"),
    ],
)
def test_noise_that_cannot_be_is_an_error(file, tmp_path, branch, value, told):
    with uproot.open(file[0]) as source, uproot.recreate(tmp_path / "bad.root") as target:
        columns = {name: source["noise"][name].array(library="np") for name in source["noise"].keys()}  # noqa: SIM118
        columns[branch][0] = value
        target.mktree("noise", {name: column.dtype for name, column in columns.items()}).extend(columns)
    with pytest.raises(SchemaError, match=told):
        list(NoiseFile(tmp_path / "bad.root", BARREL).chunks())


@pytest.mark.parametrize("pixels", [SubPixels, Boxes])
def test_clusters_of_no_track_go_through_files_of_o2(pixels, tmp_path):
    gun = ParticleGun(n_tracks_per_event=3, pt_min=0.4)
    simulation = Simulation(gun, ITS2, seed=4, noise_per_sensor=2e-3)
    tracks, noise = simulation.chunk(0, 150), simulation.noise(0, 150)
    assert len(noise) > 5000
    runs = {}
    for name, hits in (("quiet", None), ("noisy", noise)):
        with O2Writer(tmp_path / name, ITS2, pixels()) as writer:
            writer.append(tracks, hits)
        folder = tmp_path / name
        dictionary = folder / NAMES[3] if pixels is SubPixels else None
        runs[name] = O2Source(folder / NAMES[0], folder / NAMES[1], dictionary, ABSENT)
    quiet, noisy = (concatenate(list(run.chunks(ITS2, Selection()))) for run in runs.values())
    same(noisy, quiet)
    assert not sum(map(len, runs["quiet"].unassociated(ITS2)))
    for chunk_bytes in (1, 2**24):
        parts = list(runs["noisy"].unassociated(ITS2, chunk_bytes))
        assert len(parts) == (2 if chunk_bytes == 1 else 1)
        found = NoiseHits.joined(parts)
        expected = noise.select(np.flatnonzero(np.isin(noise.event, tracks.event)))
        number = np.unique(tracks.event, return_inverse=True)[1]
        assert np.array_equal(np.unique(noisy.event, return_inverse=True)[1], number)
        place = np.searchsorted(np.unique(tracks.event), expected.event)
        assert np.array_equal(found.event, place // 128 * FRAME_STRIDE + place % 128)
        order, own = (np.lexsort((hits.sensor, hits.event)) for hits in (expected, found))
        assert np.array_equal(found.sensor[own], expected.sensor[order])  # equal ones stay in order
        distance = np.abs(found.uv[own] - expected.uv[order])
        inside = 0.5 - 3 / 512  # Boxes lose half a pitch at the edge
        place = (expected.uv[order] - ITS2.centre[0].numpy()) / ITS2.half[0].numpy() / 2
        assert distance[(np.abs(place) < inside).all(-1)].max() < (3.4e-5 if pixels is SubPixels else 4e-4)
