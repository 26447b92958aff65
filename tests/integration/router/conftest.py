"""Every test of the router runs on two versions of HAProxy."""

from __future__ import annotations

import pytest

from hack.haproxy import SUITES


@pytest.fixture(params=SUITES)
def version(request: pytest.FixtureRequest) -> str:
    """Which HAProxy: the one that we ship, or the oldest that we support."""
    found: str = request.param
    return found
