"""`alignnet generate`: collisions of an event generator, to a file for `alignnet simulate source=events`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np
from omegaconf import DictConfig, OmegaConf

import alignnet
from alignnet.cli.app import build, command, values_of
from alignnet.cli.progress import tracked
from alignnet.cli.simulate import checked_output, whole_number
from alignnet.data.collisions import EventSource
from alignnet.data.events import Events, joined
from alignnet.data.root_events import write_events
from alignnet.data.streams import Streams
from alignnet.errors import ConfigError

log = logging.getLogger("alignnet.generate")


@command("generate")
def main(config: DictConfig) -> None:
    """Generate in chunks of events, as a simulation of the same source and seed does, and write them."""
    start = time.perf_counter()
    output = checked_output(config)
    n_events, seed = whole_number(config, "n_events", 1), whole_number(config, "seed", 0)
    with values_of("source"):
        source = build(config.source)
    if not isinstance(source, EventSource):
        raise ConfigError("source: it makes no events with decays; choose source=collisions")
    chunks = tracked(_chunks(source, n_events, seed), "events", n_events, source.chunk_events, log)
    events = joined(list(chunks))
    made = {"generator": f"alignnet {alignnet.__version__}", "seed": seed, "n_events": n_events}
    write_events(output, events, {**made, "source": OmegaConf.to_container(config.source, resolve=True)})
    passed = f"{n_events:,} events, {np.count_nonzero(events.final):,} particles"
    log.info("%s, %.1f s", passed, time.perf_counter() - start)
    log.info("written: %s (%.1f MB)", output, output.stat().st_size / 1e6)


def _chunks(source: EventSource, n_events: int, seed: int) -> Iterator[Events]:
    step = source.chunk_events
    for index, first in enumerate(range(0, n_events, step)):
        yield source.events(min(step, n_events - first), Streams(seed, index), first)


if __name__ == "__main__":
    main()
