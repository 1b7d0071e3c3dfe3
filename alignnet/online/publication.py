"""Constants that go out: a folder for each publication, which appears whole, and `latest` that leads to it.

constants/000003/   constants.root   volumes by interval of validity, with errors, and what has changed
                    alignment.root   every sensor in the newest interval (tree `alignment`)
                    alice.root       the same as ALICE's object, for a detector of theirs
                    flags.json       quality
                    covariance.npz   of the newest interval
latest              symbolic link to the newest of them
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uproot

from alignnet.data.root_alignment import write_alignment
from alignnet.data.root_columns import write_columns
from alignnet.errors import CheckpointError
from alignnet.export.alice import write_alice
from alignnet.geometry import rigid
from alignnet.online.durable import make_folder, point_to, write_json
from alignnet.online.history import History, Located
from alignnet.solvers.walk import Estimate
from alignnet.training.answer import ALIGNED, TOO_FEW_HITS
from alignnet.training.intervals import VolumeFit

CONSTANTS, LATEST = "constants", "latest"


@dataclass(frozen=True)
class Publisher:
    """Writes publications.

    Args:
        folder: they go to.
        fit: the volumes.
    """

    folder: Path
    fit: VolumeFit

    def path(self, number: int) -> Path:
        """The folder of a publication."""
        return self.folder / CONSTANTS / f"{number:06d}"

    def publish(
        self, number: int, history: History, changes: Sequence[Located], flags: Mapping[str, Any]
    ) -> None:
        """Make a publication, unless it is there."""
        make_folder(self.path(number), lambda folder: self._fill(folder, history, changes, flags))

    def make_latest(self, number: int) -> None:
        """Let `latest` lead to a publication."""
        point_to(self.folder / LATEST, self.path(number))

    def read(self, number: int) -> Estimate:
        """The newest constants of a publication.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        path = self.path(number) / "covariance.npz"
        try:
            with np.load(path) as file:
                return Estimate(torch.from_numpy(file["mean"]), torch.from_numpy(file["covariance"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise CheckpointError(
                f"{path}: constants of the journal are missing or damaged ({error}); bring them back from a "
                "copy, or start anew with another watch.output"
            ) from error

    def _fill(
        self, folder: Path, history: History, changes: Sequence[Located], flags: Mapping[str, Any]
    ) -> None:
        estimates = constants_of(history)
        with uproot.recreate(folder / "constants.root") as file:
            write_columns(file, "intervals", interval_columns(history))
            write_columns(file, "constants", constant_columns(history, self.fit, estimates))
            if changes:
                write_columns(file, "changes", change_columns(history, self.fit, changes))
            file["metadata"] = json.dumps({"level": self.fit.volumes.level, **flags})
        self._write_alignment(folder, history, estimates[-1])
        write_json(folder / "flags.json", flags)
        buffer = io.BytesIO()
        np.savez(buffer, mean=estimates[-1].mean.numpy(), covariance=estimates[-1].covariance.numpy())
        (folder / "covariance.npz").write_bytes(buffer.getvalue())

    def _write_alignment(self, folder: Path, history: History, newest: Estimate) -> None:
        detector, local = self.fit.detector, self.fit.local(newest.mean)
        last = history.intervals[-1]
        inside = self.fit.volumes.group >= 0
        seen = torch.cat([last.linearised.hits > 0, torch.zeros(1, dtype=torch.bool)])
        status = torch.where(seen[self.fit.volumes.group] & inside, ALIGNED, TOO_FEW_HITS)
        write_alignment(folder / "alignment.root", detector, local, None, last.sensor_hits, status)
        if detector.names[0].startswith("ITS/ITSU"):
            write_alice(folder / "alice.root", detector, local)


def constants_of(history: History) -> list[Estimate]:
    """The volumes in each interval of the window, by all intervals."""
    passes = history.passes()
    return [passes.estimate(k) for k in range(len(history.intervals))]


def interval_columns(history: History) -> dict[str, Any]:
    """Tree `intervals`, one row each."""
    rows = [interval.told() for interval in history.intervals]
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {"interval": np.arange(history.left, len(history)), **columns}


def constant_columns(history: History, fit: VolumeFit, estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Tree `constants`, a row for each interval and volume."""
    n, names = len(fit.volumes), fit.volumes.names
    number = np.repeat(np.arange(history.left, len(history)), n)
    six = torch.cat([fit.sixes(one.mean) for one in estimates]).numpy()
    error = torch.cat([fit.sixes(one.covariance.diagonal().clamp_min(0).sqrt()) for one in estimates]).numpy()
    hits = torch.cat([interval.linearised.hits for interval in history.intervals])
    columns: dict[str, Any] = {
        "interval": number,
        "first_event": np.repeat([interval.first_event for interval in history.intervals], n),
        "last_event": np.repeat([interval.last_event for interval in history.intervals], n),
        "volume": list(names) * len(estimates),
        "n_hits": hits.numpy().astype(np.int64),
    }
    for i, name in enumerate(rigid.LOCAL_NAMES):
        columns |= {name: six[:, i].copy(), f"{name}_error": error[:, i].copy()}
    return columns


def change_columns(history: History, fit: VolumeFit, changes: Sequence[Located]) -> dict[str, Any]:
    """Tree `changes`, a row each; of a drift, the six are by interval."""
    rows = [one.change for one in changes]
    six = torch.stack([_six(fit, change.size) for change in rows]).numpy()
    error = torch.stack([_six(fit, change.covariance.diagonal().sqrt()) for change in rows]).numpy()
    events = [_first_event(history, one) for one in changes]
    columns: dict[str, Any] = {
        "kind": [one.place.kind for one in changes],
        "volume": [fit.volumes.names[one.place.volume] for one in changes],
        "interval": np.array([_interval(one) for one in changes], dtype=np.int64),
        "first_event": np.array(events, dtype=np.int64),
        "chi2": np.array([change.chi2 for change in rows]),
        "ndf": np.array([change.ndf for change in rows], dtype=np.int64),
        "p_value": np.array([change.p_value for change in rows]),
    }
    for i, name in enumerate(rigid.LOCAL_NAMES):
        columns |= {name: six[:, i].copy(), f"{name}_error": error[:, i].copy()}
    return columns


def told_change(history: History, fit: VolumeFit, one: Located) -> dict[str, Any]:
    """A change as plain values [cm, rad]."""
    size, error = one.change.size.tolist(), one.change.covariance.diagonal().sqrt().tolist()
    names = [rigid.LOCAL_NAMES[i] for i in fit.dof]
    return {
        "kind": one.place.kind,
        "volume": fit.volumes.names[one.place.volume],
        "interval": _interval(one),
        "first_event": _first_event(history, one),
        **dict(zip(names, size, strict=True)),
        **{f"{name}_error": value for name, value in zip(names, error, strict=True)},
        "chi2": one.change.chi2,
        "p_value": one.change.p_value,
    }


def _six(fit: VolumeFit, of_volume: torch.Tensor) -> torch.Tensor:
    six = of_volume.new_zeros(6)
    six[fit.dof] = of_volume
    return six


def _interval(one: Located) -> int:
    """The first interval after a jump; that in which a drift began, −1: from the beginning."""
    return -1 if one.place.after is None else one.place.after + 1


def _first_event(history: History, one: Located) -> int:
    row = _interval(one) - history.left
    return history.intervals[row].first_event if row >= 0 else history.intervals[0].first_event
