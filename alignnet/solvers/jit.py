"""`compiled` and `pays`, under the names by which solvers have them."""

from __future__ import annotations

from alignnet.physics.jit import compiled as compiled
from alignnet.physics.jit import pays as pays
