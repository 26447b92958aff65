"""Fixtures of several tests of the server."""

from __future__ import annotations

import pytest

from mlmodel_server.compile import timing


@pytest.fixture
def compiled_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose each compiled model that answers the same: on a busy machine, a small gain may not be measured."""
    monkeypatch.setattr(timing, "faster", lambda *_: True)
