"""The least known motions: exactly the null modes of the tracks, the same by iterations, and their names."""

from __future__ import annotations

import math

import pytest
import torch
from small_detectors import BEAM, COSMICS, GUN, barrel, batch_of, random_local, simulated
from small_problems import BARREL, LINES, TELESCOPE, converged_loss
from torch import Tensor

from alignnet.data.sources import Source
from alignnet.geometry.detector import Detector
from alignnet.geometry.mode_names import ModeNames
from alignnet.geometry.recovery import displacement_metric, displacement_rate
from alignnet.geometry.weak_modes import WEAK_MODES, WeakMode, rigid_motion_basis
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.errors import exact_errors
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, level, prior_weight
from alignnet.solvers.linearised import linearise
from alignnet.solvers.spectrum import Spectrum, exact_spectrum, lowest_spectrum

FREE = dict.fromkeys(("half_barrel", "stave"))
PRIORS = {"half_barrel": (30e-4, 2e-4), "stave": (20e-4, 3e-4)}


def system_of(
    detector: Detector,
    sources: tuple[Source, ...],
    levels: dict[str, tuple[float, float] | None] | None = None,
    own: tuple[float, float] | None = None,
    noise: str = "diagonal",
    few: int = 0,
    n_events: int = 200,
) -> Hierarchical:
    sensors, loss = SensorLayer.of(detector), converged_loss(detector, noise)
    off = random_local(len(detector), 5e-4, 5e-5)
    batches = [batch_of(simulated(detector, source, n_events, off), detector) for source in sources]
    problem = Problem(sensors, [linearise(loss, sensors, batch) for batch in batches])
    volumes = [level(detector, sensors, name, sigma) for name, sigma in (levels or {}).items()]
    return Hierarchical(problem, volumes, prior_weight(own), problem.hits() >= few)


def both(system: Hierarchical, detector: Detector, n: int) -> tuple[Spectrum, Spectrum]:
    metric = displacement_metric(detector)
    return (
        exact_spectrum(system, metric, n),
        lowest_spectrum(system, system.preconditioner(), metric, n),
    )


CASES = {
    "helices": (BARREL, (GUN,), 4),
    "helices and cosmics": (BARREL, (GUN, COSMICS), 4),
    "lines": (LINES, (GUN,), 6),
    "lines and cosmics": (LINES, (GUN, COSMICS), 6),
    "lines through parallel planes": (TELESCOPE, (BEAM,), 9),
}


@pytest.mark.parametrize(
    ("name", "noise"), [*((name, "diagonal") for name in CASES), ("helices", "none"), ("helices", "full")]
)
def test_the_null_space_is_found_exactly(name, noise):
    detector, sources, expected = CASES[name]
    for found in both(system_of(detector, sources, noise=noise), detector, 12):
        assert found.converged
        assert found.n_null == expected
        assert found.gap > 1e4
        assert found.amplitude[:expected].isinf().all()
        assert found.amplitude[expected:].isfinite().all()


@pytest.mark.parametrize("name", ["helices", "lines"])
def test_volumes_without_priors_add_no_null_modes(name):
    detector, sources, expected = CASES[name]
    for found in both(system_of(detector, sources, FREE), detector, 12):
        assert found.converged
        assert found.n_null == expected


def test_null_modes_are_named_rigid_motions_and_shears():
    for name, (detector, sources, expected) in CASES.items():
        names = ModeNames(detector)
        found = exact_spectrum(system_of(detector, sources), displacement_metric(detector), expected)
        for motion in found.motion:
            said = names(motion)
            whole = math.hypot(said.rigid, said.weak)
            assert whole == pytest.approx(1, abs=1e-5), name
            assert str(said) != "none of them"
    assert "stretch" in names(found.motion.new_zeros(6, 6).index_fill(1, torch.tensor([2]), 1.0)).overlaps


@pytest.mark.parametrize("few", [0, 35])
@pytest.mark.parametrize("own", [None, (10e-4, 1e-4)], ids=["free sensors", "held sensors"])
@pytest.mark.parametrize("levels", [{}, FREE, PRIORS], ids=["alone", "free volumes", "held volumes"])
def test_iterations_find_what_dense_matrices_do(levels, own, few):
    detector = barrel(radii=(2.5, 4.0, 7.0), staves=6, chips=2)
    exact, found = both(system_of(detector, (GUN,), levels, own, few=few, n_events=100), detector, 9)
    assert found.converged
    assert found.n_null == exact.n_null
    n = exact.n_null
    assert torch.allclose(found.value[n:], exact.value[n:], rtol=1e-2)


def test_modes_have_unit_size_and_the_energy_of_their_eigenvalue():
    system = system_of(BARREL, (GUN,), PRIORS, (10e-4, 1e-4))
    found = exact_spectrum(system, displacement_metric(BARREL), 10)
    for motion in found.motion:
        size = displacement_rate(BARREL, motion).square().sum(-1).mean().sqrt()
        assert float(size) == pytest.approx(1, rel=1e-9)
    assert (found.value.diff() >= 0).all()
    assert found.n_null == 0


def test_the_lowest_modes_are_the_principal_components_of_the_covariance():
    system, metric = system_of(BARREL, (GUN,), PRIORS, (10e-4, 1e-4)), displacement_metric(BARREL)
    found = exact_spectrum(system, metric, 8)
    columns = exact_errors(system, metric).columns
    along = torch.einsum("msd,sde,cse->mc", found.motion, metric / len(BARREL), columns)
    assert torch.allclose(along.square().sum(-1).sqrt(), found.amplitude, rtol=1e-6)


def test_fixed_sensors_leave_no_null_mode_of_a_telescope_but_the_shears():
    detector = TELESCOPE
    sensors = SensorLayer.of(detector)
    sensors.free[0] = False
    batch = batch_of(simulated(detector, BEAM, 200), detector)
    problem = Problem(sensors, [linearise(converged_loss(detector), sensors, batch)])
    system = Hierarchical(problem, [], prior_weight(None), torch.ones(6, dtype=torch.bool))
    for found in both(system, detector, 8):
        assert found.n_null == 3  # shears and the stretch, about the plane that is fixed
        assert (found.motion[:, 0] == 0).all()


# names


@pytest.mark.parametrize("mode", WEAK_MODES)
def test_a_weak_mode_is_called_by_its_name_whatever_its_phase(mode):
    detector = barrel(radii=(2.5, 4.0, 7.0), staves=6, chips=2)
    names = ModeNames(detector)
    for phase in (0.0, 0.7):
        said = names(WeakMode(mode, 3e-4, phase)(detector))
        assert math.hypot(said.overlaps[mode], said.rigid) == pytest.approx(1, abs=1e-6)
    if said.rigid < 0.7:
        assert mode in str(said)


def test_a_rigid_motion_is_called_by_its_name():
    names = ModeNames(BARREL)
    for motion, name in zip(rigid_motion_basis(BARREL), ("translation x", "translation y"), strict=False):
        assert str(names(motion)) == f"rigid: {name} (1.00)"


def test_a_motion_of_one_sensor_has_no_name():
    motion: Tensor = torch.zeros(24, 6, dtype=torch.float64)
    motion[3, 2] = 1e-3
    said = ModeNames(BARREL)(motion)
    assert said.rigid < 0.5
    assert said.weak < 0.9
