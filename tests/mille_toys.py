"""Small linear problems as Mille records, and their solutions by dense least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignnet.data.mille import MilleRecords, offset_of


@dataclass(frozen=True)
class Toy:
    """Records of tracks that cross sensors with three parameters each, labels 10 s + 1 … 3; one has none."""

    records: MilleRecords
    truth: dict[int, float]


def toy(n: int = 60, sensors: int = 5, seed: int = 0, noise: float = 1.0) -> Toy:
    """Tracks of different lengths and numbers of local parameters, with measurements without a sensor."""
    draw = np.random.default_rng(seed)
    labels = 10 * np.arange(1, sensors + 1)[:, None] + np.arange(1, 4)
    truth = {int(label): float(draw.normal()) for label in labels.ravel()}
    rows: list[tuple[float, float, list[tuple[int, float]], list[tuple[int, float]]]] = []
    counts = []
    for _ in range(n):
        n_local, hits = int(draw.integers(1, 4)), draw.integers(0, sensors, draw.integers(4, 9))
        q, sigma = draw.normal(size=n_local), 0.1 + draw.random()
        counts.append(len(hits) + 1)
        for k, hit in enumerate([*hits, -1]):
            local = [(j + 1, float(draw.normal())) for j in range(n_local)]
            shared = [(int(label), float(draw.normal())) for label in labels[hit]] if hit >= 0 else []
            shared = shared[k % 2 :]  # some derivatives are 0 and left out
            y = sum(d * q[j - 1] for j, d in local) + sum(d * truth[label] for label, d in shared)
            rows.append((y + noise * sigma * float(draw.normal()), sigma, local, shared))
    records = MilleRecords(
        record_offset=offset_of(np.array(counts)),
        y=np.array([row[0] for row in rows]),
        sigma=np.array([row[1] for row in rows]),
        local_offset=offset_of(np.array([len(row[2]) for row in rows])),
        local_index=np.array([j for row in rows for j, _ in row[2]]),
        local_value=np.array([d for row in rows for _, d in row[2]]),
        global_offset=offset_of(np.array([len(row[3]) for row in rows])),
        global_label=np.array([label for row in rows for label, _ in row[3]]),
        global_value=np.array([d for row in rows for _, d in row[3]]),
    )
    return Toy(records, truth)


def normal_equations(records: MilleRecords) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """Labels, H, g, χ² at 0 and ndf of the shared parameters, the records' own eliminated by dense solves."""
    labels, column = np.unique(records.global_label, return_inverse=True)
    h, g, chi2, ndf = np.zeros((len(labels), len(labels))), np.zeros(len(labels)), 0.0, 0
    for begin, end in zip(records.record_offset[:-1], records.record_offset[1:], strict=True):
        y = records.y[begin:end] / records.sigma[begin:end]
        size = int(
            records.local_index[records.local_offset[begin] : records.local_offset[end]].max(initial=0)
        )
        local, shared = np.zeros((len(y), size)), np.zeros((len(y), len(labels)))
        for i in range(begin, end):
            own = slice(records.local_offset[i], records.local_offset[i + 1])
            local[i - begin, records.local_index[own] - 1] = records.local_value[own] / records.sigma[i]
            own = slice(records.global_offset[i], records.global_offset[i + 1])
            shared[i - begin, column[own]] = records.global_value[own] / records.sigma[i]
        outside = np.eye(len(y)) - local @ np.linalg.pinv(local)
        h += shared.T @ outside @ shared
        g += shared.T @ outside @ y
        chi2 += float(y @ outside @ y)
        ndf += len(y) - size
    return labels, h, g, chi2, ndf
