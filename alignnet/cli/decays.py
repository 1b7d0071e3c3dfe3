"""`alignnet convert from=decays`: the pairs of a decay among tracks, as a data set of decays."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig

from alignnet.cli.app import build
from alignnet.data.convert import Content
from alignnet.errors import ConfigError
from alignnet.evaluation.decay_pairs import DecayPairs
from alignnet.evaluation.decays import Decay
from alignnet.evaluation.pair_tally import PairTally
from alignnet.export.alice import read_start
from alignnet.geometry.detector import Detector

log = logging.getLogger("alignnet.convert")


def pairs_of(config: DictConfig, content: Content) -> tuple[Content, PairTally]:
    """What goes into the file of pairs, and what counts them while they are written.

    Args:
        config: `decay` and `alignment` of conf/convert.yaml.
        content: the tracks to look among.

    Raises:
        ConfigError: no decay is chosen, or one of its values cannot be used.
        SchemaError: the alignment cannot be read.
    """
    if config.get("decay") is None:
        raise ConfigError("from=decays: which decay? give decay=k0s, lambda or d0")
    decay: Decay = build(config.decay)
    finder = DecayPairs(content.detector, _believed(config.alignment, content.detector), decay)
    told = {"decay": asdict(decay), "alignment": None if config.alignment is None else str(config.alignment)}
    return content._replace(
        tracks=finder.found(content.tracks), metadata={**content.metadata, **told}, noise=None, noise_of=None
    ), finder.tally


def refuse_decay(config: DictConfig) -> None:
    """Keys of the search for decays are refused where nothing is searched for.

    Raises:
        ConfigError: names the key.
    """
    for key in ("decay", "alignment"):
        if config.get(key) is not None:
            raise ConfigError(f"{key} is given, which goes with from=decays: give that, or leave {key} out")


def report(tally: PairTally) -> None:
    """Say what was found."""
    decay, found = tally.decay, tally.numbers()
    log.info(
        "%s pairs within %.4g ± %.4g GeV/c², background by side bands %.0f: purity %.3f",
        f"{tally.pairs:,}", decay.mass, decay.half_window, found["background"], found["purity"],
    )  # fmt: skip
    if (peak := tally.peak) is None:
        log.info("no peak is found in their masses")
    else:
        log.info(
            "peak of %.0f at %.2f ± %.2f MeV/c², %.2f ± %.2f wide",
            peak.yield_, *(1e3 * x for x in (peak.mean, peak.mean_error, peak.width, peak.width_error)),
        )  # fmt: skip
    if tally.known:
        log.info(
            "truth: %s of the pairs are such decays: purity %.3f; of %s with both tracks in the input: "
            "efficiency %.3f",
            f"{tally.true_pairs:,}", found["true_purity"], f"{tally.true:,}", found["efficiency"] or 0.0,
        )  # fmt: skip


def _believed(alignment: str | None, detector: Detector) -> torch.Tensor:
    """The local six of an alignment, or those of the nominal places (sensors, 6)."""
    if alignment is None:
        return torch.zeros(len(detector), 6, dtype=torch.float64)
    return read_start(Path(str(alignment)).expanduser(), detector)
