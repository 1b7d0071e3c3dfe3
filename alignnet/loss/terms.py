"""Terms of the objective that are not made of tracks: surveys, and whatever a user can write in torch.

A term is called with the sensors' local six (sensors, 6) [cm, rad], in the graph, and returns either its
residuals in units of σ, a vector r that adds ½|r|² to the objective, or a number c that adds ½c (a χ²).
Gradients come by automatic differentiation.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignnet.errors import AlignnetError, ConfigError
from alignnet.geometry import rigid
from alignnet.sensors.parametrisation import Affine
from alignnet.sensors.sensor import SensorLayer

TermFunction = Callable[[Tensor], Tensor]
"""(sensors, 6) → (residuals,) or ()."""


class Value(NamedTuple):
    """A term at a point."""

    name: str
    weight: float
    value: Tensor  # residuals (residuals,), or χ² (), in the graph of Θ

    @property
    def chi2(self) -> Tensor:
        """Its weighted χ², in the graph."""
        return self.weight * (self.value.square().sum() if self.value.dim() else self.value)


class Terms(nn.Module):
    """Terms by name, each with a weight.

    Args:
        functions: the terms; what of them is an `nn.Module` moves with the training to its device.
        weights: 1 where nothing is said.
    """

    def __init__(
        self,
        functions: Mapping[str, TermFunction] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.functions = dict(functions or {})
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in self.functions}
        modules = {name: one for name, one in self.functions.items() if isinstance(one, nn.Module)}
        self.modules_ = nn.ModuleDict(modules)
        for name, weight in self.weights.items():
            if not weight > 0:
                raise ConfigError(f"loss.terms.{name}.weight is {weight}; expected a number > 0")

    def __len__(self) -> int:
        return len(self.functions)

    def at(self, sensors: SensorLayer, theta: Tensor | None = None) -> list[Value]:
        """Each term at Θ (sensors, dof), by default the sensors' own, in its graph.

        Raises:
            ConfigError: a term raises an error, or returns something else than a vector or a number, not
                finite, or without a gradient; or the sensors are `affine`, which have no six.
        """
        if not len(self):
            return []
        local = local_six(sensors, sensors.theta if theta is None else theta)
        return [
            Value(name, self.weights[name], _checked(name, _called(name, function, local)))
            for name, function in self.functions.items()
        ]

    def chi2(self, sensors: SensorLayer) -> Tensor:
        """Σ w |r|², in the graph of Θ."""
        values = [one.chi2 for one in self.at(sensors)]
        return torch.stack(values).sum() if values else sensors.theta.new_zeros(())


def local_six(sensors: SensorLayer, theta: Tensor) -> Tensor:
    """The local six (sensors, 6) in the graph of Θ; what is fixed has no gradient.

    Raises:
        ConfigError: the sensors are `affine`.
    """
    if isinstance(sensors.parametrisation, Affine):
        raise ConfigError("loss.terms need rigid sensors; set sensors.parametrisation=local or global")
    theta = torch.where(sensors.free, theta, theta.detach())
    if sensors.parametrisation.names == rigid.LOCAL_NAMES:
        return theta
    slope, offset = sensors.affine_map(sensors.parametrisation.phi(theta, sensors.frame))
    axes = slope / sensors.half_length[..., None, :]
    u, v = axes.unbind(-1)
    rotation = torch.stack([u, torch.linalg.cross(v, u), v], -1)
    origin = offset - (axes @ sensors.centre[..., None]).squeeze(-1)
    return rigid.local_of(sensors.rotation, sensors.translation, rotation, origin)


def _called(name: str, function: TermFunction, local: Tensor) -> Tensor:
    """What a term says; an error of a stranger's code is told with the term's name and the code's line."""
    try:
        return function(local)
    except (AlignnetError, MemoryError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}, line {last.lineno}"
        raise ConfigError(f"loss.terms.{name} raised {type(error).__name__}: {error} ({where})") from error


def _checked(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() > 1:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(
            f"loss.terms.{name} returned {found}; expected a vector of residuals over σ, or a χ², a number"
        )
    if not value.requires_grad:
        raise ConfigError(f"loss.terms.{name} has no gradient: it does not depend on sensors that are free")
    if not bool(value.detach().isfinite().all()):
        raise ConfigError(f"loss.terms.{name} is not finite where the sensors stand")
    return value
