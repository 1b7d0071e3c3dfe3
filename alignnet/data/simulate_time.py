"""A simulation whose sensors move from step to step, chunk by chunk.

Chunks are those of the simulation at rest, with the same random numbers: a chunk that several steps share is
simulated for each of them, and events are taken from the one that they are in. Tracks of steps in which
nothing has moved are those of the simulation at rest.
"""

from __future__ import annotations

from collections.abc import Iterator

from alignnet.data.noise import NoiseHits
from alignnet.data.simulate import Simulation
from alignnet.data.tracks import Tracks, concatenate
from alignnet.geometry.motion import Moving, Step


def moving_chunks(
    simulation: Simulation, moving: Moving, n_events: int
) -> Iterator[tuple[Tracks, NoiseHits, list[Step]]]:
    """Tracks and noise of each chunk of events, and the steps of these events.

    Args:
        simulation: of the detector as it stands at the beginning.
        moving: how it goes on.
        n_events: how many.
    """
    size = simulation.source.chunk_events
    for index, first in enumerate(range(0, n_events, size)):
        number = min(size, n_events - first)
        steps = moving.steps(first, first + number)
        noise = simulation.noise(index, number, first)
        yield _chunk(simulation, moving, steps, index, number), noise, steps


def _chunk(simulation: Simulation, moving: Moving, steps: list[Step], index: int, number: int) -> Tracks:
    parts, first = [], steps[0].first
    for step in steps:
        here = simulation if not moving.parts else simulation.moved(moving.detector, step.local)
        tracks = here.chunk(index, number, first)
        inside = (tracks.event >= step.first) & (tracks.event < step.last)
        parts.append(tracks if len(steps) == 1 else tracks.select(inside))
    return concatenate(parts)
