"""`alignnet find`: tracks from the hits of a file, to a file of tracks to align with."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import alignnet
from alignnet.cli.app import build, command, values_of
from alignnet.cli.detector import detector_of
from alignnet.cli.progress import Count, tracked
from alignnet.cli.setup import plain
from alignnet.cli.simulate import checked_output, whole_number
from alignnet.data.root import SimulationWriter, check_same_sensors, has_misalignment, read_misalignment
from alignnet.data.root_columns import count_entries
from alignnet.errors import CheckpointError, ConfigError
from alignnet.evaluation.summary import write_metrics
from alignnet.export.alice import read_start
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import misaligned
from alignnet.trackfinding.its2.automaton import Automaton
from alignnet.trackfinding.its2.finder import EdgeScorer, Finder, NetworkScorer
from alignnet.trackfinding.its2.fit import TrackFit
from alignnet.trackfinding.its2.found_tracks import Tally, found_tracks
from alignnet.trackfinding.its2.graph import GraphBuilder
from alignnet.trackfinding.its2.network import TrackletNetwork
from alignnet.training.checkpoint import load_checkpoint
from alignnet.training.run import last_checkpoint

log = logging.getLogger("alignnet.find")


@command("find")
def main(config: DictConfig) -> None:
    """Find tracks, and leave them and their figures of merit."""
    path, output = Path(str(config.input)).expanduser(), checked_output(config)
    if output.resolve() == path.resolve():
        raise ConfigError(f"output is {output}, the file of the hits; choose another name")
    figures = find(config, path, output, detector_of(config.detector, [str(path)]), config.alignment)
    if config.metrics is not None:
        write_metrics(Path(str(config.metrics)).expanduser(), figures)


def find(
    settings: DictConfig, path: Path, output: Path, nominal: Detector, alignment: str | None, **marks: Any
) -> dict[str, float]:
    """Find tracks chunk by chunk, writing as it goes.

    Args:
        settings: of conf/finding.
        path, output: the file of hits, and that of tracks.
        nominal: what the hits refer to.
        alignment: where the sensors are believed to be; None for the nominal places.
        marks: for the metadata of the file.

    Returns:
        Figures of merit, where the file has a truth, and times.

    Raises:
        ConfigError: a setting cannot be used, or the output cannot be written.
        SchemaError: the file cannot be read, or is of another detector.
        CheckpointError: there is no such network.
    """
    start, step = time.perf_counter(), whole_number(settings, "step", 1)
    check_same_sensors(path, nominal)
    finder = finder_of(settings, believed(nominal, alignment))
    truth = read_misalignment(path, nominal) if has_misalignment(path) else None
    metadata = {
        **{"generator": f"alignnet {alignnet.__version__} find", "seed": None, "hits": str(path)},
        **{"graph": plain(settings.graph), "finder": plain(settings.finder), "network": settings.network},
        **marks,
    }
    count, tally, total = Count(nominal), Tally(), count_entries(path, "tracks")
    with SimulationWriter(output, nominal, truth, metadata) as writer:
        parts = tracked(found_tracks(path, nominal, finder, tally, step), "tracks", total, step, log)
        for tracks in count.counting(parts):
            writer.append(tracks)
    figures = tally.figures()
    log.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if "/" not in name))
    log.info("%s, %.1f s", count.summary(), time.perf_counter() - start)
    log.info("written: %s (%.1f MB)", output, output.stat().st_size / 1e6)
    return figures


def finder_of(settings: DictConfig, detector: Detector) -> Finder:
    """What finds tracks in a detector, by settings of conf/finding."""
    with values_of("graph"):
        builder: GraphBuilder = build(settings.graph, detector=detector)
    scorer = scorer_of(settings, builder)
    with values_of("finder"):
        fit = TrackFit(detector, builder.systematic)
        finder: Finder = build(settings.finder, builder=builder, scorer=scorer, fit=fit)
    return finder


def believed(nominal: Detector, alignment: str | None) -> Detector:
    """The detector as an alignment has it; None for the nominal places."""
    if alignment is None:
        return nominal
    local: torch.Tensor = read_start(Path(alignment).expanduser(), nominal)
    return misaligned(nominal, local)


def scorer_of(config: DictConfig, builder: GraphBuilder) -> EdgeScorer:
    """What scores edges: the network of a training run, or the cellular automaton."""
    if config.network is None:
        with values_of("automaton"):
            automaton: Automaton = build(config.automaton)
        return automaton
    return NetworkScorer(network_of(Path(str(config.network)).expanduser()), builder)


def network_of(run: Path) -> TrackletNetwork:
    """The network of a training run as its last checkpoint has it.

    Raises:
        CheckpointError: the folder is not one of such a run, or the checkpoint is not of its network.
    """
    content = load_checkpoint(last_checkpoint(run))
    path = run / ".hydra" / "config.yaml"
    node = OmegaConf.select(OmegaConf.load(path), "system") if path.is_file() else None
    if node is None:
        raise CheckpointError(f"{run}: not the folder of a training of a network, {path} has no `system`")
    network = build(node)
    if not isinstance(network, TrackletNetwork):
        raise CheckpointError(
            f"{run}: has a {type(network).__name__}, expected a TrackletNetwork: "
            "alignnet train task=trackfinding experiment=trackfinding/its2_network"
        )
    weights = {k.removeprefix("system."): v for k, v in content["state_dict"].items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{run}: its checkpoint does not fit its configuration: {error}") from error
    return network


if __name__ == "__main__":
    main()
