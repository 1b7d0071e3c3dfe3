"""The monitor's circle fit: exact on circles, the definition's signs, and a layer that is turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import batch_of

from alignnet.evaluation.circle_fit import arc, fit_circle, fit_line, nearest
from alignnet.evaluation.monitor import MonitorResiduals, monitor_residuals
from alignnet.evaluation.places import Places

UM = 1e-4
RADII = torch.tensor([2.3, 3.1, 3.9, 19.6, 24.5, 34.4, 39.3], dtype=torch.float64)


def on_circles(radius: torch.Tensor) -> torch.Tensor:
    """Points where circles through the origin cross the layers (tracks, 7, 2), each turned another way."""
    angle = torch.asin(RADII / (2 * radius[:, None])) + torch.arange(len(radius))[:, None]
    return RADII[None, :, None] * torch.stack([angle.cos(), angle.sin()], -1)


def test_points_on_a_circle_give_the_circle():
    radius = torch.tensor([60.0, 200.0, -120.0, 5000.0], dtype=torch.float64)
    xy = on_circles(radius)
    weight = torch.rand(xy.shape[:2], dtype=torch.float64) + 0.1
    circle = fit_circle(xy, weight)
    torch.testing.assert_close(circle.radius, radius.abs(), rtol=1e-7, atol=0)
    assert (nearest(circle, xy) - xy).abs().max() < 1e-8
    torch.testing.assert_close(
        circle.x.hypot(circle.y), radius.abs(), rtol=1e-7, atol=0
    )  # all pass the origin


def test_points_without_weight_do_not_count():
    xy = on_circles(torch.tensor([80.0], dtype=torch.float64))
    off = xy.clone()
    off[:, 3] += 1.0
    weight = torch.ones(xy.shape[:2], dtype=torch.float64)
    weight[:, 3] = 0
    assert fit_circle(off, weight).radius == pytest.approx(80.0, rel=1e-7)


def test_a_line_is_found_along_the_arc():
    xy = on_circles(torch.tensor([150.0], dtype=torch.float64))
    circle = fit_circle(xy, torch.ones(1, 7, dtype=torch.float64))
    beta = arc(circle, xy)
    z = 3.0 - 40.0 * beta
    torch.testing.assert_close(fit_line(beta, z, torch.rand(1, 7, dtype=torch.float64) + 0.1), z)


def test_residuals_are_fitted_minus_measured_towards_larger_azimuth_and_z():
    """One point of a circle moved by 100 µm along φ and z: its own residual has the other sign."""
    xy = on_circles(torch.tensor([300.0], dtype=torch.float64))
    points = torch.cat([xy, 0.3 * RADII[None, :, None]], -1)
    across = torch.nn.functional.normalize(torch.stack([-xy[0, 4, 1], xy[0, 4, 0]], -1), dim=-1)
    points[0, 4, :2] += 100 * UM * across
    points[0, 4, 2] += 100 * UM
    is_hit = torch.ones(1, 7, dtype=torch.bool)
    found = monitor_residuals(points, is_hit, torch.arange(7)[None] < 3, 0.5)[0] / UM
    assert -105 < found[4, 0] < -20
    assert -105 < found[4, 1] < -20


def test_a_chip_that_is_off_is_seen_by_the_monitor_and_its_neighbours_are_not(detector, tracks, nominal):
    batch = batch_of(tracks, detector)
    count = np.bincount(batch.sensor[batch.is_hit].numpy(), minlength=len(detector))[:432]
    chip = int(count.argmax())
    moved = nominal.clone()
    moved[chip, 1] = 100 * UM * float(detector.rotation[chip, 2, 2].sign())
    found = []
    for local in (nominal, moved):
        sums = MonitorResiduals(detector)
        sums.add(Places(detector, local).planes(batch).origin, batch)
        found.append(sums)
    unit = int(found[0].unit[chip])
    change = [one.sums[:, 1, 1] / np.maximum(one.sums[:, 1, 0], 1) / UM for one in found]
    difference = change[1] - change[0]
    assert -100 < difference[unit] < -25
    assert np.abs(np.delete(difference, unit)).max() < 0.7 * abs(difference[unit])
    assert len(found[0].metrics()["layer3"]["n_hits"]) == 192
