"""What a configuration of Gauss–Newton says of priors, and of weak modes that the answer must not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.mode_amplitudes import ModeAmplitudes
from alignnet.sensors.hierarchy import theta_motions
from alignnet.sensors.sensor import SensorLayer

USUAL_LEVELS = ("half_barrel", "layer", "stave", "half_stave", "module")
"""Levels that may stand in a configuration that serves detectors without them."""

Pair = tuple[float, float]

Modes = Mapping[str, float | Mapping[str, float]]
"""Weak modes by name: 0 for none of it at all, `{sigma: cm}` for no more than that."""


@dataclass(frozen=True)
class LevelPrior:
    """What is known of the motions of a level's volumes before there are tracks."""

    sigma: Pair | None  # of translations [cm] and rotations [rad]
    fixed: tuple[str, ...] = ()  # degrees of freedom that they don't have


def pair(name: str, sigma: Mapping[str, Any] | None) -> Pair | None:
    """Widths of a translation and a rotation; None for no prior.

    Raises:
        ConfigError: they are not two numbers > 0.
    """
    if sigma is None:
        return None
    if (
        not isinstance(sigma, Mapping)
        or set(sigma) != {"translation", "rotation"}
        or not all(_is_number(value) and value > 0 for value in sigma.values())
    ):
        raise ConfigError(
            f"{name if '.' in name else f'optimizer prior of {name}'} is {sigma}; "
            "expected translation (cm) and rotation (rad), both > 0, or null"
        )
    return sigma["translation"], sigma["rotation"]


def level_prior(name: str, given: Mapping[str, Any] | None) -> LevelPrior:
    """The prior of a level, with which may stand `fixed`, a list of degrees of freedom.

    Raises:
        ConfigError: as `pair`; or a degree of freedom does not exist, or none is left.
    """
    if not isinstance(given, Mapping) or "fixed" not in given:
        return LevelPrior(pair(name, given))
    fixed, rest = given["fixed"], {key: value for key, value in given.items() if key != "fixed"}
    known = rigid.LOCAL_NAMES
    if isinstance(fixed, str) or not set(fixed) < set(known):
        raise ConfigError(
            f"optimizer.levels.{name}.fixed is {fixed}; expected some, not all, of {list(known)}"
        )
    nothing = not any(value is not None for value in rest.values())
    return LevelPrior(None if nothing else pair(name, rest), tuple(fixed))


@dataclass(frozen=True)
class HeldModes:
    """Weak modes that a fit keeps from the answer, as forms of the sensors' Θ."""

    exact: Tensor  # forms that are 0, (modes, sensors, dof)
    penalties: Tensor  # forms over their σ, (modes, sensors, dof)


def held_modes(modes: Modes, detector: Detector, sensors: SensorLayer) -> HeldModes:
    """The forms of `optimizer.modes`, over the sensors that are free.

    Raises:
        ConfigError: a mode does not exist, or what is said of it is neither 0 nor a width.
    """
    none = sensors.theta.detach().new_zeros(0, *sensors.theta.shape)
    exact, penalties = [none], [none]
    amplitudes = ModeAmplitudes(detector, sensors.free.any(-1)) if modes else None
    for name, wanted in modes.items():
        assert amplitudes is not None
        sigma = mode_width(name, wanted)
        forms = theta_forms(sensors, amplitudes.forms[amplitudes.rows(name)])
        if sigma is None:
            exact.append(forms)
        else:
            penalties.append(forms / sigma)
    return HeldModes(torch.cat(exact), torch.cat(penalties))


def mode_width(name: str, wanted: float | Mapping[str, float]) -> float | None:
    """σ [cm] of what is said of a mode; None for exactly 0."""
    if _is_number(wanted) and wanted == 0:
        return None
    sigma: Any = wanted.get("sigma") if isinstance(wanted, Mapping) and set(wanted) == {"sigma"} else None
    if not _is_number(sigma) or not sigma > 0:
        raise ConfigError(
            f"optimizer.modes.{name} is {wanted}; expected 0 for none of it, or {{sigma: cm}} with sigma > 0"
        )
    return float(sigma)


def theta_forms(sensors: SensorLayer, forms: Tensor) -> Tensor:
    """Forms of local sixes (forms, sensors, 6) as forms of Θ (forms, sensors, dof)."""
    unit = torch.eye(6, dtype=forms.dtype, device=sensors.theta.device).expand(len(sensors), 6, 6)
    back = torch.linalg.pinv(theta_motions(sensors, unit))  # (sensors, 6, dof)
    return torch.einsum("ksi,sid->ksd", forms.to(back), back)


def absent(wanted: Sequence[str], detector: Detector, usual: Sequence[str], key: str) -> list[str]:
    """Levels that a detector lacks, where it may.

    Raises:
        ConfigError: a level that is not one of the usual ones either.
    """
    known = {name.lower() for name in detector.levels}
    unknown = [name for name in wanted if name.replace("_", "").lower() not in known]
    if strange := [name for name in unknown if name not in usual]:
        raise ConfigError(f"{key} has {strange}; {detector.name} has the levels {list(detector.levels)}")
    return unknown


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
