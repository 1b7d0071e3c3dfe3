"""Telescope planes: their frame, the file of a real one, and what the arguments may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from alignnet.errors import GeometryError
from alignnet.geometry.detector import Detector
from alignnet.geometry.telescope import telescope

CONF = Path(__file__).resolve().parents[2] / "conf" / "detector"


def fei4() -> Detector:
    return instantiate(OmegaConf.load(CONF / "telescope.yaml"), _convert_="all")


def test_a_hit_at_local_u_v_lies_at_global_x_y_of_its_plane() -> None:
    detector = telescope([1.0, 4.0], half_u=1.0, half_v=0.5)
    local = torch.tensor([0.3, 0.0, -0.2], dtype=torch.float64)
    position = detector.rotation @ local + detector.translation
    assert position.tolist() == [[0.3, -0.2, 1.0], [0.3, -0.2, 4.0]]
    assert torch.linalg.det(detector.rotation).tolist() == [1.0, 1.0]


def test_the_built_in_telescope_is_the_one_of_the_desy_file(shared_data: Path) -> None:
    uproot = pytest.importorskip("uproot")
    path = shared_data / "fei4_telescope.root"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    table = uproot.open(path)["sensors"].arrays()
    detector = fei4()
    assert detector.names == tuple(table["name"].tolist())
    assert detector.sensor_id.tolist() == table["sensor_id"].tolist()
    assert detector.layer.tolist() == table["layer"].tolist()
    rotation = torch.tensor(table["rotation"].tolist(), dtype=torch.float64).reshape(-1, 3, 3)
    assert torch.equal(detector.rotation, rotation)
    translation = torch.tensor(table["translation"].tolist(), dtype=torch.float64)
    assert torch.allclose(detector.translation, translation, rtol=0, atol=1e-14)
    half = torch.tensor([table["half_u"].tolist(), table["half_v"].tolist()], dtype=torch.float64).T
    assert torch.allclose(detector.half, half, rtol=0, atol=1e-14)
    assert detector.x_over_x0.tolist() == pytest.approx(table["x_over_x0"].tolist())


def test_planes_may_differ() -> None:
    detector = telescope([0.0, 1.0], half_u=[1.0, 2.0], half_v=0.5, x_over_x0=[0.01, 0.0], b_z=0.2)
    assert detector.half.tolist() == [[1.0, 0.5], [2.0, 0.5]]
    assert detector.x_over_x0.tolist() == [0.01, 0.0]
    assert detector.b_z == 0.2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("z", []), ("z", [0.0, 0.0]), ("z", [1.0, 0.0]), ("z", [0.0, float("nan")]), ("z", 3.0),
        ("z", ["a", "b"]), ("z", [[0.0, 1.0]]), ("half_u", 0.0), ("half_u", [1.0, 1.0, 1.0]),
        ("half_v", -1.0), ("half_v", "wide"), ("half_v", [[1.0, 1.0]]), ("x_over_x0", -0.1),
        ("x_over_x0", float("inf")), ("b_z", float("nan")),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_refused_by_its_argument(argument: str, value: Any) -> None:
    good: dict[str, Any] = {"z": [0.0, 1.0], "half_u": 1.0, "half_v": 1.0}
    with pytest.raises(GeometryError, match=f"telescope: {argument} is .*expected"):
        telescope(**(good | {argument: value}))


def test_every_plane_is_its_own_volume() -> None:
    index, paths = fei4().groups("plane")
    assert index.tolist() == [0, 1, 2, 3]
    assert paths == fei4().names
    assert fei4().levels == ("all", "sensor")
