"""Log lines: one for each message, as key=value."""

from __future__ import annotations

import logging
import sys

from mlmodel_server.startup.log import LineFormatter


def record(message: str, *, error: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("the reason")
    except ValueError:
        info = sys.exc_info() if error else None
    made = logging.LogRecord("mlmodel_server.x", logging.WARNING, __file__, 1, message, (), info)
    made.created = 1700000000.25
    return made


def test_a_line_has_time_level_logger_and_message() -> None:
    line = LineFormatter().format(record('said "no"\nand more'))
    assert line == ('time=2023-11-14T22:13:20.250Z level=warning from=mlmodel_server.x msg="said \\"no\\"\\nand more"')


def test_a_traceback_stays_in_the_line() -> None:
    line = LineFormatter().format(record("failed", error=True))
    assert "Traceback" in line
    assert "ValueError: the reason" in line
    assert "\n" not in line
