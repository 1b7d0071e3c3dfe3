"""AlignParam objects: the bytes that ROOT writes, and the motions that ALICE makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import part_of

from alignnet.data.root_columns import read_payload
from alignnet.errors import GeometryError, SchemaError
from alignnet.export.alice import (
    CLASS_NAME,
    KEYS,
    AlignParams,
    align_params,
    from_bytes,
    read_alice,
    read_alice_alignment,
    to_bytes,
    write_alice,
)
from alignnet.geometry import rigid
from alignnet.geometry.its2 import its2

SAMPLE = Path(__file__).parents[1] / "data_files" / "alignparam_sample.root"  # written by ROOT 6.40

ITS2 = its2()
CHIPS = torch.tensor([0, 1, 9, 500, 24_119])
CHIP = "ITS/ITSULayer3/ITSUHalfBarrel0/ITSUStave2/ITSUHalfStave1/ITSUModule0/ITSUChip4"


PART = part_of(ITS2, CHIPS)


def written(path, entries, key="ccdb_object", class_name=CLASS_NAME, payload=None):
    payload = to_bytes(entries) if payload is None else payload
    with uproot.recreate(path) as file:
        file._cascading.add_object(file.file.sink, class_name, key, "", payload, len(payload))
    return path


def entries_of(deltas):
    return AlignParams(tuple(deltas), np.full(len(deltas), -1), np.array(list(deltas.values()), dtype=float))


def equal(a, b):
    same = a.symname == b.symname and np.array_equal(a.alignable_id, b.alignable_id)
    return same and np.array_equal(a.delta, b.delta)


def small(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 1e-3 * torch.randn(rows, 6, dtype=torch.float64, generator=generator)


def test_payload_is_root_s_byte_for_byte():
    payload = read_payload(SAMPLE, KEYS, CLASS_NAME)
    assert len(payload) == 466
    assert to_bytes(from_bytes(payload)) == payload


def test_entries_of_a_root_file_are_those_that_its_streamer_info_describes():
    entries = read_alice(SAMPLE)
    with uproot.open(SAMPLE) as file:
        file.file.class_named("o2::detectors::AlignParam")
        objects = [x.all_members for x in file["ccdb_object"]]
    assert list(entries.symname) == [x["mSymName"] for x in objects]
    assert entries.alignable_id.tolist() == [x["mAlignableID"] for x in objects]
    members = ("mX", "mY", "mZ", "mPsi", "mTheta", "mPhi")
    assert entries.delta.tolist() == [[x[name] for name in members] for x in objects]


def test_compressed_and_plain_files_of_root_hold_the_same(shared_data):
    plain = read_payload(shared_data / "alignparam_sample_uncompressed.root", KEYS, CLASS_NAME)
    assert plain == read_payload(SAMPLE, KEYS, CLASS_NAME)


numbers = st.floats(allow_nan=False, allow_infinity=False)
rows = st.tuples(st.text(max_size=300), st.integers(-(2**31), 2**31 - 1), st.tuples(*[numbers] * 6))


@given(st.lists(rows, max_size=5))
def test_entries_survive_serialisation(table):
    names, ids, deltas = zip(*table, strict=True) if table else ((), (), ())
    entries = AlignParams(tuple(names), np.array(ids, dtype=np.int64), np.array(deltas).reshape(-1, 6))
    assert equal(from_bytes(to_bytes(entries)), entries)


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 70_000])
def test_names_of_any_length_survive(length):
    assert from_bytes(to_bytes(entries_of({"x" * length: [1, 2, 3, 4, 5, 6]}))).symname == ("x" * length,)


def test_the_file_holds_one_object_a_chip_under_the_name_that_the_database_expects(tmp_path):
    write_alice(tmp_path / "align.root", PART, small(5))
    with uproot.open(tmp_path / "align.root") as file:
        assert file.classnames(cycle=False) == {"ccdb_object": "vector<o2::detectors::AlignParam>"}
    entries = read_alice(tmp_path / "align.root")
    assert entries.symname == PART.names
    assert entries.alignable_id.tolist() == CHIPS.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["align.root"]


def test_the_whole_its2_comes_back_from_its_object(tmp_path):
    six = small(len(ITS2))
    write_alice(tmp_path / "align.root", ITS2, six)
    assert (read_alice_alignment(tmp_path / "align.root", ITS2) - six).abs().max() < 1e-12


def test_deltas_move_points_of_the_laboratory_as_aligned_sensors_do(tmp_path):
    six, point = small(5), torch.randn(5, 3, 1, dtype=torch.float64)
    delta = torch.from_numpy(align_params(PART, six).delta)
    nominal = PART.rotation @ point + PART.translation[..., None]
    moved = rigid.euler_to_matrix(delta[:, 3:]) @ nominal + delta[:, :3, None]
    rotation, translation = rigid.place_local(PART.rotation, PART.translation, six)
    assert torch.allclose(moved, rotation @ point + translation[..., None], rtol=0, atol=1e-12)


def test_parents_are_applied_first_whatever_the_order_in_the_file(tmp_path):
    row = ITS2.names.index(CHIP)
    chip = part_of(ITS2, torch.tensor([row, 0]))
    parents = ["/".join(CHIP.split("/")[:n]) for n in (7, 4, 1, 6, 3, 5)]
    deltas = {name: 0.1 * small(1, seed)[0] * 100 for seed, name in enumerate(parents)}
    path = written(tmp_path / "a.root", entries_of({name: d.tolist() for name, d in deltas.items()}))

    def placed(order):
        place = chip.rotation[0], chip.translation[0]
        for name in order:
            place = rigid.place_global(*place, deltas[name])
        return rigid.local_of(chip.rotation[0], chip.translation[0], *place)

    found = read_alice_alignment(path, chip)[0]
    assert torch.allclose(found, placed(sorted(parents, key=len)), rtol=0, atol=1e-12)
    assert (found - placed(sorted(parents, key=len, reverse=True))).abs().max() > 1e-4


def test_an_object_moves_the_chips_below_it_and_no_others(tmp_path):
    # ITSUStave1 must not be taken for a parent of what is on ITSUStave10
    stave = "ITS/ITSULayer6/ITSUHalfBarrel0/ITSUStave1"
    on_stave = torch.tensor([name.startswith(stave + "/") for name in ITS2.names])
    shift = torch.tensor([0.01, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    six = read_alice_alignment(written(tmp_path / "a.root", entries_of({stave: shift.tolist()})), ITS2)
    assert on_stave.sum() == 196
    assert torch.equal((six != 0).any(-1), on_stave)
    assert torch.allclose(six[on_stave, :3].norm(dim=-1), torch.tensor(0.01, dtype=torch.float64))


def test_a_whole_detector_moved_is_every_chip_moved(tmp_path):
    delta = torch.tensor([0.1, -0.2, 0.3, 1e-3, 2e-3, -3e-3], dtype=torch.float64)
    six = read_alice_alignment(written(tmp_path / "a.root", entries_of({"ITS": delta.tolist()})), PART)
    assert torch.allclose(
        rigid.local_to_global(PART.rotation, PART.translation, six), delta, rtol=0, atol=1e-13
    )


def test_the_macros_local_file_is_read_too(tmp_path):
    path = written(tmp_path / "a.root", entries_of({"ITS": [0.0] * 6}), key="alignment")
    assert read_alice(path).symname == ("ITS",)


def test_volumes_of_another_detector_are_refused(tmp_path):
    with pytest.raises(SchemaError, match=r"'TRD/sm00' holds no sensor of detector"):
        read_alice_alignment(written(tmp_path / "a.root", entries_of({"TRD/sm00": [0.0] * 6})), PART)
    entries = AlignParams(("ITS", "ITS"), np.array([-1, -1]), np.zeros((2, 6)))
    with pytest.raises(SchemaError, match="volume ITS occurs twice"):
        read_alice_alignment(written(tmp_path / "b.root", entries), PART)


@given(st.data())
def test_cut_or_changed_payloads_are_refused_or_decoded_but_nothing_else(data):
    payload = bytearray(to_bytes(align_params(PART, small(5))))
    end = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(SchemaError, match="is no AlignParam"):
        from_bytes(bytes(payload[:end]))
    payload[end] = data.draw(st.integers(0, 255))
    try:
        entries = from_bytes(bytes(payload))
    except SchemaError:
        return
    assert entries.delta.shape == (len(entries.symname), 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "other"}, r"found only \['other'\], expected an object ccdb_object or alignment"),
        ({"class_name": "vector<double>"}, "ccdb_object is a vector<double>, expected a vector<o2"),
        (
            {"payload": to_bytes(entries_of({"ITS": [np.nan] * 6}))},
            r"a.root: entry at byte 4 .*expected finite",
        ),
        ({"payload": bytes.fromhex("00000001400000160002")}, "class version 2, expected 1"),
    ],
)
def test_an_object_of_another_kind_is_refused(changes, message, tmp_path):
    path = written(tmp_path / "a.root", entries_of({"ITS": [0.0] * 6}), **changes)
    with pytest.raises(SchemaError, match=message):
        read_alice(path)


def test_an_alignment_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(GeometryError, match=r"shape \(4, 6\), expected \(5, 6\)"):
        write_alice(tmp_path / "a.root", PART, small(4))
    assert list(tmp_path.iterdir()) == []
