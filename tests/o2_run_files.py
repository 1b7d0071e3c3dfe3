"""A short run of O2 for tests: its time frames, what may be changed of them, and its files."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from alignnet.data.o2 import SEEDING, O2Source
from alignnet.data.o2_branches import CLUSTER_FILE, TRACK_FILE, VERTEX_FILE, Frames
from alignnet.data.o2_dictionary import write_dictionary
from alignnet.data.o2_output import NAMES, frames_of
from alignnet.data.o2_pixels import SubPixels
from alignnet.data.o2_selection import Selection
from alignnet.data.o2_vertices import Timing
from alignnet.data.o2_write import FrameWriter
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import concatenate
from alignnet.geometry.its2 import its2

DETECTOR = its2()
EVERY = Selection()


@cache
def collisions():
    """Thirty collisions of five tracks, 15 µm from their vertices; scattering, no misalignment."""
    gun = ParticleGun(n_tracks_per_event=5, pt_min=0.4)
    return Simulation(gun, DETECTOR, seed=3).generate(30)


@cache
def two_time_frames():
    """Tracks, clusters and vertices of `collisions`, and their dictionary."""
    pixels, tracks = SubPixels(cells=9), collisions()
    first = tracks.select(tracks.event < 10), tracks.select(tracks.event >= 10)
    parts = [frames_of(part, DETECTOR, pixels, k) for k, part in enumerate(first)]
    return [joined(*pair) for pair in zip(*parts, strict=True)], pixels.dictionary


def joined(one, other):
    counts = {name: np.concatenate([one.counts[name], other.counts[name]]) for name in one.counts}
    return Frames(counts, {name: np.concatenate([one[name], other[name]]) for name in one.columns}, one.first)


def changed(frames, columns=(), counts=()):
    """Copies with other columns or counts."""
    return replace(
        frames, columns={**frames.columns, **dict(columns)}, counts={**frames.counts, **dict(counts)}
    )


def source_of(folder, frames, dictionary, vertices=SEEDING, timing=None):
    """The frames as files."""
    for name, part, branches in zip(NAMES, frames, (TRACK_FILE, CLUSTER_FILE, VERTEX_FILE), strict=False):
        with FrameWriter(folder / name, branches) as writer:
            writer.append(part)
    write_dictionary(folder / NAMES[3], dictionary)
    vertices = folder / NAMES[2] if vertices == "primary" else vertices
    return O2Source(*(folder / name for name in NAMES[:2]), folder / NAMES[3], vertices, timing or Timing())


def with_vertices(source, frames, path):
    """The same run with other primary vertices, in a new file."""
    with FrameWriter(path, VERTEX_FILE) as writer:
        writer.append(frames)
    return replace(source, vertices=path)


def read(source, selection=EVERY, detector=DETECTOR, **options):
    return concatenate(list(source.chunks(detector, selection, **options)))
