"""Levels aligned by themselves, in stages and together: closure, the same minimum, and errors that cover."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from small_detectors import GUN, QUIET, barrel, batch_of, random_local, simulated
from training_runs import PRIOR, fitted, problem_of, theta_of

from alignnet.data.root import write_simulation
from alignnet.errors import CheckpointError, ConfigError
from alignnet.export.alice import hierarchy_params
from alignnet.geometry.misalign import Gaussian
from alignnet.geometry.recovery import Recovery, difference, displacement_metric
from alignnet.geometry.volumes import Volumes
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.constrained import constraints_of
from alignnet.solvers.dense_system import dense_system
from alignnet.solvers.errors import exact_errors
from alignnet.solvers.levels import volume_blocks
from alignnet.solvers.linearised import linearise
from alignnet.training.answer import answer_of
from alignnet.training.optim import GaussNewton, PreconditionedSGD
from alignnet.training.volume_answers import errors_alone

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

DETECTOR = barrel(chips=3)
WIDE = {"translation": 0.05, "rotation": 5e-3}
NARROW = {"translation": 10e-4, "rotation": 2e-4}
STAVES = {"stave": {"translation": 100e-4, "rotation": 1e-3}}
CHIPS = {"sensor": {"translation": 10e-4, "rotation": 2e-4}}


class Fit:
    """Gauss–Newton on the tracks of one batch."""

    def __init__(self, tracks, vertex="given", **options):
        self.layer = SensorLayer.of(DETECTOR)
        self.optimizer = GaussNewton(
            [self.layer.theta], **{"min_hits": 0, "tolerance": 1e-9, "max_iterations": 3000, **options}
        )
        self.optimizer.attach(DETECTOR, self.layer)
        self.loss = HelixChi2(DETECTOR, vertex=vertex, normalisation="total")
        self.batch = batch_of(tracks, DETECTOR)

    def step(self, times=1):
        for _ in range(times):
            self.add()
            self.optimizer.step()
        return self

    def add(self):
        self.optimizer.add(linearise(self.loss, self.layer, self.batch))

    @property
    def local(self):
        return self.layer.local()


def tracks_of(levels, n_events=120, **options):
    truth = Gaussian(levels, seed=3)(DETECTOR)
    return simulated(DETECTOR, GUN, n_events, truth, seed=5, **options), truth


def left_after(local, truth):
    """Largest displacement that is left once rigid motions of the whole are removed [cm]."""
    recovery = Recovery(DETECTOR, torch.ones(len(DETECTOR), dtype=torch.bool), weak_modes=False)
    return float(recovery.remove(difference(local, truth, DETECTOR)).abs().max())


def test_staves_alone_are_found_exactly_with_chips_rigid_on_them():
    tracks, truth = tracks_of(STAVES, **QUIET)
    tracks = replace(tracks, vertex=tracks.truth["position"].copy())
    fit = Fit(tracks, levels={"stave": None}, schedule=[{"levels": ["stave"]}], tolerance=1e-6).step(5)
    assert left_after(torch.zeros_like(truth), truth) > 100e-4
    assert left_after(fit.local, truth) < 1e-6
    volumes, (six,) = fit.optimizer.volumes()
    placed = {"stave": (volumes[0], volumes[0].motion(six))}
    chips = hierarchy_params(DETECTOR, fit.local, placed).delta[-len(DETECTOR) :]
    assert abs(chips).max() < 1e-12  # the staves' objects say it all


def test_stages_with_all_levels_at_the_end_come_to_the_joint_minimum():
    tracks, _ = tracks_of(STAVES | CHIPS)
    options = {"levels": {"stave": WIDE}, "sensor_prior": NARROW}
    joint = Fit(tracks, **options).step(5)
    staged = Fit(
        tracks, **options, schedule=[{"levels": ["stave"], "epochs": 2}, {"levels": ["stave", "sensor"]}]
    )
    for _ in range(7):
        staged.step().optimizer.finish_epoch(False)
    assert staged.optimizer.on_last_stage
    assert torch.allclose(staged.local, joint.local, rtol=0, atol=1e-8)
    assert joint.local.abs().max() > 1e-3


def test_a_stage_leaves_the_other_levels_alone():
    tracks, _ = tracks_of(STAVES | CHIPS)
    stages = [{"levels": ["stave"], "epochs": 1}, {"levels": ["sensor"]}]
    fit = Fit(tracks, levels={"stave": WIDE}, sensor_prior=NARROW, schedule=stages).step()
    own, _ = fit.optimizer._all.parts(fit.optimizer.state[fit.layer.theta]["x"])
    assert own.abs().max() == 0
    (staves,) = fit.optimizer.volumes()[1]
    assert fit.optimizer.finish_epoch(False)
    fit.step()
    assert torch.equal(fit.optimizer.volumes()[1][0], staves)
    own, _ = fit.optimizer._all.parts(fit.optimizer.state[fit.layer.theta]["x"])
    assert own.abs().amax(1).min() > 0


def test_a_rigid_motion_of_the_true_detector_is_one_of_the_volumes():
    """Tracks that are not tied to a vertex do not tell it, and leave all staves as they are."""
    tracks, _ = tracks_of(STAVES, **QUIET)
    gauge = {"levels": {"stave": None}, "schedule": [{"levels": ["stave"]}], "gauge": True}
    fit = Fit(tracks, "absent", **gauge, tolerance=1e-6).step(4)
    whole = constraints_of(_system(fit)[1])
    assert whole.of(fit.local, torch.zeros(0)).abs().max() < 1e-12


def _system(fit):
    fit.add()
    return fit.optimizer.system()


def test_fixed_degrees_of_freedom_of_volumes_stay():
    tracks, _ = tracks_of(STAVES)
    fit = Fit(tracks, levels={"stave": WIDE | {"fixed": ["dw", "rot_u"]}}, sensor_prior=NARROW).step(2)
    (six,) = fit.optimizer.volumes()[1]
    assert six[:, [2, 3]].abs().max() < 1e-15
    assert (six[:, [0, 1, 4, 5]].abs().amin(0) > 0).all()


def test_children_have_no_mean_where_that_is_asked_for():
    tracks, _ = tracks_of(STAVES | CHIPS)
    options = {"levels": {"half_barrel": None, "stave": WIDE}, "sensor_prior": NARROW}
    fit = Fit(tracks, **options, zero_mean=["half_barrel", "stave"]).step(2)
    system, preconditioner = _system(fit)
    x = fit.optimizer.state[fit.layer.theta]["x"]
    assert constraints_of(preconditioner)(x).abs().max() < 1e-9
    _, (halves, staves) = fit.optimizer._all.parts(x)
    assert halves.abs().max() > 1e-5
    assert staves.abs().max() > 1e-3
    inside = system.inside(x, Volumes.of(DETECTOR, "half_barrel").depth)
    assert torch.allclose(inside, system.own_part(x) + system.levels[1].prolong(staves), rtol=0, atol=1e-15)


def test_errors_of_volumes_are_those_of_the_inverse():
    tracks, _ = tracks_of(STAVES | CHIPS)
    system, _ = _system(Fit(tracks, levels={"stave": WIDE}, sensor_prior=NARROW))
    found = exact_errors(system, displacement_metric(DETECTOR)).volumes[0]
    dense = dense_system(system)
    scale = dense.matrix.diagonal().rsqrt()
    inverse = torch.linalg.inv(dense.matrix * scale[:, None] * scale) * scale[:, None] * scale
    packed = torch.zeros(len(system), dtype=torch.float64)
    packed[dense.acts] = inverse.diagonal().sqrt()
    assert torch.allclose(found, system.of_levels(packed)[0], rtol=1e-6, atol=0)
    alone = errors_alone(system.problem, system.levels[0])
    assert (alone < found).all()


def test_blocks_of_volumes_are_those_of_their_whole_matrix(monkeypatch):
    from alignnet.solvers import assembled
    from alignnet.solvers.levels import level_matrix

    tracks, _ = tracks_of(STAVES)
    monkeypatch.setattr(assembled, "MANY", 1)
    system, _ = _system(Fit(tracks, levels={"half_barrel": None}, sensor_prior=NARROW))
    level = system.levels[0]
    full = level_matrix(system.problem, level).view(level.n_groups, 6, level.n_groups, 6)
    expected = full.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    assert torch.allclose(volume_blocks(system.problem, level), expected, rtol=1e-9, atol=1e-6)


def test_errors_of_volumes_cover_the_truth():
    """χ² of the staves' motions against the true ones, in the covariance of all unknowns."""
    tracks, _ = tracks_of({"stave": {"translation": 20e-4, "rotation": 2e-4}} | CHIPS, 400)
    prior = {"translation": 20e-4, "rotation": 2e-4}
    fit = Fit(tracks, levels={"stave": prior}, sensor_prior=NARROW).step(3)
    sigma = exact_errors(_system(fit)[0], displacement_metric(DETECTOR)).volumes[0]
    true = _true_staves()
    pull = (fit.optimizer.volumes()[1][0] - true) / sigma
    assert 0.8 < float(pull.square().mean().sqrt()) < 1.2


def _true_staves():
    level = Volumes.of(DETECTOR, "stave")
    return Gaussian({"stave": {"translation": 20e-4, "rotation": 2e-4}}, seed=3)._draw(level)


@pytest.mark.parametrize("parametrisation", ["local", "global"])
def test_a_run_in_stages_goes_on_from_its_checkpoint(barrel_file, tmp_path, parametrisation):
    schedule = [{"levels": ["stave"], "epochs": 2}, {"levels": ["half_barrel", "sensor"]}]
    make = partial(
        GaussNewton, levels={"half_barrel": PRIOR, "stave": PRIOR}, sensor_prior=PRIOR, schedule=schedule,
        tolerance=1e-9,
    )  # fmt: skip
    fitted(tmp_path / "whole", *problem_of(barrel_file, make, parametrisation), 4)
    fitted(tmp_path / "parts", *problem_of(barrel_file, make, parametrisation), 1)
    module, data = problem_of(barrel_file, make, parametrisation)
    fitted(tmp_path / "parts", module, data, 4, resume=tmp_path / "parts")
    assert torch.equal(theta_of(tmp_path / "parts"), theta_of(tmp_path / "whole"))
    levels = answer_of(module, data).levels
    assert [one.volumes.level for one in levels] == ["half_barrel", "stave"]
    assert all((one.error > 0).all() for one in levels)


def test_a_checkpoint_of_volumes_without_frames_is_refused():
    fit = Fit(tracks_of(STAVES, 5)[0], levels={"stave": WIDE}, sensor_prior=NARROW)
    fit.optimizer.state[fit.layer.theta]["x"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="start a new run from its places"):
        fit.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": [{"levels": ["storey"]}]}, r"schedule has \['storey'\]"),
        (
            {"schedule": [{"levels": ["half_barrel"]}, {"levels": ["stave"]}]},
            r"schedule has \['half_barrel'\]; expected some of \['sensor', 'stave'\], .* is added by",
        ),
        ({"schedule": [{"levels": []}]}, r"schedule\[0\]\.levels is \[\]"),
        ({"schedule": [{"stave": 3}]}, r"schedule\[0\] is"),
        ({"schedule": [{"levels": ["stave"], "epochs": 0}]}, r"epochs is 0; expected a whole number"),
        ({"schedule": [{"levels": ["stave"], "epochs": 2}]}, r"the last stage ends with the training"),
        (
            {"schedule": [{"levels": ["stave"]}, {"levels": ["sensor"]}], "converged": None},
            r"converged is null, so that no stage",
        ),
        ({"levels": {"stave": WIDE | {"fixed": ["x"]}}}, r"levels\.stave\.fixed is \['x'\]"),
        ({"levels": {"stave": {"translation": 1.0}}}, r"prior of stave is"),
        ({"modes": {"curl": 1.0}}, r"modes\.curl is 1\.0; expected 0"),
        ({"modes": {"bend": 0}}, r"weak mode 'bend' is not known"),
    ],
)
def test_what_cannot_be_used_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Fit(tracks_of(STAVES, 5)[0], **{"levels": {"stave": WIDE}, **options})


def test_stages_of_levels_that_a_detector_lacks_drop_out():
    fit = Fit(
        tracks_of(STAVES, 5)[0],
        levels={"stave": WIDE, "module": NARROW},
        schedule=[{"levels": ["module"]}, {"levels": ["module", "stave"]}],
    )
    assert [stage.levels for stage in fit.optimizer.stages] == [("stave",)]


def test_random_starts_do_not_matter():
    tracks, _ = tracks_of(STAVES | CHIPS, 60)
    options = {"levels": {"stave": WIDE}, "sensor_prior": {"translation": 0.05, "rotation": 5e-3}}
    fit = Fit(tracks, **options)
    fit.layer.set_local(random_local(len(DETECTOR), 1e-3, 1e-4))
    before = fit.local
    fit.step(3)
    assert torch.equal(fit.optimizer.state[fit.layer.theta]["start"], before)
    assert torch.isfinite(fit.local).all()


def test_descent_of_staves_alone_comes_to_their_minimum_with_chips_rigid(tmp_path):
    """The cost falls to that of Gauss–Newton's staves; chips do not move on them."""
    truth = Gaussian({"stave": {"translation": 50e-4, "rotation": 2e-4}}, seed=3)(DETECTOR)
    tracks = simulated(DETECTOR, GUN, 50, truth, seed=5)
    write_simulation(tmp_path / "tracks.root", DETECTOR, tracks, truth, {"generator": "a test", "seed": 5})
    whole = {"split": (1.0, 0.0, 0.0), "batch_size": 50}
    make = partial(PreconditionedSGD, levels=["stave"], momentum=0.3)
    module, data = problem_of(tmp_path / "tracks.root", make, **whole)
    fitted(tmp_path / "sgd", module, data, 15)
    volumes, (six,) = module.optimizer.volumes()
    placed = {"stave": (volumes[0], volumes[0].motion(six))}
    chips = hierarchy_params(DETECTOR, module.sensors.local(), placed).delta[-len(DETECTOR) :]
    assert abs(chips).max() < 1e-12
    newton = partial(GaussNewton, levels={"stave": None}, schedule=[{"levels": ["stave"]}])
    exact, data = problem_of(tmp_path / "tracks.root", newton, **whole)
    fitted(tmp_path / "gauss_newton", exact, data, 3)
    costs = [float(_cost(one, data)) for one in (module, exact)]
    module.sensors.set_local(torch.zeros_like(truth))
    start = float(_cost(module, data))
    assert costs[1] < costs[0] < costs[1] + 0.02 * (start - costs[1])


@torch.no_grad()
def _cost(module, data):
    (batch,) = data.loader("train")
    total, count = module.loss(module.sensors, batch).sums(module.loss.normalisation)
    return total / count


def test_descent_refuses_levels_that_are_none():
    layer = SensorLayer.of(DETECTOR)
    for levels, message in (("stave", "expected a list"), (["storey"], "storey"), (["module"], "has none")):
        with pytest.raises(ConfigError, match=message):
            PreconditionedSGD([layer.theta], levels=levels).attach(DETECTOR, layer)
