"""What all tests share: seeds, one thread, versions in the header, the data that lie beside the checkout."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and numpy load
os.environ["ALIGNNET_KERNELS"] = "off"  # but where they are tested: compilers take longer than most tests

import lightning
import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import settings
from small_detectors import GUN, barrel, random_local, simulated

from alignnet.data.root import write_simulation
from alignnet.evaluation.report.markup import Html
from alignnet.evaluation.report.pictures import Picture
from alignnet.evaluation.summary import Evaluation

SEED = 20260101
REPOSITORY = Path(__file__).resolve().parents[1]

# A slow machine is no failure, and a run that failed can be repeated: the examples depend on the test alone.
settings.register_profile("alignnet", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("alignnet")


def pytest_report_header() -> str:
    versions = {module.__name__: module.__version__ for module in (torch, lightning, np)}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) + f", seed {SEED}"


def pytest_configure() -> None:
    torch.set_num_threads(1)  # problems this small run slower on more, and sums keep one order


TOGETHER = (
    ("test_train.py", "test_evaluate.py", "test_report_command.py", "test_resume.py"),  # the run `trained`
    ("test_compiled_fit.py", "test_compiled_evaluation.py", "test_compiled_linear.py"),  # compiled kernels
)
"""Files whose tests share what takes as long as hundreds of tests."""

LONG = (
    *TOGETHER[0], "test_notebooks.py", *TOGETHER[1], "test_train_errors.py", "test_docs.py", "test_conf.py",
    "test_run.py",
)  # fmt: skip
"""Files that begin first, so that none of them is left over when all others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`: as that is, but files that belong together are one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return next((files[0] for files in TOGETHER if Path(file).name in files), file)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  also for what others draw from the global state
    torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of files that other programs wrote; tests that need it skip where it isn't there."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: files of other programs, which no other test needs")
    return folder


@pytest.fixture(scope="session")
def acts_file(shared_data: Path) -> Path:
    """Tracks that ACTS simulated, with scattering, in a misaligned ITS2."""
    path = shared_data / "acts_its2.root"
    if not path.is_file():
        pytest.skip(f"{path} is not there: tracks simulated by ACTS")
    return path


@pytest.fixture(scope="session")
def barrel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 collisions in a barrel of 24 sensors, 30 µm and 0.2 mrad off their places: tracks and truth."""
    path = tmp_path_factory.mktemp("barrel") / "barrel.root"
    detector = barrel()
    local = random_local(len(detector), 30e-4, 0.2e-3, seed=2)
    tracks = simulated(detector, GUN, 150, local, seed=5)
    write_simulation(path, detector, tracks, local, {"generator": "tests", "seed": 5})
    return path


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations in this process draw nothing, which is most of their time."""
    monkeypatch.setattr(Evaluation, "draw", lambda *arguments: None)
    monkeypatch.setattr(Picture, "html", lambda picture: Html(""))


@pytest.fixture(autouse=True)
def _no_process_group_is_left() -> Iterator[None]:
    """A run with a DDP strategy leaves its process group open, and later runs would take it for theirs."""
    names = (
        "MASTER_ADDR",
        "MASTER_PORT",
        "NODE_RANK",
        "LOCAL_RANK",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
    )
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
