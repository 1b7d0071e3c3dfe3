"""`alignnet simulate`: particles through a misaligned detector, to one file of tracks with the truth."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import alignnet
from alignnet.cli.app import build, command, values_of
from alignnet.cli.detector import detector_of
from alignnet.cli.progress import Count, tracked
from alignnet.data.root_series import SeriesWriter
from alignnet.data.simulate import Simulation
from alignnet.data.simulate_time import moving_chunks
from alignnet.errors import ConfigError
from alignnet.geometry.motion import Motion, Moving, Together

log = logging.getLogger("alignnet.simulate")


@command("simulate")
def main(config: DictConfig) -> None:
    """Simulate in chunks of events, writing as it goes."""
    start = time.perf_counter()
    output, n_events, seed = _checked(config)
    detector = detector_of(config.detector)
    local = _built(config.misalignment)(detector)
    simulation: Simulation = _built(
        config.simulation, source=_built(config.source), detector=detector, misalignment=local, seed=seed
    )
    moving = Moving(detector, local, _motion(config))
    if moving.parts and not any(part.steps(0, n_events) for part in moving.parts):
        log.warning("time: nothing moves between the first and the last of %d events", n_events)
    count = Count(detector)
    per_file = None if config.events_per_file is None else whole_number(config, "events_per_file", 1)
    with SeriesWriter(output, per_file, n_events, detector, local, _metadata(config)) as writer:
        chunks = moving_chunks(simulation, moving, n_events)
        for tracks, noise, steps in tracked(chunks, "events", n_events, simulation.source.chunk_events, log):
            count.add(tracks)
            writer.append(tracks, noise, steps)
        if not count.tracks:
            raise ConfigError(
                f"no particle of {n_events} events leaves {simulation.min_hits} hits in {detector.name}: "
                "choose a source whose particles cross the detector, or lower simulation.min_hits"
            )
    log.info("%s events, %s, %.1f s", f"{n_events:,}", count.summary(), time.perf_counter() - start)
    for path in writer.paths[:: max(len(writer.paths) - 1, 1)]:  # the first and the last
        log.info("written: %s (%.1f MB)", path, path.stat().st_size / 1e6)


def _motion(config: DictConfig) -> Motion | Together | None:
    """What moves in time; the key `time` is a group."""
    return None if config.get("time") is None else _built(config.time)


def _checked(config: DictConfig) -> tuple[Path, int, int]:
    """The keys that no constructor looks at: output, n_events and seed."""
    for key in ("detector", *_RECIPE):
        if config[key] is None:
            raise ConfigError(f"{key} is null; `alignnet simulate --help` lists the choices")
    return checked_output(config), whole_number(config, "n_events", 1), whole_number(config, "seed", 0)


def checked_output(config: DictConfig) -> Path:
    """The ROOT file to write, which no other job of a sweep may have written."""
    output = Path(str(config.output)).expanduser()
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep and output.resolve() in _WRITTEN:
        raise ConfigError(
            f"output is {config.output}, which an earlier job of this sweep has written; "
            "let its name vary: 'output=tracks_${seed}.root'"
        )
    _WRITTEN.add(output.resolve())
    if output.suffix != ".root":
        raise ConfigError(f"output is {config.output}, expected a name that ends in .root")
    return output


def whole_number(config: DictConfig, key: str, low: int) -> int:
    """The value of a key that must be a whole number >= `low`."""
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{key} is {value!r}, expected a whole number >= {low}")
    return value


def _built(node: DictConfig, **given: Any) -> Any:
    """As `build`; a word in place of a number, which constructors stumble over, is an error of the user."""
    with values_of(str(node._get_full_key(None))):
        return build(node, **given)


def _metadata(config: DictConfig) -> dict[str, Any]:
    """Everything that is needed to make the file again."""
    recipe = {
        key: OmegaConf.to_container(config[key], resolve=True)
        for key in (*_RECIPE, "time")
        if config.get(key) is not None
    }
    return {
        "generator": f"alignnet {alignnet.__version__}",
        "seed": config.seed,
        "n_events": config.n_events,
        **recipe,
    }


_WRITTEN: set[Path] = set()  # by the jobs of this process
_RECIPE = ("source", "simulation", "misalignment")

if __name__ == "__main__":
    main()
