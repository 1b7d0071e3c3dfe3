"""The page of a watch: what moved and when, constants against time with errors, files and their quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from alignnet.evaluation.report.document import document
from alignnet.evaluation.report.markup import Column, Html, element, joined, table
from alignnet.evaluation.report.numbers import plural, short, whole
from alignnet.evaluation.report.pictures import Picture, panels
from alignnet.evaluation.time_plots import chi2_in_time, constants_in_time
from alignnet.geometry import rigid
from alignnet.online.durable import write_durably
from alignnet.online.publication import constant_columns, constants_of, interval_columns, told_change
from alignnet.online.watch import Watch
from alignnet.units import UM

_MOST_VOLUMES, _MOST_FILES = 6, 100


def write_report(watch: Watch) -> None:
    """Write OUTPUT/report.html, whole or not at all; where no interval has come there is none."""
    if watch.history.intervals:
        write_durably(watch.folder / "report.html", page(watch).encode())


def page(watch: Watch) -> str:
    """The HTML of the page."""
    history, fit = watch.history, watch.fit
    changes = [told_change(history, fit, one) for one in history.changes()]
    constants = constant_columns(history, fit, constants_of(history))
    title = f"{fit.detector.name} in time: {plural(len(history), 'interval')} of {fit.volumes.level}s"
    sections = [
        ("changes", "What has changed", _changes(changes, constants)),
        ("volumes", "Constants in time", _volumes(constants, changes)),
        ("quality", "Fit quality", _quality(interval_columns(history))),
        ("files", "Files", _files(watch)),
    ]
    body = joined(
        [
            element("header", element("p", str(watch.folder.resolve()), class_="over"), element("h1", title)),
            Html("<main>"),
            *(
                element("section", element("h2", name), content, id=key, aria_label=name)
                for key, name, content in sections
                if content
            ),
            Html("</main>"),
        ]
    )
    return document(title, body)


def _changes(changes: Sequence[Mapping[str, Any]], constants: Mapping[str, Any]) -> Html:
    if not changes:
        last = int(np.max(constants["interval"]))
        said = f"No jump and no drift of a single volume stands out up to interval {last}."
        return element("p", said)
    columns = [Column("volume", True), Column("what", True), Column("from interval"), Column("from event")]
    columns += [Column(f"{name} [µm]") for name in rigid.LOCAL_NAMES[:3]]
    columns += [Column(f"{name} [µrad]") for name in rigid.LOCAL_NAMES[3:]]
    columns += [Column("χ²"), Column("p, corrected")]
    rows = [
        [
            change["volume"], change["kind"] if change["kind"] == "jump" else "drift, by interval",
            whole(change["interval"]), whole(change["first_event"]),
            *(_with_error(change, name, UM if k < 3 else 1e-6) for k, name in enumerate(rigid.LOCAL_NAMES)),
            short(change["chi2"]), short(change["p_value"], 2),
        ]
        for change in changes
    ]  # fmt: skip
    return table("Changes of single volumes, the most certain first", columns, rows)


def _with_error(change: Mapping[str, Any], name: str, unit: float) -> str:
    if name not in change:
        return "–"
    return f"{short(change[name] / unit)} ± {short(change[f'{name}_error'] / unit, 2)}"


def _volumes(constants: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> Html:
    pictures = []
    for k, volume in enumerate(_most_moved(constants, changes)):
        draw = partial(constants_in_time, constants, volume, changes)
        told = [change["kind"] for change in changes if change["volume"] == volume]
        finding = f"{volume} in time: {', '.join(told) or 'no change'}"
        pictures.append(Picture(f"volume{k}", draw, finding, volume))
    words = "In the volumes' frames, from where the static alignment has them; a line where a jump was found."
    return panels(pictures, words)


def _most_moved(constants: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Volumes with changes, then those that have moved most in units of their errors."""
    volume, shift = np.asarray(constants["volume"]), np.zeros(len(constants["volume"]))
    for name in rigid.LOCAL_NAMES:
        error = np.asarray(constants[f"{name}_error"])
        shift += np.where(error > 0, np.asarray(constants[name]) / np.where(error > 0, error, 1.0), 0.0) ** 2
    names = list(dict.fromkeys(volume.tolist()))
    spread = {name: float(np.ptp(shift[volume == name])) for name in names}
    order = [change["volume"] for change in changes] + sorted(names, key=lambda name: -spread[name])
    return list(dict.fromkeys(order))[:_MOST_VOLUMES]


def _quality(intervals: Mapping[str, Any]) -> Html:
    before, after = (np.asarray(intervals[f"chi2_per_ndf_{when}"]) for when in ("before", "after"))
    draw = partial(chi2_in_time, np.asarray(intervals["interval"]), before, after)
    finding = f"χ²/ndf of {len(before)} intervals, at the end {short(after[-1])}"
    return panels([Picture("chi2", draw, finding)], "χ²/ndf of each interval's tracks.")


def _files(watch: Watch) -> Html:
    """What came, and what became of it."""
    out = {r["number"]: r["published"] for r in watch.journal.records if r["kind"] == "decided"}
    rows = []
    for record in watch.journal.records:
        if record["kind"] == "taken":
            number = record["number"]
            said = f"constants {number} are out" if out.get(number) else "no new constants"
        else:
            said = record.get("reason", "seen before")
        if record["kind"] in ("taken", "refused", "repeated"):
            rows.append([record["file"], record["kind"], said])
    columns = [Column("file", True), Column("", True), Column("", True)]
    return table(f"The last {min(len(rows), _MOST_FILES)} of {len(rows)} files", columns, rows[-_MOST_FILES:])
