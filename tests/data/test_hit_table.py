"""Tables of hits and sensors as CSV: read in any order of the lines; what cannot be read is named by line."""

from __future__ import annotations

import contextlib
import csv
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignnet.data.hit_table import ROTATION, TRANSLATION, read_hit_table, read_sensor_table
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.telescope import telescope

DETECTOR = replace(telescope([0.0, 2.0, 4.0, 6.0], 1.0, 1.0), sensor_id=torch.tensor([70, 3, 100, 42]))
HITS = """event,track,sensor,u,v,sigma_u,sigma_v
1,0,70,0.1,-0.2,1e-3,2e-3
1,0,3,0.2,-0.3,1e-3,2e-3
1,0,100,0.3,-0.4,1e-3,2e-3
1,1,telescope/plane0,0.5,0,1e-3,2e-3
1,1,telescope/plane1,0.6,0,1e-3,2e-3
1,1,telescope/plane3,0.7,0,1e-3,2e-3
"""


def file(folder, text):
    path = folder / "hits.csv"
    path.write_text(text, encoding="utf-8")
    return path


def with_column(name, *values, text=HITS):
    """HITS with one more column."""
    heading, *lines = text.splitlines()
    return "\n".join([f"{heading},{name}", *(f"{a},{b}" for a, b in zip(lines, values, strict=True))]) + "\n"


def test_lines_become_tracks_and_sensors_may_be_named_or_numbered(tmp_path):
    tracks = read_hit_table(file(tmp_path, HITS), DETECTOR)
    assert tracks.event.tolist() == [1, 1]
    assert tracks.offset.tolist() == [0, 3, 6]
    assert tracks.sensor.tolist() == [0, 1, 2, 0, 1, 3]
    assert tracks.uv[:4].tolist() == [[0.1, -0.2], [0.2, -0.3], [0.3, -0.4], [0.5, 0.0]]
    assert tracks.sigma.tolist() == [[1e-3, 2e-3]] * 6
    assert (tracks.vertex, tracks.p, tracks.mass, tracks.kind) == (None, None, None, None)


def test_blanks_comments_quotes_and_a_byte_order_mark_do_not_matter(tmp_path):
    lines = HITS.replace(",u,", ' , "u",').replace("1,0,3,", '1, 0 ,"3", ').splitlines()
    text = "\ufeff" + "\r\n".join(["# made", lines[0], "# by hand", "", *lines[1:]])
    plain = read_hit_table(file(tmp_path, HITS), DETECTOR)
    assert np.array_equal(read_hit_table(file(tmp_path, text), DETECTOR).uv, plain.uv)


@st.composite
def tables(draw):
    """Events with tracks of three to six hits, all numbers different."""
    count = np.array(draw(st.lists(st.integers(3, 6), min_size=1, max_size=6)))
    n, hits = len(count), int(count.sum())
    uv = draw(st.lists(st.floats(-10, 10), min_size=2 * hits, max_size=2 * hits))
    return Tracks(
        event=np.sort(draw(st.lists(st.integers(-5, 2**40), min_size=n, max_size=n))),
        offset=np.concatenate([[0], np.cumsum(count)]),
        sensor=np.array(draw(st.lists(st.integers(0, 3), min_size=hits, max_size=hits))),
        uv=np.array(uv).reshape(-1, 2),
        sigma=np.full((hits, 2), 5e-4),
        vertex=np.arange(3.0 * n).reshape(n, 3),
        vertex_cov=np.tile([2.0, 0.5, 1.0, 0.1, 0.2, 3.0], (n, 1)),
        p=np.arange(n) + 0.125,
        kind=np.arange(n) % 3,
    )


def write(path, tracks, order):
    """One line a hit; the lines of the file in the given order of hits."""
    names = ("x", "y", "z"), ("xx", "xy", "yy", "xz", "yz", "zz")
    heading = [*HITS.splitlines()[0].split(","), *(f"vertex_{n}" for n in names[0])]
    heading += [*(f"vertex_cov_{n}" for n in names[1]), "p", "kind"]
    with open(path, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(heading)
        for hit in order:
            t = tracks.track_of_hit[hit]
            sensor = [DETECTOR.names, DETECTOR.sensor_id.tolist()][hit % 2][tracks.sensor[hit]]
            row = [tracks.event[t], t, sensor, *tracks.uv[hit], *tracks.sigma[hit]]
            writer.writerow([*row, *tracks.vertex[t], *tracks.vertex_cov[t], tracks.p[t], tracks.kind[t]])


@settings(max_examples=40)
@given(tables(), st.randoms())
def test_hits_find_their_tracks_in_any_order_of_the_lines(tmp_path_factory, tracks, random):
    path = tmp_path_factory.getbasetemp() / "shuffled.csv"
    # tracks shuffle among each other; the hits of one keep their order
    queue = np.repeat(np.arange(len(tracks)), tracks.hits_per_track).tolist()
    random.shuffle(queue)
    nth = {t: iter(range(*tracks.offset[t : t + 2])) for t in range(len(tracks))}
    write(path, tracks, [next(nth[t]) for t in queue])
    read = read_hit_table(path, DETECTOR)
    for name in ("event", "offset", "sensor", "uv", "sigma", "vertex", "vertex_cov", "p", "kind"):
        assert np.array_equal(getattr(read, name), getattr(tracks, name)), name


FAULTS = {
    "no column": (HITS.replace(",v,", ",w,"), "line 1: no column v; found event, track, sensor, u, w,"),
    "twice": (HITS.replace("sigma_u", "u"), "line 1: column 'u' occurs twice"),
    "semicolons": (HITS.replace(",", ";"), "line 1: no column event, .*separated by commas"),
    "nothing": ("", "line 1: no column event.*found nothing"),
    "no lines": (HITS.splitlines()[0], "has no lines after the heading"),
    "too few fields": (HITS.replace("0.2,-0.3,", "0.2,"), "line 3: found 6 fields, expected 7"),
    "a word": (HITS.replace("-0.4", "left"), "line 4, column v: found 'left', expected a number"),
    "nothing there": (HITS.replace("0.6,", ","), "line 6, column u: found '', expected a number"),
    "NaN": (HITS.replace("0.6", "nan"), "line 6, column u: found nan, expected a finite number"),
    "half an event": (HITS.replace("1,1,telescope/plane3", "1.5,1,70"), "line 7, column event: found '1.5'"),
    "an enormous event": (HITS.replace("1,0,100", f"{2**64},0,100"), "line 4, column event: found '18446"),
    "unknown sensor": (
        HITS.replace("plane3", "plane4"),
        "line 7, column sensor: found telescope/plane4, expected a sensor_id or a name of detector telescope",
    ),
    "unknown number": (HITS.replace(",100,", ",7,"), "line 4, column sensor: found 7, expected a sensor_id"),
    "no resolution": (
        HITS.replace("-0.3,1e-3", "-0.3,0"),
        "line 3, column sigma_u: found 0.0, expected a resolution > 0",
    ),
    "two momenta": (with_column("p", 1, 1, 2, 3, 3, 3), "line 4, column p: found 2.0, expected the same"),
    "no momentum": (with_column("p", 1, 1, 1, 3, 3, -3), "line 7, column p: found -3.0, expected p > 0"),
    "unknown kind": (with_column("kind", 0, 0, 0, 3, 3, 3), "line 5, column kind: found 3, expected 0 .coll"),
    "half a vertex": (with_column("vertex_x", *"000111"), "has column vertex_x, but not vertex_y, vertex_z"),
    "two hits": (
        HITS.replace("1,1,telescope/plane3", "1,2,70"),
        "line 5, column track: found 2 hits of track 1 of event 1, expected at least 3.*short_tracks=drop",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_file_line_and_column(fault, tmp_path):
    text, message = FAULTS[fault]
    with pytest.raises(SchemaError, match=f"hits.csv: {message}"):
        read_hit_table(file(tmp_path, text), DETECTOR)


def test_a_covariance_that_is_none_is_refused(tmp_path):
    text = HITS
    for name in ("xx", "xy", "yy", "xz", "yz", "zz"):
        text = with_column(f"vertex_cov_{name}", *"111111", text=text)
    with pytest.raises(SchemaError, match=r"line 2, column vertex_cov_xx.*positive definite"):
        read_hit_table(file(tmp_path, text), DETECTOR)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"event,\xff\xfe")
    with pytest.raises(SchemaError, match="cannot be read as CSV"):
        read_hit_table(tmp_path / "a.csv", DETECTOR)
    with pytest.raises(SchemaError, match="no such file"):
        read_hit_table(tmp_path / "b.csv", DETECTOR)


@settings(max_examples=60)
@given(st.data())
def test_any_text_gives_tracks_or_a_schema_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "changed.csv"
    content = bytearray(HITS.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(SchemaError):
        assert len(read_hit_table(path, DETECTOR)) > 0


def test_short_tracks_are_dropped_on_request_and_further_columns_are_named(tmp_path, caplog):
    text = with_column("colour", *"abcdef", text=HITS.replace("1,1,telescope/plane3", "1,2,70"))
    with caplog.at_level(logging.INFO, "alignnet.data"):
        tracks = read_hit_table(file(tmp_path, text), DETECTOR, short_tracks="drop")
    assert tracks.sensor.tolist() == [0, 1, 2]
    assert "hits.csv: not used: colour; known columns are event, track" in caplog.messages[0]
    assert caplog.messages[1].endswith("left out 2 of 3 tracks, with fewer than 3 hits")
    with pytest.raises(ConfigError, match=r"data\.short_tracks is 'keep'"):
        read_hit_table(file(tmp_path, text), DETECTOR, short_tracks="keep")


def sensor_lines(detector: Detector, **changes):
    """The detector as a table of words; `changes` replace whole columns, None leaves one out."""
    rotation = detector.rotation.reshape(-1, 9).numpy()
    columns = {
        "sensor_id": detector.sensor_id.tolist(),
        "name": detector.names,
        "layer": detector.layer.tolist(),
    }
    columns |= {name: rotation[:, i] for i, name in enumerate(ROTATION)}
    columns |= {name: detector.translation[:, i].numpy() for i, name in enumerate(TRANSLATION)}
    columns |= {"half_u": detector.half[:, 0].numpy(), "half_v": detector.half[:, 1].numpy(), **changes}
    columns = {name: column for name, column in columns.items() if column is not None}
    rows = zip(*columns.values(), strict=True)
    return "\n".join(",".join(map(str, row)) for row in [columns, *rows]) + "\n"


def test_a_table_of_sensors_is_the_detector_that_it_was_written_from(tmp_path):
    rotation = rigid.exp(torch.randn(4, 3, dtype=torch.float64))
    turned = replace(
        DETECTOR, rotation=rotation, b_z=0.5, x_over_x0=torch.tensor([0.01, 0, 0, 0.02]).double()
    )
    material = turned.x_over_x0.tolist()
    (tmp_path / "box.csv").write_text(sensor_lines(turned, x_over_x0=material, centre_v=[0, 0, 0, 0.25]))
    (tmp_path / "pipe.csv").write_text("radius,half_z,x_over_x0\n1.86,44.4,0.00227\n")
    read = read_sensor_table(tmp_path / "box.csv", 0.5, scatterers=tmp_path / "pipe.csv")
    assert (read.name, read.b_z, read.fingerprint) == ("box", 0.5, turned.fingerprint)
    assert torch.equal(read.sensor_id, turned.sensor_id)
    assert torch.equal(read.x_over_x0, turned.x_over_x0)
    assert read.centre.tolist() == [[0, 0], [0, 0], [0, 0], [0, 0.25]]
    assert (read.scatterers.radius.tolist(), read.scatterers.half_z.tolist()) == ([1.86], [44.4])
    assert read_sensor_table(tmp_path / "box.csv", 0.5, "another").name == "another"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": None}, "line 1: no column layer"),
        ({"half_u": [1, 1, 0, 1]}, "line 4, column half_u: found 0.0, expected a half-length > 0"),
        ({"rotation_11": [1, 1, 1, 1]}, "line 2, column rotation_00: .*right-handed rotation"),
        ({"rotation_00": [1, -1, 1, 1]}, "line 3, column rotation_00: found -1.0"),
        ({"x_over_x0": [0, 0, 0, -1]}, "line 5, column x_over_x0: found -1.0, expected x/X0 >= 0"),
        ({"name": ["a", "b", "b", "c"]}, "names are not unique"),
        ({"sensor_id": [1, 2, 3, 1]}, "sensor_id is not unique"),
    ],
)
def test_what_is_no_detector_is_refused(changes, message, tmp_path):
    (tmp_path / "box.csv").write_text(sensor_lines(DETECTOR, **changes))
    with pytest.raises(SchemaError, match=rf"box\.csv: .*{message}|box\.csv: {message}"):
        read_sensor_table(tmp_path / "box.csv", 0.0)
