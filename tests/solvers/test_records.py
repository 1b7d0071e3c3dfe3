"""Track parameters are eliminated as by dense least squares, from whatever Mille writes."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from mille_toys import normal_equations, toy

from alignnet.data.mille import read_mille
from alignnet.data.mille_write import MilleWriter, pack
from alignnet.errors import SchemaError
from alignnet.physics.jit import SWITCH
from alignnet.solvers.record_tables import Cuts
from alignnet.solvers.records import find_labels, reduce_records, unknowns_of

TOY = toy()
NO_CUTS = Cuts()


@pytest.fixture(autouse=True, params=["on", "off"])
def _kernels(request, monkeypatch):
    """Each of these is so in compiled loops and without."""
    monkeypatch.setenv(SWITCH, request.param)


def written(path, records=TOY.records, **options):
    with MilleWriter(path, **options) as writer:
        writer.append(records)
    return path


def reduced(paths, at=None, free=None, weights=None, cuts=NO_CUTS):
    labels = find_labels(paths)
    unknown, size = unknowns_of(labels.label, np.ones(len(labels.label), bool) if free is None else free, 3)
    at = np.zeros(len(labels.label)) if at is None else at
    return reduce_records(paths, weights or [1.0] * len(paths), labels, unknown, size, at, cuts), unknown


def dense(found, unknown):
    inside = unknown[unknown >= 0]
    return found.matrix.dense()[np.ix_(inside, inside)], found.gradient[inside]


def same(found, unknown, records, scale=1.0):
    _, h, g, chi2, ndf = normal_equations(records)
    matrix, gradient = dense(found, unknown)
    assert np.allclose(matrix, scale * h, rtol=1e-10, atol=1e-10 * scale * np.abs(h).max())
    assert np.allclose(gradient, scale * g, rtol=1e-10, atol=1e-9 * scale * np.abs(g).max())
    assert found.chi2 == pytest.approx(scale * chi2, rel=1e-10)
    assert found.ndf == scale * ndf


@pytest.mark.parametrize("options", [{}, {"double": False}, {"compress": True}], ids=str)
def test_the_reduced_matrix_is_that_of_dense_least_squares(tmp_path, options):
    path = written(tmp_path / "a.bin", **options)
    found, unknown = reduced([path])
    same(found, unknown, read_mille(path))
    assert found.counts == (60, 0, 0, 0)


def test_files_add_up_with_their_weights_and_precisions_may_be_mixed(tmp_path):
    (tmp_path / "b.bin").write_bytes(pack(TOY.records, double=False) + pack(TOY.records, double=True))
    both, unknown = reduced([tmp_path / "b.bin"])
    one, _ = reduced([written(tmp_path / "a.bin")])
    assert np.allclose(both.gradient, 2 * one.gradient, rtol=1e-5, atol=1e-4)
    paths = [written(tmp_path / "a.bin"), written(tmp_path / "c.bin")]
    found, _ = reduced(paths, weights=[0.5, 2.5])
    _, h, *_ = normal_equations(TOY.records)
    assert np.allclose(dense(found, unknown)[0], 3 * h)


def test_records_with_a_special_block_are_read_without_it(tmp_path):
    def with_special(double):
        words = np.frombuffer(pack(TOY.records, double), dtype=np.int32)
        size, width = abs(int(words[0])) // 2, 2 if double else 1
        kind = np.float64 if double else np.float32
        values = words[1 : 1 + width * size].view(kind).tolist()
        labels = words[1 + width * size : 1 + (width + 1) * size].tolist()
        values, labels = [*values, 0.0, -3.0, 7.0, 8.0, 9.0], [*labels, 0, 0, 5, 0, 6]
        first = np.array([2 * len(values) * (-1 if double else 1)], np.int32).tobytes()
        first += np.array(values, kind).tobytes() + np.array(labels, np.int32).tobytes()
        return first + words[1 + (width + 1) * size :].tobytes()

    for double in (False, True):
        path = tmp_path / "special.bin"
        path.write_bytes(with_special(double))
        found, unknown = reduced([path])
        same(found, unknown, read_mille(path))


def test_where_the_parameters_are_is_taken_off_and_fixed_ones_leave_the_matrix(tmp_path):
    path = written(tmp_path / "a.bin")
    labels, h, g, chi2, _ = normal_equations(TOY.records)
    at = np.array([TOY.truth[label] for label in labels])
    free = np.arange(len(labels)) % 4 != 1
    found, unknown = reduced([path], at=at, free=free)
    matrix, gradient = dense(found, unknown)
    assert np.allclose(matrix, h[np.ix_(free, free)])
    assert np.allclose(gradient, (g - h @ at)[free], atol=1e-9 * np.abs(g).max())
    assert found.chi2 == pytest.approx(chi2 - 2 * g @ at + at @ h @ at, rel=1e-9)


def test_many_labels_and_long_records_grow_the_tables(tmp_path):
    """More labels, blocks of one record, and pairs than there is room for at first."""
    many = toy(n=250, sensors=200, seed=3)
    path = written(tmp_path / "many.bin", many.records)
    found, unknown = reduced([path])
    _, h, g, *_ = normal_equations(many.records)
    matrix, gradient = dense(found, unknown)
    assert np.allclose(matrix, h, atol=1e-9 * np.abs(h).max())
    assert np.allclose(gradient, g, atol=1e-9 * np.abs(g).max())


def test_labels_are_found_with_their_entries(tmp_path):
    labels = find_labels([written(tmp_path / "a.bin")])
    expected, counts = np.unique(TOY.records.global_label, return_counts=True)
    assert labels.label.tolist() == expected.tolist()
    assert labels.measurements.tolist() == counts.tolist()
    owner = TOY.records.record_of_measurement[TOY.records.measurement_of_global]
    pairs = np.unique(np.stack([TOY.records.global_label, owner]), axis=1)
    assert labels.records.tolist() == np.unique(pairs[0], return_counts=True)[1].tolist()
    assert labels.n_records == 60
    assert labels.width == 3


def test_a_record_whose_track_is_not_determined_is_left_out(tmp_path):
    few = toy(n=1).records
    offset = np.array([0, 1])
    alone = type(few)(
        offset, few.y[:1], few.sigma[:1], np.array([0, 2]), np.array([1, 2]), np.array([1.0, 2.0]),
        np.array([0, 1]), np.array([11]), np.array([1.0]),
    )  # fmt: skip
    path = tmp_path / "a.bin"
    path.write_bytes(pack(TOY.records) + pack(alone))
    found, unknown = reduced([path])
    same(found, unknown, TOY.records)
    assert found.counts == (60, 1, 0, 0)


def test_records_beyond_a_chi2_are_left_out(tmp_path):
    path = written(tmp_path / "a.bin")
    everything, _ = reduced([path])
    half, _ = reduced([path], cuts=Cuts(limit=tuple(np.full(20, 30.0))))
    assert 0 < half.counts[0] < 60
    assert half.counts[2] == 60 - half.counts[0]
    assert half.chi2 < 30 * half.counts[0] < everything.chi2


def test_outlying_measurements_lose_weight(tmp_path):
    clean = toy(n=200, noise=1.0, seed=5)
    at = np.array([clean.truth[label] for label in sorted(clean.truth)])
    y = clean.records.y.copy()
    y[::17] += 50.0
    path = written(tmp_path / "a.bin", type(clean.records)(**{**vars(clean.records), "y": y}))
    plain, _ = reduced([path], at=at)
    robust, _ = reduced([path], at=at, cuts=Cuts(passes=5))
    assert robust.chi2 < 0.2 * plain.chi2
    assert np.linalg.norm(robust.gradient) < 0.3 * np.linalg.norm(plain.gradient)
    strict, _ = reduced([path], at=at, cuts=Cuts(passes=5, most_lost=0.2))
    assert strict.counts[3] > 10


DAMAGE = {
    "cut": (lambda b: b[:-3], "expected a whole record"),
    "NaN": (lambda b: b[:12] + np.float64(np.nan).tobytes() + b[20:], "expected finite numbers"),
    "odd N": (lambda b: np.array([7], np.int32).tobytes() + b[4:], "found N = 7"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_the_byte(tmp_path, damage):
    change, message = DAMAGE[damage]
    path = tmp_path / "bad.bin"
    path.write_bytes(change(pack(TOY.records)))
    with pytest.raises(SchemaError, match=rf"bad.bin: record at byte \d+: .*{message}"):
        reduced([path])


def test_a_damaged_gzip_is_named(tmp_path):
    path = tmp_path / "a.bin.gz"
    path.write_bytes(gzip.compress(pack(TOY.records))[:-20])
    with pytest.raises(SchemaError, match=r"a.bin.gz, unpacked: gzip cannot unpack it"):
        find_labels([path])
