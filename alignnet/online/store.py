"""What the tracks of intervals said, a file an interval: all that is kept of the tracks."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignnet.data.tracks import Array
from alignnet.errors import CheckpointError
from alignnet.online.durable import write_durably
from alignnet.training.intervals import Linearised


@dataclass(frozen=True)
class Interval:
    """An interval of validity and what its tracks say."""

    first_event: int
    last_event: int
    chi2_before: float  # per ndf, at the constants before
    linearised: Linearised  # at those with it
    sensor_hits: Array  # hits of each sensor, int64 (sensors,)

    def told(self) -> dict[str, Any]:
        """Its numbers for the journal."""
        return {
            "first_event": self.first_event,
            "last_event": self.last_event,
            "n_tracks": self.linearised.n_tracks,
            "used": self.linearised.used,
            "chi2_per_ndf_before": self.chi2_before,
            "chi2_per_ndf_after": self.linearised.chi2_per_ndf,
        }


class Store:
    """Intervals on disk, numbered through.

    Args:
        folder: they are in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """The file of an interval."""
        return self.folder / f"{number:06d}.npz"

    def write(self, number: int, interval: Interval) -> None:
        """Keep an interval; what an interrupted process left under its number is replaced."""
        one, buffer = interval.linearised, io.BytesIO()
        np.savez_compressed(
            buffer, matrix=one.matrix.numpy(), gradient=one.gradient.numpy(), at=one.at.numpy(),
            hits=one.hits.numpy(), sensor_hits=interval.sensor_hits,
            events=np.array([interval.first_event, interval.last_event, one.n_tracks]),
            numbers=np.array([one.chi2, one.ndf, one.used, interval.chi2_before]),
        )  # fmt: skip
        write_durably(self.path(number), buffer.getvalue())

    def read(self, number: int) -> Interval:
        """An interval.

        Raises:
            CheckpointError: its file is missing or damaged.
        """
        try:
            with np.load(self.path(number)) as file:
                fields = {name: file[name] for name in file.files}
            first, last, n_tracks = fields["events"].tolist()
            chi2, ndf, used, before = fields["numbers"].tolist()
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise CheckpointError(
                f"{self.path(number)}: an interval of the journal is missing or damaged ({error}); bring it "
                "back from a copy, or start anew with another watch.output"
            ) from error
        of: dict[str, Tensor] = {k: torch.from_numpy(fields[k]) for k in ("matrix", "gradient", "at", "hits")}
        linearised = Linearised(**of, chi2=chi2, ndf=ndf, n_tracks=n_tracks, used=used)
        return Interval(first, last, before, linearised, fields["sensor_hits"])
