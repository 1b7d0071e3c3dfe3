"""What the tests of track finding in ITS2 share."""

from __future__ import annotations

import pytest
from its2_events import drawn

from alignnet.trackfinding.its2.events import Events


@pytest.fixture(scope="session")
def few() -> Events:
    """Two events of 40 tracks with noise."""
    return drawn(40, n_events=2)
