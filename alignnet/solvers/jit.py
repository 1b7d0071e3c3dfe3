"""`compiled`, under the name by which solvers have it."""

from __future__ import annotations

from alignnet.physics.jit import compiled as compiled
