"""To and from Millepede-II: parameter labels, Mille records of tracks, steering text, and `millepede.res`.

The sign that makes Millepede's answer the parameters themselves: y = measured − predicted together with
∂(predicted)/∂p. Whoever holds the derivative of the residual passes minus that.

Labels follow ALICE O2 (`AlignableDetector.h`): label = (100001 + sensor_id) · 100 + k, where k = 0 … 5 counts
the local six (du, dv, dw, rot_u, rot_v, rot_w), so that a sensor's labels are consecutive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alignnet.data.atomic import replacing
from alignnet.data.mille import MilleRecords, offset_of
from alignnet.data.mille_write import MAX_LABEL, MilleWriter
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError, GeometryError, SchemaError
from alignnet.geometry.detector import Detector

HEADING = " Parameter   ! first 3 elements per line are significant (if used as input)"


class MillepedeResult(NamedTuple):
    """The columns of a `millepede.res`, one row a label; NaN where a line ends before the column."""

    label: Array  # int64 (rows,)
    value: Array
    presigma: Array  # < 0: fixed
    difference: Array  # to the start value
    error: Array


def sensor_labels(detector: Detector, columns: int = 6) -> Array:
    """Labels of the local six of each sensor, int64 (sensors, 6), and of amplitudes of surfaces after it.

    Raises:
        GeometryError: an identifier is negative or too large for a 32-bit label.
    """
    labels = (100001 + detector.sensor_id.numpy()[:, None]) * 100 + np.arange(columns)
    if (detector.sensor_id < 0).any() or (labels > MAX_LABEL).any():
        raise GeometryError(
            f"detector {detector.name}: sensor_id must be 0 to {MAX_LABEL // 100 - 100002} for labels"
        )
    return labels


def track_records(
    residual: ArrayLike,
    local_derivative: ArrayLike,
    global_derivative: ArrayLike,
    sigma: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike = True,
) -> MilleRecords:
    """Mille records of tracks with padded measurements; zero derivatives are left out, as Mille itself does.

    With whitened residuals and derivatives (V^(−1/2) r) sigma is 1, and the measurements are uncorrelated,
    as Millepede needs them.

    Args:
        residual: measured − predicted, (tracks, measurements).
        local_derivative: ∂(predicted)/∂q, (tracks, measurements, local); local parameter j gets index j + 1.
            One that no measurement of a track depends on makes Millepede drop the track: leave it out.
        global_derivative: ∂(predicted)/∂p, (tracks, measurements, global).
        sigma: standard deviations, broadcast to (tracks, measurements).
        labels: the label of each global derivative, broadcast to its shape, e.g. (tracks, 1, global).
        mask: which measurements are real, broadcast to (tracks, measurements). Tracks without any drop out.
    """
    y = np.asarray(residual, dtype=np.float64)
    real = np.broadcast_to(np.asarray(mask, dtype=bool), y.shape)
    local = np.asarray(local_derivative, dtype=np.float64)[real]
    global_ = np.asarray(global_derivative, dtype=np.float64)
    label = np.broadcast_to(np.asarray(labels, dtype=np.int64), global_.shape)[real]
    global_ = global_[real]
    count = real.sum(-1)
    return MilleRecords(
        record_offset=offset_of(count[count > 0]),
        y=y[real],
        sigma=np.broadcast_to(np.asarray(sigma, dtype=np.float64), y.shape)[real],
        local_offset=offset_of((local != 0).sum(-1)),
        local_index=np.nonzero(local)[1] + 1,
        local_value=local[local != 0],
        global_offset=offset_of((global_ != 0).sum(-1)),
        global_label=label[global_ != 0],
        global_value=global_[global_ != 0],
    )


def write_mille(
    path: str | Path,
    residual: ArrayLike,
    local_derivative: ArrayLike,
    global_derivative: ArrayLike,
    sigma: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike = True,
    double: bool = True,
) -> None:
    """Write tracks as a Mille binary; arguments as for `track_records` and `MilleWriter`.

    For more tracks than fit in memory, append the `track_records` of batch after batch to a `MilleWriter`.

    Raises:
        SchemaError: a number is not finite, a sigma not > 0, or a label out of range.
    """
    with MilleWriter(path, double=double) as writer:
        writer.append(track_records(residual, local_derivative, global_derivative, sigma, labels, mask))


def write_steering(
    path: str | Path,
    binaries: Sequence[str | Path],
    labels: ArrayLike,
    fixed: ArrayLike = False,
    presigma: ArrayLike = 0.0,
    start: ArrayLike = 0.0,
    constraints: ArrayLike | None = None,
    options: Sequence[str] = ("method inversion 3 0.01", "countrecords", "entries 10 5", "hugecut 1e7"),
) -> None:
    """Write the steering text that `pede` is started with.

    Args:
        path: the text; pede wants a name that ends in `.txt`.
        binaries: Mille files in C format.
        labels: of the parameters, (parameters,) or any shape, which the next ones broadcast to.
        fixed: parameters that stay at their start values.
        presigma: priors' standard deviations, 0 for none; it only damps without the option `regularization`.
        start: start values.
        constraints: factors (constraints, parameters); the sum of factor · value is held at 0.
        options: further lines. The default ones are for a badly misaligned start (`hugecut`, or every track
            is rejected) and for files without zero derivatives (`countrecords`, or du counts half as dw).

    Raises:
        ConfigError: a file name that pede would read as something else.
    """
    for name in map(str, binaries):
        if not name or any(c in " \t\n!*" for c in name) or name.endswith(".txt"):
            raise ConfigError(
                f"pede cannot read a binary called {name!r}; no blanks, '!' or '*', and not .txt"
            )
    label = np.asarray(labels, dtype=np.int64)
    sigma = np.where(np.broadcast_to(fixed, label.shape), -1.0, np.broadcast_to(presigma, label.shape))
    rows = zip(label.ravel(), np.broadcast_to(start, label.shape).ravel(), sigma.ravel(), strict=True)
    lines = ["Cfiles", *map(str, binaries), "", "Parameter ! label, start value, presigma (< 0: fixed)"]
    lines += [f"{k} {_number(value)} {_number(width)}" for k, value, width in rows]
    for factors in np.atleast_2d(np.asarray(constraints)) if constraints is not None else ():
        lines += ["", "Constraint 0.0"]
        lines += [f"{label.ravel()[i]} {_number(factors[i])}" for i in np.flatnonzero(factors)]
    _write_text(path, [*lines, "", *options, "", "end"])


def write_result(
    path: str | Path,
    labels: ArrayLike,
    values: ArrayLike,
    presigma: ArrayLike = 0.0,
    difference: ArrayLike | None = None,
    error: ArrayLike | None = None,
) -> None:
    """Write `millepede.res` text as pede does, with 17 digits where it has 5; pede takes it as start values.

    Args:
        path: the text file.
        labels, values, presigma: the three columns of every line, of any one shape; presigma < 0: fixed.
        difference: values − start values, by default the values; fixed parameters have none.
        error: standard deviations; none by default, nor where NaN.
    """
    label = np.asarray(labels, dtype=np.int64)
    value, sigma, change, spread = (
        np.broadcast_to(np.asarray(x, dtype=np.float64), label.shape).ravel()
        for x in (
            values,
            presigma,
            values if difference is None else difference,
            np.nan if error is None else error,
        )
    )
    if not (np.isfinite(value) & np.isfinite(sigma)).all():
        raise SchemaError(
            f"{path}: values and presigma must be finite, found {value[~np.isfinite(value)][:1]}"
        )
    columns = [value, sigma, np.where(sigma < 0, np.nan, change), np.where(sigma < 0, np.nan, spread)]
    lines = [HEADING]
    for k, numbers in zip(label.ravel(), np.stack(columns, -1), strict=True):
        shown = np.cumprod(np.isfinite(numbers)).astype(bool)
        lines.append(f"{k:10d}  " + "".join(f" {_number(x):>24s}" for x in numbers[shown]))
    _write_text(path, lines)


def read_result(path: str | Path) -> MillepedeResult:
    """Read `millepede.res`, as pede or `write_result` wrote it; counts and global correlations are left out.

    Raises:
        SchemaError: there is no such file, no parameter in it, or a line is not numbers: names the line.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: cannot be read ({error}), expected a millepede.res") from error
    rows = [
        _row(path, number, text.split("!")[0].split())
        for number, text in enumerate(lines, start=1)
        if text.strip() and text.strip()[0] not in "!*" and not text.strip().startswith("Parameter")
    ]
    if not rows:
        raise SchemaError(
            f"{path}: found no parameter, expected lines 'label value presigma …' as pede writes them"
        )
    labels, numbers = zip(*rows, strict=True)
    return MillepedeResult(np.array(labels, dtype=np.int64), *np.array(numbers).T)


def _row(path: str | Path, number: int, fields: list[str]) -> tuple[int, list[float]]:
    if len(fields) > 3 and fields[-1].lstrip("+-").isdigit():
        fields = fields[:-1]  # entries (option printcounts), the only other integer of a line
    try:
        label, numbers = int(fields[0]), [float(field.lower().replace("d", "e")) for field in fields[1:5]]
    except ValueError as error:
        raise SchemaError(f"{path}: line {number}: {error}, expected label, value, presigma, …") from error
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        raise SchemaError(
            f"{path}: line {number}: found {fields}, expected label, value and presigma, all finite"
        )
    return label, numbers + [np.nan] * (4 - len(numbers))


def _number(value: float) -> str:
    return f"{value:.16E}"


def _write_text(path: str | Path, lines: Sequence[str]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
