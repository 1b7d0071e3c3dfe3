"""The dictionary of cluster topologies: ROOT's object and the binary form say the same."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignnet.data.o2_dictionary import (
    ENTRY,
    NO_ENTRY,
    TopologyDictionary,
    _from_object,
    read_dictionary,
    write_dictionary,
)
from alignnet.data.root_columns import read_payload
from alignnet.errors import SchemaError

WRITTEN_BY_ROOT = Path(__file__).parents[1] / "data_files" / "o2"
KNOWN = np.load(WRITTEN_BY_ROOT / "branches.npz")["entries"]
PAYLOAD = read_payload(
    WRITTEN_BY_ROOT / "dictionary.root", ("ccdb_object",), "o2::itsmft::TopologyDictionary"
)


def test_the_object_that_root_has_written_holds_the_entries():
    assert read_dictionary(WRITTEN_BY_ROOT / "dictionary.root").entries.tobytes() == KNOWN.tobytes()


def test_the_object_may_be_written_entry_by_entry():
    """As by a ROOT that was told to (TVirtualStreamerInfo::SetStreamMemberWise(false))."""
    path = WRITTEN_BY_ROOT / "dictionary_entry_by_entry.root"
    assert read_dictionary(path).entries.tobytes() == KNOWN.tobytes()


def test_the_binary_form_is_that_of_o2(tmp_path):
    write_dictionary(tmp_path / "a.bin", TopologyDictionary(KNOWN))
    content = (tmp_path / "a.bin").read_bytes()
    assert len(content) == 2095 * len(KNOWN)
    assert content[2095 : 2095 + 8] == int(KNOWN["hash"][1]).to_bytes(8, "little")
    assert content[2095 * 9 + 44] == 1  # isGroup of entry 9, before its pattern
    assert content[2095 * 9 + 45 : 2095 * 9 + 49] == bytes([4, 4, 255, 255])
    assert read_dictionary(tmp_path / "a.bin").entries.tobytes() == KNOWN.tobytes()


def test_groups_and_unknown_clusters_carry_their_patterns():
    explicit = TopologyDictionary(KNOWN).has_pattern
    assert np.flatnonzero(explicit).tolist() == [9, 10, NO_ENTRY]


@settings(max_examples=150)
@given(st.data())
def test_damaged_objects_are_refused_or_read(data):
    content = bytearray(PAYLOAD)
    head = st.integers(0, 200) | st.integers(8200, 8600) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(head)] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    with contextlib.suppress(SchemaError):
        assert len(_from_object(bytes(content[:cut]), "x")) <= len(KNOWN)


def changed(**columns):
    entries = KNOWN.copy()
    for name, (row, value) in columns.items():
        entries[name][row] = value
    return entries


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (changed(err2_x=(3, np.nan)), "x: entry 3 is no cluster topology"),
        (changed(z_cog=(4, np.inf)), "x: entry 4 is no"),
        (changed(err2_z=(5, -1.0)), "x: entry 5 is no"),
        (changed(is_group=(6, 2)), "x: entry 6 is no"),
        (changed(bitmap=((7, 1), 129)), "x: entry 7 is no"),
        (np.zeros(NO_ENTRY + 1, dtype=ENTRY), "x: 2048 entries, expected at most 2047"),
    ],
)
def test_what_is_no_dictionary_is_refused(entries, message):
    with pytest.raises(SchemaError, match=message):
        TopologyDictionary(entries, "x")


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(2096))
    with pytest.raises(SchemaError, match=r"a\.bin: found 2096 bytes, expected a multiple of 2095"):
        read_dictionary(tmp_path / "a.bin")
    with pytest.raises(SchemaError, match=r"none: found no such file, expected a dictionary"):
        read_dictionary(tmp_path / "none")
    with pytest.raises(
        SchemaError, match=r"found only .*expected an object ccdb_object or TopologyDictionary"
    ):
        read_dictionary(WRITTEN_BY_ROOT / "o2clus_its.root")
