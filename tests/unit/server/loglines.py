"""Log lines as the server writes them, from what pytest captured."""

from __future__ import annotations

import pytest

from mlmodel_server.startup.log import LineFormatter


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the event and the values of every line, without time, level and logger."""
    return [LineFormatter().format(record).partition(" msg=")[2] for record in caplog.records]
