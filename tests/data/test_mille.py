"""Mille binaries: bytes as Millepede-II defines them, plain or gzipped, and every fault named."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignnet.data.mille import MilleRecords, iterate_mille, join, offset_of, read_mille
from alignnet.data.mille_write import MilleWriter, pack
from alignnet.errors import SchemaError


def record(*pairs, double=False):
    """One record of (value, label) pairs as bytes, the (0, 0) of its first word included."""
    values, labels = zip((0.0, 0), *pairs, strict=True)
    n = len(values)
    size, kind = (-2 * n, "d") if double else (2 * n, "f")
    return struct.pack(f"<i{n}{kind}{n}i", size, *values, *labels)


# y = 0.5, locals 1 and 3, sigma 0.25, globals 11 and 2³¹ − 1; then a measurement without globals or locals
WORDS = [(0.5, 0), (1.0, 1), (-2.0, 3), (0.25, 0), (4.0, 11), (-8.0, 2**31 - 1), (-0.125, 0), (2.0, 0)]
PLAIN = MilleRecords(
    record_offset=np.array([0, 2]),
    y=np.array([0.5, -0.125]),
    sigma=np.array([0.25, 2.0]),
    local_offset=np.array([0, 2, 2]),
    local_index=np.array([1, 3]),
    local_value=np.array([1.0, -2.0]),
    global_offset=np.array([0, 2, 2]),
    global_label=np.array([11, 2**31 - 1]),
    global_value=np.array([4.0, -8.0]),
)


def equal(a, b):
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(MilleRecords))


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("double", [False, True])
def test_records_are_the_bytes_of_the_format(double, tmp_path):
    content = record(*WORDS, double=double) + record(*WORDS[-2:], double=double)
    none, zeros = np.zeros(0), np.zeros(2, int)
    short = MilleRecords(np.array([0, 1]), PLAIN.y[1:], PLAIN.sigma[1:], zeros, none, none, zeros, none, none)
    assert pack(join([PLAIN, short]), double) == content
    assert equal(read_mille(written(tmp_path / "a.bin", content)), join([PLAIN, short]))


def test_records_of_both_precisions_may_be_mixed(tmp_path):
    path = written(tmp_path / "a.bin", record(*WORDS) + record(*WORDS, double=True) + record(*WORDS))
    assert equal(read_mille(path), join([PLAIN] * 3))


def test_special_blocks_are_skipped_whatever_they_hold(tmp_path):
    special = [(0.0, 0), (-3.0, 0), (7.0, 0), (np.nan, -5), (0.0, 0)]
    after_sigma = record(*WORDS[:4], *special, *WORDS[6:])
    bare = record(*WORDS[:4], *WORDS[6:])
    content = record(*special, *WORDS) + record(*WORDS, *special) + after_sigma
    expected = record(*WORDS) * 2 + bare
    assert equal(read_mille(written(tmp_path / "a", content)), read_mille(written(tmp_path / "b", expected)))


def test_a_writers_count_of_dropped_measurements_is_not_looked_at(tmp_path):
    content = struct.pack("<i3f3i", 6, 0.0, 0.5, 0.25, 12, 0, 0)
    assert read_mille(written(tmp_path / "a", content)).sigma.tolist() == [0.25]


def test_a_measurement_of_zero_is_no_special_block(tmp_path):
    words = [(0.0, 0), (0.5, 0), (-1.0, 0), (1.0, 1), (0.5, 0)]
    assert read_mille(written(tmp_path / "a", record(*words))).y.tolist() == [0, -1]


def singles():
    return st.floats(-1e6, 1e6, width=32)


derivatives = st.lists(st.tuples(singles(), st.integers(1, 2**31 - 1)), max_size=4)
measurements = st.tuples(singles(), st.floats(2.0**-20, 2.0**20, width=32), derivatives, derivatives)


@st.composite
def records(draw):
    """Any records that a file can hold, from lists of (y, sigma, locals, globals)."""
    tracks = draw(st.lists(st.lists(measurements, max_size=4), min_size=1, max_size=6))
    flat = [m for track in tracks for m in track]
    local, global_ = [d for m in flat for d in m[2]], [d for m in flat for d in m[3]]
    return MilleRecords(
        record_offset=offset_of([len(track) for track in tracks]),
        y=np.array([m[0] for m in flat], dtype=float),
        sigma=np.array([m[1] for m in flat], dtype=float),
        local_offset=offset_of([len(m[2]) for m in flat]),
        local_index=np.array([d[1] for d in local], dtype=np.int64),
        local_value=np.array([d[0] for d in local], dtype=float),
        global_offset=offset_of([len(m[3]) for m in flat]),
        global_label=np.array([d[1] for d in global_], dtype=np.int64),
        global_value=np.array([d[0] for d in global_], dtype=float),
    )


@given(records(), st.booleans(), st.booleans(), st.integers(4, 400))
def test_what_is_written_is_read(tmp_path_factory, whole, double, compress, block):
    path = tmp_path_factory.getbasetemp() / "round_trip.bin"
    with MilleWriter(path, double, compress) as writer:
        writer.append(whole)
        writer.append(whole)
    parts = list(iterate_mille(path, block))
    assert equal(join(parts), join([whole, whole]))
    assert path.read_bytes()[:2] == b"\x1f\x8b" or not compress


def test_gzip_is_known_by_its_first_bytes(tmp_path):
    with MilleWriter(tmp_path / "a.bin.gz") as writer:
        writer.append(PLAIN)
    renamed = (tmp_path / "a.bin.gz").rename(tmp_path / "a.bin")
    assert gzip.decompress(renamed.read_bytes()) == pack(PLAIN)
    assert equal(read_mille(renamed), PLAIN)


@given(st.integers(1, 80))
def test_a_file_that_ends_within_a_record_is_refused(tmp_path_factory, missing):
    path = tmp_path_factory.getbasetemp() / "cut.bin"
    good, last = record(*WORDS), record(*WORDS, double=True)
    written(path, good + last[: len(last) - min(missing, len(last) - 1)])
    with pytest.raises(
        SchemaError, match=rf"cut.bin: record at byte {len(good)}: found \d+ bytes to the end"
    ):
        read_mille(path)


GOOD = record(*WORDS)
MARK = struct.pack("<i", len(GOOD))
END = len(GOOD)
FAULTS = {
    "empty file": (b"", "record at byte 0: found 0 bytes"),
    "odd size": (GOOD + struct.pack("<3i", 3, 0, 0), f"record at byte {END}: found N = 3, expected an even"),
    "no size": (GOOD + b"\0" * 40, f"record at byte {END}: found N = 0"),
    "sigma 0": (GOOD * 2 + record((1.0, 0), (0.0, 0)), f"byte {2 * END}: found 0.0, expected sigma > 0"),
    "negative sigma": (record((1.0, 0), (1.0, 1), (-0.5, 0)), "byte 0: found -0.5, expected sigma > 0"),
    "NaN": (GOOD + record((np.nan, 0), (1.0, 0)), f"byte {END}: found nan, expected finite"),
    "y without sigma": (GOOD + record((1.0, 0), (1.0, 1)) + GOOD, f"byte {END}: found 1, expected an even"),
    "derivative first": (GOOD + record((1.0, 5), (1.0, 0), (1.0, 0)), f"byte {END}: found 5, expected lab"),
    "negative label": (record((1.0, 0), (1.0, 0), (1.0, -7)), "found -7, expected local indices and labels"),
    "endless special block": (record((0.0, 0), (-9.0, 0)) + GOOD, "byte 0: found a special block of 9 words"),
    "Fortran": (MARK + GOOD + MARK, "found Fortran record markers"),
    "cut gzip": (gzip.compress(GOOD * 9)[:-9], "unpacked: gzip cannot unpack it"),
    "cut in gzip": (
        gzip.compress(GOOD + GOOD[:-4]),
        f"unpacked: record at byte {END}: found {END - 4} bytes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_first_byte(fault, tmp_path):
    content, message = FAULTS[fault]
    with pytest.raises(SchemaError, match=message) as error:
        read_mille(written(tmp_path / "faulty.bin", content))
    assert "faulty.bin" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SchemaError, match=r"none.bin: no such file"):
        read_mille(tmp_path / "none.bin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": np.array([0.25, 0.0])}, "sigma, row 1: found 0.0, expected a number > 0"),
        ({"y": np.array([np.nan, 0.0])}, "y, row 0: found nan"),
        ({"global_label": np.array([0, 1])}, "global_label, row 0: found 0, expected 1 to 2147483647"),
        ({"local_index": np.array([1, 2**31])}, "local_index, row 1: found 2147483648"),
    ],
)
def test_what_millepede_would_drop_is_not_written(changes, message, tmp_path):
    with pytest.raises(SchemaError, match=message), MilleWriter(tmp_path / "a.bin") as writer:
        writer.append(replace(PLAIN, **changes))
    assert list(tmp_path.iterdir()) == []


def test_index_columns_name_the_owner_of_each_row():
    two = join([PLAIN, PLAIN])
    assert len(two) == 2
    assert two.record_of_measurement.tolist() == [0, 0, 1, 1]
    assert two.measurement_of_local.tolist() == [0, 0, 2, 2]
    assert two.measurement_of_global.tolist() == [0, 0, 2, 2]


def test_another_writers_toy_is_rewritten_byte_for_byte_and_its_truth_fits(shared_data, tmp_path):
    tool = shared_data.parent / "tools" / "mille_toy.py"
    if not tool.is_file():
        pytest.skip(f"{tool} is not there: a generator of Mille files that knows nothing of alignnet")
    subprocess.run([sys.executable, str(tool), str(tmp_path), "110", "800"], check=True, capture_output=True)
    records = read_mille(tmp_path / "data0.bin")
    assert pack(records, double=False) == (tmp_path / "data0.bin").read_bytes()
    n, shape = len(records), (len(records), 14)
    assert np.array_equal(np.diff(records.record_offset), np.full(n, 14))
    truth = np.load(tmp_path / "truth.npy").ravel()
    derivatives = np.zeros((n * 14, 5))
    derivatives[records.measurement_of_local, records.local_index - 1] = records.local_value
    moved = records.global_value * truth[records.global_label - 1]
    moved = np.bincount(records.measurement_of_global, moved, minlength=n * 14)

    def chi2_per_dof(y):
        q = np.linalg.qr((derivatives / records.sigma[:, None]).reshape(*shape, 5)).Q
        r = (y / records.sigma).reshape(*shape, 1)
        return ((r - q @ (q.mT @ r)) ** 2).sum() / (n * 9)

    assert chi2_per_dof(records.y - moved) == pytest.approx(1, abs=0.1)
    assert chi2_per_dof(records.y) > 5
