"""What tests of trainings share."""

from __future__ import annotations

import pytest

from alignnet.sensors.composition import Composition


@pytest.fixture
def first_order(monkeypatch) -> None:
    """Volumes carry sensors to first order in angles, so that a step can be compared with its matrix."""
    monkeypatch.setattr(Composition, "_moved", lambda self, own, sixes: own + self._linear(sixes))
