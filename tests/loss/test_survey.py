"""Survey measurements against motions that are known, and against a dense least squares."""

from __future__ import annotations

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated

from alignnet.errors import SchemaError
from alignnet.geometry import rigid
from alignnet.geometry.rigid import LOCAL_NAMES
from alignnet.geometry.volumes import Volumes, carried
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.survey import Survey
from alignnet.loss.terms import Terms
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.linearised import linearise
from alignnet.training.optim import GaussNewton

DETECTOR = barrel(chips=3)
STAVE = "B/BLayer1/BHalfBarrel0/BStave2"
CHIP = f"{STAVE}/BChip1"


def survey(folder, *lines: str) -> Survey:
    path = folder / "survey.csv"
    path.write_text("\n".join(["name,dof,value,sigma,relative_to", *lines, ""]))
    return Survey(DETECTOR, path)


def all_six(folder, name: str, relative_to: str = "") -> Survey:
    return survey(folder, *(f"{name},{dof},0,1,{relative_to}" for dof in LOCAL_NAMES))


def moved(level: str, name: str, six: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
    """Local sixes of all sensors once a volume has moved, each sensor by `own` in it."""
    volumes = Volumes.of(DETECTOR, level)
    all_of = torch.zeros(len(volumes), 6, dtype=torch.float64)
    all_of[volumes.names.index(name)] = six
    place = rigid.place_local(
        DETECTOR.rotation,
        DETECTOR.translation,
        torch.zeros(len(DETECTOR), 6).double() if own is None else own,
    )
    return rigid.local_of(DETECTOR.rotation, DETECTOR.translation, *carried([volumes], [all_of], place))


def test_a_moved_volume_is_found_where_it_was_put(tmp_path):
    six = torch.tensor([10e-4, -20e-4, 5e-4, 1e-5, -2e-5, 3e-5], dtype=torch.float64)
    found = all_six(tmp_path, STAVE)(moved("stave", STAVE, six))
    assert (found - six).abs().max() < 1e-8  # the second order of the angles


def test_a_sensors_six_are_its_own(tmp_path):
    local = random_local(len(DETECTOR), 20e-4, 1e-5)
    found = all_six(tmp_path, CHIP)(local)
    assert (found - local[DETECTOR.names.index(CHIP)]).abs().max() < 1e-8


def test_relative_to_a_parent_its_motion_does_not_count(tmp_path):
    term = all_six(tmp_path, CHIP, STAVE)
    six = torch.tensor([10e-4, -20e-4, 5e-4, 1e-5, -2e-5, 3e-5], dtype=torch.float64)
    assert term(moved("stave", STAVE, six)).abs().max() < 1e-8
    own = torch.zeros(len(DETECTOR), 6, dtype=torch.float64)
    rows = [i for i, name in enumerate(DETECTOR.names) if name.startswith(STAVE + "/")]
    own[rows[0], 0], own[rows[1], 0], own[rows[2], 0] = 5e-4, -10e-4, 5e-4  # has no motion in common
    bent = term(moved("stave", STAVE, six, own))
    assert bent[0] == pytest.approx(-10e-4, rel=1e-3)
    assert bent[1:3].abs().max() < 1e-7


def test_a_survey_and_tracks_are_one_least_squares(tmp_path):
    """Against normal equations with the rows of the survey beside those of the tracks."""
    term = survey(
        tmp_path, f"{STAVE},du,30e-4,2e-4,", f"{CHIP},rot_w,1e-3,1e-4,{STAVE}", f"{CHIP},dw,-9e-4,1e-4,"
    )
    loss, layer = HelixChi2(DETECTOR, normalisation="total"), SensorLayer.of(DETECTOR)
    prior = {"translation": 20e-4, "rotation": 1e-3}
    optimizer = GaussNewton(
        [layer.theta], sensor_prior=prior, min_hits=0, tolerance=1e-10, max_iterations=2000
    )
    optimizer.attach(DETECTOR, layer, Terms({"survey": term}))
    tracks = simulated(DETECTOR, GUN, 60, random_local(len(DETECTOR), 20e-4, 2e-4), seed=2)
    optimizer.add(linearise(loss, layer, batch_of(tracks, DETECTOR)))
    hierarchy, _ = optimizer.system()
    problem, n = hierarchy.problem, layer.theta.numel()
    unit = torch.eye(n, dtype=torch.float64).view(n, *layer.theta.shape)
    matrix = torch.stack([problem(one).flatten() for one in unit])
    rows = torch.autograd.functional.jacobian(term, layer.theta.detach()).flatten(1)
    weight = (
        torch.tensor([prior["translation"]] * 3 + [prior["rotation"]] * 3)
        .double()
        .pow(-2)
        .repeat(len(DETECTOR))
    )
    force = problem.gradient().flatten() + rows.T @ term(layer.theta.detach())
    expected = -torch.linalg.solve(matrix + rows.T @ rows + torch.diag(weight), force)
    optimizer = GaussNewton(
        [layer.theta], sensor_prior=prior, min_hits=0, tolerance=1e-10, max_iterations=2000
    )
    optimizer.attach(DETECTOR, layer, Terms({"survey": term}))
    optimizer.add(linearise(loss, layer, batch_of(tracks, DETECTOR)))
    optimizer.step()
    assert (layer.theta.detach().flatten() - expected).abs().max() < 1e-7 * expected.abs().max()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("B/BLayer9,du,0,1,", "line 2: 'B/BLayer9' is no volume or sensor of small barrel"),
        (f"{STAVE},dx,0,1,", "line 2: dof is 'dx'"),
        (f"{STAVE},du,0,0,", r"line 2: sigma is 0\.0"),
        (f"{STAVE},du,0,inf,", r"line 2: sigma is inf and value 0\.0, expected finite"),
        (f"{STAVE},du,nan,1,", r"line 2: sigma is 1\.0 and value nan, expected finite"),
        (f"{STAVE},du,0,1,{STAVE}", "line 2: .* cannot move against the other"),
        (f"{STAVE},du,0,1,{CHIP}", "is not around"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, said):
    with pytest.raises(SchemaError, match=said):
        survey(tmp_path, line)
