"""A watch over a folder: each file once whatever happens, a jump found where it is, whole constants."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
from small_detectors import GUN, barrel, random_local
from small_problems import loss_of

from alignnet.cli.watch import FileReader, Keys, follow
from alignnet.data.o2_runs import O2Runs
from alignnet.data.root import read_alignment, write_simulation
from alignnet.data.simulate import Simulation
from alignnet.data.simulate_time import moving_chunks
from alignnet.data.tracks import concatenate
from alignnet.errors import CheckpointError, ConfigError
from alignnet.geometry.motion import Jump, Moving
from alignnet.online.decision import Criterion
from alignnet.online.history import History
from alignnet.online.inbox import Inbox
from alignnet.online.journal import Journal
from alignnet.online.watch import Watch
from alignnet.solvers.changes import ChangeSearch
from alignnet.training.intervals import VolumeFit

DETECTOR = barrel(x_over_x0=0.002)
LOCAL = random_local(len(DETECTOR), 20e-4, 0.2e-3)
NAME, AT = "B/BLayer1/BHalfBarrel0", 4
N_FILES, N_EVENTS = 7, 60
IDENTITY = {"detector": DETECTOR.name, "settings": "these"}


class Killed(BaseException):
    """In the place of SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Seven files; a half-barrel jumps by 30 µm between the fourth and the fifth."""
    folder = tmp_path_factory.mktemp("files")
    moving = Moving(DETECTOR, LOCAL, Jump("half_barrel", [NAME], {"du": 30e-4}, AT * N_EVENTS))
    simulation = Simulation(GUN, DETECTOR, LOCAL, seed=3)
    n = N_FILES * N_EVENTS
    tracks = concatenate([part[0] for part in moving_chunks(simulation, moving, n)])
    for k in range(N_FILES):
        path = folder / f"part{k}.root"
        inside = tracks.event // N_EVENTS == k
        write_simulation(path, DETECTOR, tracks.select(inside), LOCAL, {"generator": "tests", "seed": 3})
    return sorted(folder.iterdir())


def watch(inbox: Path, folder: Path, window=50, **options) -> Watch:
    """A watch of the small barrel."""
    fit = VolumeFit(DETECTOR, loss_of(DETECTOR, "full", "given", normalisation="total"), "half_barrel", LOCAL)
    freedom = fit.freedom((0.01, 1e-3), (1e-4, 1e-5), False, True)
    history = History(ChangeSearch(freedom), window)
    data = {"max_tracks": None, "min_hits": 3, "short_tracks": "error"}
    reader = FileReader(DETECTOR, O2Runs(), data, None)
    given = {"identity": IDENTITY, **options}
    return Watch(Inbox(inbox, settle=0.0), folder, fit, history, reader, Criterion(), **given)


def finished(inbox: Path, folder: Path, **options) -> Watch:
    """A watch that has taken all that is there."""
    one = watch(inbox, folder, **options)
    while one.look():
        pass
    one.close()
    return one


def left(folder: Path) -> dict[str, object]:
    """All that a watch has decided and published, without times of day."""
    found: dict[str, object] = {}
    for path in sorted((folder / "constants").iterdir()):
        with uproot.open(path / "constants.root") as file:
            for tree in ("intervals", "constants", "changes"):
                if tree in file:
                    found[f"{path.name}/{tree}"] = file[tree].arrays(library="np")
        found[f"{path.name}/alignment"] = read_alignment(path / "alignment.root", DETECTOR).numpy()
    journal = Journal(folder / "journal.jsonl")
    journal.close()
    timeless = ("began",)
    found["journal"] = [{k: v for k, v in r.items() if k not in timeless} for r in journal.records]
    found["latest"] = os.readlink(folder / "latest")
    return found


def assert_same(a: dict[str, object], b: dict[str, object]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        other = b[key]
        if isinstance(value, dict):
            for branch in value:
                np.testing.assert_array_equal(value[branch], other[branch], err_msg=f"{key}/{branch}")
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
        else:
            assert value == other, key


@pytest.fixture(scope="module")
def undisturbed(files, tmp_path_factory) -> Path:
    """What a watch leaves that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    finished(files[0].parent, folder)
    return folder


def test_a_jump_is_found_within_one_file_where_it_is(files, tmp_path):
    inbox = tmp_path / "in"
    inbox.mkdir()
    one = watch(inbox, tmp_path / "out")
    for k, file in enumerate(files):
        shutil.copy(file, inbox)
        assert one.look() == 1
        flags = json.loads((tmp_path / "out" / "status.json").read_text())
        assert flags["converged"]
        assert [change["volume"] for change in flags["changes"]] == ([NAME] if k >= AT else [])
        if k == AT:
            (change,) = flags["changes"]
            assert (change["kind"], change["interval"], change["first_event"]) == ("jump", AT, AT * N_EVENTS)
            assert abs(change["du"] - 30e-4) < 4 * change["du_error"] < 30e-4
            assert flags["significant"]
            assert "change" in flags["reasons"]
            assert flags["moved_since_published"][0]["volume"] == NAME
            assert flags["chi2_per_ndf_before"] > 1.5 * flags["chi2_per_ndf_after"]
            assert (tmp_path / "out" / "latest").resolve().name == f"{AT + 1:06d}"
    one.close()


def test_constants_are_where_the_volumes_are_within_their_errors(undisturbed):
    with uproot.open(undisturbed / "latest" / "constants.root") as file:
        table = file["constants"].arrays(library="np")
    truth = np.zeros_like(table["du"])
    jumped = (table["volume"] == NAME) & (table["interval"] >= AT)
    truth[jumped] = 30e-4
    pulls = np.concatenate(
        [(table["du"] - truth) / table["du_error"], *(table[n] / table[f"{n}_error"] for n in ("dv", "dw"))]
    )
    assert np.abs(pulls).max() < 4.5
    assert table["du_error"][jumped].max() < 10e-4


def test_newest_constants_are_a_start_of_a_training(undisturbed):
    found = read_alignment(undisturbed / "latest" / "alignment.root", DETECTOR)
    inside = torch.tensor([name.startswith(NAME) for name in DETECTOR.names])
    moved = Moving(DETECTOR, LOCAL, Jump("half_barrel", [NAME], {"du": 30e-4}, 0)).steps(0, 9)[0].local
    assert float((found - moved)[inside, :3].abs().max()) < 10e-4
    assert float((found - LOCAL)[inside, :3].abs().max()) > 15e-4


def test_a_watch_that_is_killed_after_any_step_goes_on_as_if_nothing_had_been(files, undisturbed, tmp_path):
    """Killed once after each durable step of each file, until all is done."""
    folder, inbox = tmp_path / "out", files[0].parent
    killed: set[tuple[str, int]] = set()

    def step(name: str) -> None:
        where = name, (folder / "journal.jsonl").stat().st_size
        if where not in killed:
            killed.add(where)
            raise Killed(name)

    while not _comes_to_its_end(inbox, folder, step):
        assert len(killed) < 60
    assert {name for name, _ in killed} == {
        "begin", "interval", "taken", "published", "latest", "status", "decided",
    }  # fmt: skip
    assert len(killed) >= 4 * N_FILES
    assert_same(left(folder), left(undisturbed))
    numbers = np.concatenate([r["intervals"] for r in left(folder)["journal"] if r["kind"] == "taken"])
    assert numbers.tolist() == list(range(N_FILES))


def _comes_to_its_end(inbox: Path, folder: Path, step: Callable[[str], None]) -> bool:
    one = None
    try:
        one = watch(inbox, folder, step=step)
        while one.look():
            pass
    except Killed:
        return False
    finally:
        gc.collect()  # the lock of a watch that was killed while it was made
        if one is not None:
            one.close()
    return True


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_and_repeats_nothing(files, undisturbed, tmp_path):
    """Processes that live for a part of what all files take, until at least ten were killed at work."""
    chance, began = random.Random(5), time.monotonic()
    _killed_at_work(files[0].parent, tmp_path / "timed", None)
    life, kills, round_ = (time.monotonic() - began) / 4, 0, 0
    for _ in range(100):
        folder = tmp_path / f"out{round_}"
        if not _killed_at_work(files[0].parent, folder, chance.uniform(0.0, life)):
            assert_same(left(folder), left(undisturbed))
            if kills >= 10:
                return
            round_, life = round_ + 1, life / 2
        else:
            kills, life = kills + 1, 1.1 * life  # on a machine that has become slower, too, some file is done
    pytest.fail("it never came to its end")


def _killed_at_work(inbox: Path, folder: Path, after: float | None) -> bool:
    """Start a watch in a process of its own; False where it has come to its end before it was killed."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["training_runs"])
    child = multiprocessing.get_context("forkserver").Process(target=finished, args=(inbox, folder))
    child.start()
    child.join(after)
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


def test_every_file_once_whatever_it_is_called(files, undisturbed, tmp_path):
    inbox, folder = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    for file in files:
        shutil.copy(file, inbox)
    shutil.copy(files[2], inbox / "z_again.root")
    finished(inbox, folder)
    (inbox / files[0].name).rename(inbox / "renamed.root")
    finished(inbox, folder)
    kinds = [record["kind"] for record in left(folder)["journal"]]
    assert kinds.count("taken") == N_FILES
    assert kinds.count("repeated") == 2
    found, expected = (
        read_alignment(f / "latest" / "alignment.root", DETECTOR) for f in (folder, undisturbed)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_file_that_is_being_written_is_left_for_later_and_a_bad_one_for_good(files, tmp_path):
    inbox, folder = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    (inbox / ".part0.root.1234.partial").write_bytes(files[0].read_bytes())
    (inbox / "half.root").write_bytes(files[0].read_bytes()[:5000])
    one = watch(inbox, folder)
    one.inbox = Inbox(inbox, settle=3600.0)
    assert one.look() == 0
    one.inbox = Inbox(inbox, settle=0.0)
    assert one.look() == 1
    refused = json.loads((folder / "quarantine.json").read_text())
    assert "truncated" in refused["half.root"]
    assert "\n" not in refused["half.root"]
    assert one.look() == 0
    (inbox / "half.root").write_bytes(files[0].read_bytes())  # the rest has come
    assert one.look() == 1
    assert json.loads((folder / "status.json").read_text())["file"] == "half.root"
    one.close()


def test_another_process_or_other_settings_are_refused(files, undisturbed, tmp_path):
    folder = tmp_path / "out"
    one = watch(files[0].parent, folder)
    with pytest.raises(ConfigError, match="another process watches with"):
        watch(files[0].parent, folder)
    one.close()
    with pytest.raises(CheckpointError, match="settings 'these', this watch has 'those'"):
        watch(files[0].parent, folder, identity={**IDENTITY, "settings": "those"})
    with pytest.raises(ConfigError, match="no such folder"):
        Inbox(tmp_path / "nowhere")


def test_a_journal_that_ends_in_the_middle_of_a_line_goes_on_and_one_damaged_within_does_not(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.append({"kind": "taken", "number": number, "name": "é\n"})
    journal.close()
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(lines[0]) + len(lines[1]), len(whole)):
        path.write_bytes(whole[:cut])
        again = Journal(path)
        assert [record["number"] for record in again.records] == [0, 1]
        again.append({"number": 7})
        again.close()
        last = Journal(path)
        assert [record["number"] for record in last.records] == [0, 1, 7]
        last.close()
    path.write_bytes(whole.replace(b'"number":1', b'"number":9'))
    with pytest.raises(CheckpointError, match="line 2 is damaged"):
        Journal(path)


def test_a_window_forgets_nothing_that_matters(files, undisturbed, tmp_path):
    finished(files[0].parent, tmp_path / "out", window=3)
    small, full = (
        read_alignment(f / "latest" / "alignment.root", DETECTOR) for f in (tmp_path / "out", undisturbed)
    )
    numbers = [os.readlink(f / "latest") for f in (tmp_path / "out", undisturbed)]
    assert numbers[0] == numbers[1]
    torch.testing.assert_close(small, full, atol=2e-5, rtol=0)  # 0.2 µm: jumps are placed by fewer intervals


def test_the_command_ends_when_it_is_told_to(files, tmp_path):
    keys = {name: None for name in Keys.__annotations__} | {"poll": 0.01, "report": False}
    one = watch(files[0].parent, tmp_path / "a")
    assert follow(one, Keys(**{**keys, "stop_after": 2})) == 2
    one.close()
    one = watch(files[0].parent, tmp_path / "a")
    assert follow(one, Keys(**{**keys, "idle": 0.0})) == N_FILES - 2
    one.close()
