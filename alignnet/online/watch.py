"""Takes files as they appear, each once, and publishes constants: what `alignnet watch` does.

For each file, in this order, each step on the disk before the next one begins:

1. its tracks are linearised, at the newest constants and again at those with them: `intervals/`;
2. a line in the journal, "taken": from here on the file counts;
3. constants of all intervals; where they are significant a publication, `latest` leads to it;
4. a line in the journal, "decided".

A process that is killed leaves what it had not got to the end of to the next one: before "taken" the file is
read again and what it left is replaced; after it the constants are worked out again, from the same numbers.
What is published depends on the files in the order of the journal, and on nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignnet.data.cache_lock import Lock
from alignnet.data.tracks import Tracks
from alignnet.errors import AlignnetError, CheckpointError, ConfigError, ConvergenceError, SchemaError
from alignnet.geometry import rigid
from alignnet.online.decision import Criterion, Decision
from alignnet.online.durable import write_json
from alignnet.online.history import History
from alignnet.online.inbox import Arrival, Inbox
from alignnet.online.journal import Journal, Record
from alignnet.online.publication import Publisher, told_change
from alignnet.online.store import Interval, Store
from alignnet.solvers.changes import Place
from alignnet.training.intervals import Linearised, VolumeFit
from alignnet.units import UM

log = logging.getLogger("alignnet.watch")

JOURNAL, INTERVALS, STATUS = "journal.jsonl", "intervals", "status.json"

Reader = Callable[[Path], Iterator[Tracks]]
"""The tracks of a file, those of an interval at a time."""


@dataclass(frozen=True)
class Settling:
    """When the constants of an interval have settled.

    Args:
        passes: over its tracks, at most.
        converged: expected drop of χ² an unknown below which a step is small.
    """

    passes: int = 4
    converged: float = 0.01


class Watch:
    """A watch over a folder.

    Args:
        inbox: the folder.
        folder: state and constants.
        fit: the volumes that move.
        history: no intervals yet.
        reader: of files.
        criterion: of publications.
        identity: what another start in this folder must agree with.
        settling: of an interval's constants.
        step: told the name of each durable step that is done.

    Raises:
        ConfigError: another process works in the folder.
        CheckpointError: the folder is of another detector or other settings, or damaged.
    """

    def __init__(
        self,
        inbox: Inbox,
        folder: Path,
        fit: VolumeFit,
        history: History,
        reader: Reader,
        criterion: Criterion,
        identity: dict[str, Any],
        settling: Settling | None = None,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.inbox, self.folder, self.fit, self.history = inbox, folder, fit, history
        self.reader, self.criterion, self.settling = reader, criterion, settling or Settling()
        self.publisher, self.store, self._step = Publisher(folder, fit), Store(folder / INTERVALS), step
        self._lock = Lock(folder / ".lock")
        if not self._lock.try_own():
            raise ConfigError(f"another process watches with watch.output={folder}; wait for it or end it")
        self.journal = Journal(folder / JOURNAL)
        self._hashes: set[str] = set()
        self._marks: set[tuple[str, int, int]] = set()
        self._published, self._known = 0, list[Place]()
        self._undecided: Record | None = None
        self._cpu = time.process_time()
        self._begin(identity)

    def close(self) -> None:
        """Let another process go on."""
        self.journal.close()
        self._lock.close()

    def look(self, most: int | None = None) -> int:
        """Take what is ready, up to so many files; returns how many were taken or refused."""
        if self._undecided is not None:
            self._decide(self._undecided)
        done = 0
        for arrival in self.inbox.ready():
            if most is not None and done >= most:
                break
            if arrival.mark not in self._marks:
                done += self._receive(arrival)
        return done

    def _begin(self, identity: dict[str, Any]) -> None:
        """What the journal says; a new one begins with what it is of."""
        if not self.journal.records:
            self.journal.append({"kind": "begin", **identity})
            self._step("begin")
        for record in self.journal.records:
            self._replay(record, identity)
        if self._undecided is None and self._published:
            self.publisher.make_latest(self._published)

    def _replay(self, record: Record, identity: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "begin":
            found = {key: record.get(key) for key in identity}
            if different := [key for key in identity if found[key] != identity[key]]:
                key = different[0]
                raise CheckpointError(
                    f"{self.journal.path}: constants there are of {key} {found[key]!r}, this watch has "
                    f"{identity[key]!r}; give another watch.output"
                )
            return
        if kind in ("taken", "refused", "repeated"):
            self._remember(record)
        if kind == "taken":
            for number in record["intervals"]:
                self.history.append(self.store.read(number))
            self._undecided = record
        if kind == "decided":
            self._settle(record)

    def _remember(self, record: Record) -> None:
        self._hashes.add(record["sha256"])
        self._marks.add((record["file"], record["size"], record["changed"]))

    def _settle(self, record: Record) -> None:
        """After a decision: what is known, and what is out."""
        self.history.places = [Place(*place) for place in record["places"]]
        if record["published"]:
            self._published, self._known = record["number"], list(self.history.places)
        self.history.forget()
        self._undecided = None

    def _receive(self, arrival: Arrival) -> int:
        """Take a file, or say why not; 0 where it is still being written."""
        began, cpu = time.time(), time.process_time()
        digest = arrival.digest()
        told = {"file": arrival.path.name, "sha256": digest, "size": arrival.size, "changed": arrival.changed}
        if digest in self._hashes:
            log.info("%s: its content has been seen before, under this name or another", arrival.path.name)
            self._note({"kind": "repeated", **told})
            return 0
        first, places = len(self.history), list(self.history.places)
        error = self._failed(arrival)
        self.history.places = places  # a decision begins from the one before, whoever takes it
        if error is not None or not arrival.is_as_before():
            self.history.take_back(first)
            if not arrival.is_as_before():
                return 0
            self._refuse(told, error)
            return 1
        numbers = list(range(first, len(self.history)))
        for number in numbers:
            self.store.write(number, self.history.intervals[number - self.history.left])
            self._step("interval")
        record = {
            "kind": "taken",
            "number": self._n_taken() + 1,
            **told,
            "intervals": numbers,
            "began": began,
        }
        self._cpu = cpu
        self._note(record)
        self._step("taken")
        self._decide(record)
        return 1

    def _failed(self, arrival: Arrival) -> AlignnetError | None:
        """Why a file cannot be used, if so."""
        try:
            self._read(arrival)
        except (SchemaError, ConvergenceError, ConfigError) as error:
            return error
        return None

    def _note(self, record: Record) -> None:
        self.journal.append(record)
        self._remember(record)

    def _refuse(self, told: dict[str, Any], error: AlignnetError | None) -> None:
        reason = " ".join(str(error).split())
        log.warning("%s: left out: %s", told["file"], reason)
        self._note({"kind": "refused", **told, "reason": reason})
        self._step("refused")
        refused = [r for r in self.journal.records if r["kind"] == "refused"]
        write_json(self.folder / "quarantine.json", {r["file"]: r["reason"] for r in refused})

    def _n_taken(self) -> int:
        return sum(record["kind"] == "taken" for record in self.journal.records)

    def _read(self, arrival: Arrival) -> None:
        """The intervals of a file, at the end of the history."""
        for tracks in self.reader(arrival.path):
            hits = np.bincount(tracks.sensor, minlength=len(self.fit.detector))
            one = self.fit.linearised(tracks, self.history.unknowns())
            first, last = int(tracks.event.min()), int(tracks.event.max())
            interval = Interval(first, last, one.chi2_per_ndf, one, hits)
            self.history.append(interval)
            for _ in range(self.settling.passes - 1):
                self.history.changes()
                x = self.history.unknowns()
                moved = _drop(one, x) >= self.settling.converged
                one = self.fit.linearised(tracks, x)
                self.history.replace_last(replace(interval, linearised=one))
                if not moved:
                    break

    def _decide(self, record: Record) -> None:
        """Constants with the intervals of a file, and whether they go out."""
        number = record["number"]
        changes = self.history.changes()
        now = self.history.latest()
        out = self.publisher.read(self._published) if self._published else None
        decision = self.criterion(now, out, self.history.search.freedom, changes, self._known)
        flags = self._flags(record, decision)
        flags["changes"] = [told_change(self.history, self.fit, one) for one in changes]
        if decision.significant:
            self.publisher.publish(number, self.history, changes, flags)
            self._step("published")
            self.publisher.make_latest(number)
            self._step("latest")
        write_json(self.folder / STATUS, flags)
        self._step("status")
        places = [[place.volume, place.after] for place in self.history.places]
        decided = {"kind": "decided", "number": number, "published": decision.significant, "places": places}
        self.journal.append(decided)
        self._step("decided")
        self._settle(decided)
        _say(flags)

    def _flags(self, record: Record, decision: Decision) -> dict[str, Any]:
        """Quality of the newest constants, as plain values."""
        last = self.history.intervals[-1]
        now = self.history.latest()
        drop = _drop(last.linearised, now.mean)
        error = now.covariance.diagonal().clamp_min(0).sqrt().view(len(self.fit.volumes), -1)
        shift = [i for i, dof in enumerate(self.fit.dof) if dof < 3]
        moved = [
            {
                "volume": self.fit.volumes.names[change.place.volume],
                "n_sigma": change.chi2**0.5,
                "p_value": change.p_value,
                "along": [rigid.LOCAL_NAMES[self.fit.dof[i]] for i in shift],
                "by_um": (change.size[shift] / UM).tolist(),
                "error_um": (change.covariance.diagonal().sqrt()[shift] / UM).tolist(),
            }
            for change in decision.moved
        ]
        return {
            "number": record["number"],
            "file": record["file"],
            "interval": len(self.history) - 1,
            **last.told(),
            "significant": decision.significant,
            "reasons": list(decision.reasons),
            "converged": drop < self.settling.converged,
            "expected_chi2_drop_per_unknown": drop,
            "median_error_um": float(error[:, shift].median()) / UM if shift else None,
            "p_value_of_no_move": decision.p_value,
            "moved_since_published": moved,
            "seconds": time.time() - record["began"],
            "cpu_seconds": time.process_time() - self._cpu,
            "latency_seconds": time.time() - record["changed"] * 1e-9,
        }


def _drop(one: Linearised, x: torch.Tensor) -> float:
    """The χ² that a step to x is of, for each unknown."""
    step = x - one.at
    return float(step @ one.matrix @ step) / len(step)


def _say(flags: dict[str, Any]) -> None:
    """One line a file."""
    changes = [
        f"{change['kind']} of {change['volume']} at event {change['first_event']} (p {change['p_value']:.1g})"
        for change in flags["changes"]
    ]
    changes += [_told_move(moved) for moved in flags["moved_since_published"]]
    out = (
        f"constants {flags['number']} are out ({', '.join(flags['reasons'])})"
        if flags["significant"]
        else ("no new constants")
    )
    log.info(
        "%s: %s tracks, χ²/ndf %.4g, with constants %.4g%s; %s, %.1f s after the file",
        flags["file"], f"{flags['n_tracks']:,}", flags["chi2_per_ndf_before"], flags["chi2_per_ndf_after"],
        "".join(f"; {change}" for change in changes), out, flags["latency_seconds"],
    )  # fmt: skip


def _told_move(moved: Mapping[str, Any]) -> str:
    """What a volume has moved by since the constants that were out, along where that is surest."""
    if not moved["along"]:
        return f"{moved['volume']} has turned since ({moved['n_sigma']:.1f} σ)"
    parts = list(zip(moved["along"], moved["by_um"], moved["error_um"], strict=True))
    name, by, error = max(parts, key=lambda part: abs(part[1]) / max(part[2], 1e-12))
    return f"{moved['volume']} has moved since by {name} {by:.2f} ± {error:.2f} µm ({moved['n_sigma']:.1f} σ)"
