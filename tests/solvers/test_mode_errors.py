"""Errors of weak modes: against dense matrices, and which tracks see which mode."""

from __future__ import annotations

import pytest
import torch
from small_detectors import COSMICS, GUN, barrel, batch_of, planes, random_local, simulated

from alignnet.errors import ConfigError
from alignnet.evaluation.weak_modes import mode_metrics, verdict
from alignnet.geometry.its3 import its3
from alignnet.geometry.misalign import Composed, Gaussian, WeakMode
from alignnet.geometry.mode_amplitudes import ModeAmplitudes
from alignnet.geometry.recovery import displacement_metric
from alignnet.geometry.weak_modes import WEAK_MODE_NAMES, rigid_motion_basis, weak_mode_basis
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.linearised import linearise
from alignnet.solvers.mode_errors import mode_errors, prior_errors
from alignnet.training.optim import GaussNewton

DETECTOR = barrel(chips=3)
UM = 1e-4
STAVE = {"translation": 100 * UM, "rotation": 1e-3}
CHIP = {"translation": 20 * UM, "rotation": 5e-4}
PRIORS = {"levels": {"stave": STAVE}, "sensor_prior": CHIP}


def fitted(detector, tracks, vertex, steps=0, **options):
    """An optimiser with the tracks of a batch, after some steps."""
    layer = SensorLayer.of(detector)
    optimizer = GaussNewton(
        [layer.theta], **{"min_hits": 0, "tolerance": 1e-9, "max_iterations": 3000, **options}
    )
    optimizer.attach(detector, layer)
    loss = HelixChi2(detector, vertex=vertex, normalisation="total")
    batch = batch_of(tracks, detector)
    for i in range(steps + 1):
        optimizer.add(linearise(loss, layer, batch))
        if i < steps:
            optimizer.step()
    return optimizer, layer


def errors_of(detector, source, vertex, dense=True, n_events=200, **options):
    tracks = simulated(detector, source, n_events, random_local(len(detector), 5e-4, 5e-5), seed=2)
    system = fitted(detector, tracks, vertex, **options)[0].system()
    found = ModeAmplitudes(detector)
    metric = displacement_metric(detector)
    return mode_errors(*system, found.names, found.forms, found.motions, metric, dense, 1e-10, 5000), system


def words(errors):
    parts = (errors.sigma, errors.prior, errors.alone, errors.prior_alone, errors.held_back)
    rows = zip(errors.names, *(part.tolist() for part in parts), strict=True)
    return {name: verdict(*row) for name, *row in rows}


def test_amplitudes_are_read_off_any_mix_and_no_rigid_motion_counts():
    found = ModeAmplitudes(DETECTOR)
    assert found.names == WEAK_MODE_NAMES
    amount = torch.linspace(-3, 4, len(found), dtype=torch.float64)
    mix = torch.einsum("m,msd->sd", amount, weak_mode_basis(DETECTOR)) + rigid_motion_basis(DETECTOR).sum(0)
    assert torch.allclose(found(mix), amount, rtol=0, atol=1e-9)
    some = torch.arange(len(DETECTOR)) % 3 > 0
    assert torch.allclose(ModeAmplitudes(DETECTOR, some)(mix), amount, rtol=0, atol=1e-9)


def test_an_injected_mode_is_read_off_to_second_order():
    local = Composed([WeakMode("curl", 50 * UM), WeakMode("skew", 30 * UM, 0.5)])(DETECTOR)
    found = dict(zip(WEAK_MODE_NAMES, ModeAmplitudes(DETECTOR)(local).tolist(), strict=True))
    assert found["curl"] == pytest.approx(50 * UM, abs=0.05 * UM)
    assert found["skew_cos"] ** 2 + found["skew_sin"] ** 2 == pytest.approx((30 * UM) ** 2, rel=1e-2)
    assert abs(found["twist"]) < 0.05 * UM


def test_modes_of_which_only_rounding_is_left_are_none():
    """Half-cylinders whose middles are at φ = ±90° do not see cos φ."""
    assert "clamshell_cos" not in ModeAmplitudes(its3(outer_barrel=False)).names


def test_modes_that_a_detector_has_no_length_for_are_none():
    flat = ModeAmplitudes(planes())
    assert 0 < len(flat) < len(WEAK_MODE_NAMES)
    with pytest.raises(ConfigError, match="is none of its own in this detector"):
        flat.rows(next(name for name in WEAK_MODE_NAMES if name not in flat.names))


@pytest.mark.parametrize("case", ["priors", "penalty", "constraint"])
def test_iterations_find_what_dense_matrices_say(case):
    held = {"penalty": {"modes": {"curl": {"sigma": 3 * UM}}}, "constraint": {"modes": {"curl": 0}}}
    options = PRIORS | held.get(case, {})
    (exact, _), (found, _) = (errors_of(DETECTOR, GUN, "given", dense, **options) for dense in (True, False))
    curl = exact.names.index("curl")
    others = torch.arange(len(exact.names)) != curl
    assert torch.allclose(found.sigma[others], exact.sigma[others], rtol=1e-5, atol=0)
    assert torch.equal(found.alone, exact.alone)
    if case == "constraint":
        assert exact.sigma[curl] < 1e-6 * UM
        assert found.sigma[curl] < 1e-6 * UM
        assert words(exact)["curl"] == "held"
    else:
        assert float(found.sigma[curl]) == pytest.approx(float(exact.sigma[curl]), rel=1e-5)


def test_priors_and_penalties_alone_are_the_inverse_of_their_matrix():
    _, (system, _) = errors_of(DETECTOR, GUN, "given", modes={"curl": {"sigma": 3 * UM}}, **PRIORS)
    forms = ModeAmplitudes(DETECTOR).forms
    rows = torch.stack([system.collect(form) for form in forms])
    held = torch.stack([system.collect(form) for form in system.penalties])
    matrix = torch.diag(system.weight) + held.T @ held
    expected = (rows * torch.linalg.solve(matrix, rows.T).T).sum(1).sqrt()
    assert torch.allclose(prior_errors(system, forms), expected, rtol=1e-6, atol=0)
    free, (loose, _) = errors_of(DETECTOR, GUN, "given", modes={"curl": {"sigma": 3 * UM}})
    curl = free.names.index("curl")
    prior = prior_errors(loose, forms)
    assert float(prior[curl]) == pytest.approx(3 * UM, rel=1e-6)
    assert prior[torch.arange(len(prior)) != curl].isinf().all()


def test_tracks_in_a_field_do_not_see_the_curl_and_straight_ones_do():
    """RΔφ ∝ R² is a change of curvature: nothing tells it from the momentum, but where lines are straight."""
    bent, straight = (
        errors_of(barrel(staves=16, b_z=b_z), GUN, "absent", n_events=150, **PRIORS)[0] for b_z in (0.5, 0.0)
    )
    assert words(bent)["curl"] == "invisible"
    assert words(straight)["curl"] != "invisible"
    assert words(bent)["radial"] == words(straight)["radial"] == "seen"
    curl = bent.names.index("curl")
    assert bent.alone[curl] > 20 * straight.alone[curl]
    assert straight.held_back[curl] < 0.75 * bent.held_back[curl]


def test_cosmic_rays_see_what_collisions_do_not():
    collisions, _ = errors_of(DETECTOR, GUN, "absent", **PRIORS)
    cosmics, _ = errors_of(DETECTOR, COSMICS, "absent", **PRIORS)
    curl = collisions.names.index("curl")
    assert cosmics.alone[curl] < 0.3 * collisions.alone[curl]


def test_a_solve_that_did_not_end_is_no_verdict():
    tracks = simulated(DETECTOR, GUN, 50, seed=2)
    system = fitted(DETECTOR, tracks, "given", **PRIORS)[0].system()
    found = ModeAmplitudes(DETECTOR)
    metric = displacement_metric(DETECTOR)
    errors = mode_errors(*system, found.names, found.forms, found.motions, metric, False, 1e-10, 1)
    assert set(words(errors).values()) == {"unknown"}


def test_the_usual_tolerance_is_close_enough():
    exact, system = errors_of(DETECTOR, GUN, "given", **PRIORS)
    found = ModeAmplitudes(DETECTOR)
    metric = displacement_metric(DETECTOR)
    quick = mode_errors(*system, found.names, found.forms, found.motions, metric, False)
    assert torch.allclose(quick.sigma, exact.sigma, rtol=1e-2, atol=0)


def test_without_priors_no_mode_is_known_better_than_by_itself():
    errors, _ = errors_of(DETECTOR, GUN, "given")
    assert (errors.sigma > errors.alone * (1 - 1e-9)).all()
    assert errors.prior.isinf().all()


def test_an_exact_constraint_takes_a_mode_out_of_the_answer():
    truth = Composed([WeakMode("radial", 40 * UM), Gaussian({"sensor": {"translation": 5 * UM}})])(DETECTOR)
    tracks = simulated(DETECTOR, GUN, 200, truth, seed=2)
    radial = {}
    for modes in ({}, {"radial": 0}, {"radial": {"sigma": 0.01 * UM}}):
        _, layer = fitted(DETECTOR, tracks, "given", 3, modes=modes, **PRIORS)
        radial[str(modes)] = float(ModeAmplitudes(DETECTOR)(layer.local())[WEAK_MODE_NAMES.index("radial")])
    free, none, little = radial.values()
    assert free > 20 * UM
    assert abs(none) < 1e-12
    assert abs(little) < 0.1 * UM


def test_a_penalty_pulls_as_a_measurement_of_that_error():
    """Of σ equal to what the tracks know, it takes half of what they would have found."""
    errors, _ = errors_of(DETECTOR, GUN, "given", **PRIORS)
    radial = errors.names.index("radial")
    sigma = float(errors.sigma[radial])
    both, _ = errors_of(DETECTOR, GUN, "given", modes={"radial": {"sigma": sigma}}, **PRIORS)
    assert float(both.sigma[radial]) == pytest.approx(sigma / 2**0.5, rel=1e-6)


def test_injected_modes_are_recovered_within_their_errors():
    modes = [
        WeakMode(mode, 30 * UM, 0.4) for mode in ("radial", "elliptical", "twist", "telescope", "bowing")
    ]
    truth = Composed([*modes, Gaussian({"sensor": {"translation": 5 * UM}}, seed=2)])(DETECTOR)
    tracks = simulated(DETECTOR, GUN, 400, truth, seed=6)
    optimizer, layer = fitted(DETECTOR, tracks, "given", 3, **PRIORS)
    amplitudes = ModeAmplitudes(DETECTOR)
    args = amplitudes.names, amplitudes.forms, amplitudes.motions, displacement_metric(DETECTOR), True
    errors = mode_errors(*optimizer.system(), *args)
    start = torch.zeros_like(truth)
    found = mode_metrics(DETECTOR, errors, start, layer.local(), truth)["modes"]
    pulls = torch.tensor([row["residual_um"] / row["sigma_um"] for row in found.values()])
    assert pulls.abs().max() < 3.5
    assert found["radial"]["injected_um"] == pytest.approx(30, abs=4)
    assert found["radial"]["recovered"] == pytest.approx(1.0, abs=4 * found["radial"]["sigma_um"] / 30)
    seen = [row for row in found.values() if row["verdict"] == "seen"]
    assert seen


@pytest.mark.parametrize("modes", [{}, {"radial": {"sigma": 3 * UM}}])
def test_priors_along_a_mode_are_the_inverse_of_the_sensors_covariance(modes):
    errors, (system, _) = errors_of(DETECTOR, GUN, "given", modes=modes, **PRIORS)
    n = system.own.numel()
    unit = torch.eye(len(system), dtype=torch.float64)
    moves = torch.stack([system.expand(one).flatten() for one in unit], -1)
    covariance = moves @ torch.diag(1 / system.weight) @ moves.T
    motions = ModeAmplitudes(DETECTOR).motions.view(-1, n)
    energy = (motions * torch.linalg.solve(covariance, motions.T).T).sum(1)
    for penalty in system.penalties:
        energy += (motions @ penalty.flatten()).square()
    assert torch.allclose(errors.prior_alone, energy.rsqrt(), rtol=1e-5, atol=0)
    assert (errors.sigma < errors.prior).all()


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("modes", [{}, {"radial": {"sigma": 3 * UM}}])
def test_what_priors_hold_back_is_the_bias_of_the_dense_answer(modes, dense):
    """Of tracks without noise of sensors that a mode has moved, the answer is (H + W)⁻¹ H x, x the mode."""
    errors, (system, _) = errors_of(DETECTOR, GUN, "given", dense, modes=modes, **PRIORS)
    found = ModeAmplitudes(DETECTOR)
    unit = torch.eye(len(system), dtype=torch.float64)
    matrix = torch.stack([system(one) for one in unit], -1)
    moves = torch.stack([system.expand(one).flatten() for one in unit], -1)
    held = torch.stack([system.collect(one) for one in system.penalties]) if modes else unit[:0]
    tracks = matrix - torch.diag(system.weight) - held.T @ held
    for i, motion in enumerate(found.motions):
        spread = moves.T / system.weight[:, None]
        x = spread @ torch.linalg.solve(moves @ spread, motion.flatten())  # the mode as priors like it best
        assert torch.allclose(moves @ x, motion.flatten(), atol=1e-9 * float(motion.abs().max()))
        answer = (moves @ torch.linalg.solve(matrix, tracks @ x)).view_as(motion)
        response = torch.einsum("msd,sd->m", found.forms, answer)
        assert torch.allclose(errors.response[:, i], response, rtol=0, atol=1e-5)
        assert float(errors.held_back[i]) == pytest.approx(1 - float(response[i]), abs=1e-5)


@pytest.mark.parametrize("dense", [True, False])
def test_sensors_that_only_follow_their_staves_hold_a_mode_back(dense):
    few, (system, _) = errors_of(DETECTOR, GUN, "given", dense, min_hits=42, **PRIORS)
    assert 0 < int(system.own.any(-1).sum()) < len(DETECTOR)
    found = ModeAmplitudes(DETECTOR)
    unit = torch.eye(len(system), dtype=torch.float64)
    matrix = torch.stack([system(one) for one in unit], -1)
    inverse = torch.linalg.pinv(matrix, hermitian=True)  # sensors that follow have no unknowns
    for i, motion in enumerate(found.motions):
        answer = system.expand(inverse @ system.collect(system.problem(motion)))
        recovered = float((found.forms[i] * answer).sum())
        assert 1 - float(few.held_back[i]) == pytest.approx(recovered, abs=1e-5)


def test_modes_that_bend_stiff_staves_are_assumed():
    stiff = {"levels": {"stave": STAVE}, "sensor_prior": {"translation": 3 * UM, "rotation": 1e-5}}
    found = words(errors_of(DETECTOR, GUN, "given", **stiff)[0])
    assert found["bowing"] == found["twist"] == "assumed"
    assert found["radial"] == "seen"  # which moves staves as a whole
    loose = words(errors_of(DETECTOR, GUN, "given", **PRIORS)[0])
    assert "assumed" not in (loose["bowing"], loose["twist"])


@pytest.mark.parametrize(
    ("sigma", "prior", "alone", "word"),
    [
        (2 * UM, 100 * UM, 1 * UM, "seen"),
        (2 * UM, float("inf"), 1 * UM, "seen"),
        (2 * UM, 3 * UM, 1 * UM, "weak"),
        (2 * UM, 2.1 * UM, 1 * UM, "invisible"),
        (10 * UM, 100 * UM, 1 * UM, "weak"),
        (2 * UM, 100 * UM, 30 * UM, "weak"),
        (2 * UM, 100 * UM, 300 * UM, "invisible"),
        (float("inf"), float("inf"), float("inf"), "invisible"),
        (0.0, 100 * UM, 1 * UM, "held"),
        (float("nan"), 100 * UM, 1 * UM, "unknown"),
    ],
)
def test_the_rule_of_the_verdict(sigma, prior, alone, word):
    assert verdict(sigma, prior, alone) == word


@pytest.mark.parametrize(("held_back", "word"), [(0.05, "seen"), (0.3, "weak"), (0.7, "assumed")])
def test_a_mode_that_priors_hold_back_is_not_seen_however_small_its_error(held_back, word):
    assert verdict(2 * UM, 100 * UM, 1 * UM, 10 * UM, held_back) == word


def test_priors_that_say_more_than_tracks_make_a_mode_assumed():
    assert verdict(1 * UM, 10 * UM, 2 * UM, 3 * UM) == "seen"
    assert verdict(1 * UM, 10 * UM, 2 * UM, 1 * UM) == "assumed"
    assert verdict(1 * UM, 10 * UM, 300 * UM, 1 * UM) == "invisible"
