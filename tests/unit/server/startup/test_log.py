"""Log lines: one for each event, as key=value."""

from __future__ import annotations

import logging
import sys

from mlmodel_server.startup.log import BURST, INTERVAL, LineFormatter, Sparse


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


def test_the_values_of_an_event_follow_it_and_those_of_a_library_do_not() -> None:
    ours = record("ready")
    vars(ours).update(port=8080, seconds=1.23456, error='no "file"')
    assert LineFormatter().format(ours).endswith('msg="ready" port=8080 seconds=1.23 error="no \\"file\\""')
    ours.name = "uvicorn.error"
    assert LineFormatter().format(ours).endswith('msg="ready"')


def test_a_traceback_stays_in_the_line() -> None:
    line = LineFormatter().format(record("failed", error=True))
    assert "Traceback" in line
    assert "ValueError: the reason" in line
    assert "\n" not in line


def test_characters_that_a_terminal_interprets_are_escaped() -> None:
    ours = record("m\x1b[31m")
    vars(ours).update(value="a\x1b\x7f\x9b\u2028\u202e\U000e0001\u00e4")
    line = LineFormatter().format(ours)
    assert line.isprintable()
    assert line.endswith('msg="m\\u001b[31m" value="a\\u001b\\u007f\\u009b\\u2028\\u202e\\udb40\\udc01\u00e4"')


def test_one_place_in_the_code_cannot_fill_the_log() -> None:
    now = [0.0]
    sparse = Sparse(lambda: now[0])
    assert sum(sparse.filter(record("again")) for _ in range(1000)) == BURST
    other = record("other")
    other.lineno = 2
    assert sparse.filter(other), "another place has its own lines"
    now[0] += INTERVAL
    other = record("again")
    other.name = "uvicorn.error"
    assert sparse.filter(other)
    assert LineFormatter().format(other).endswith('msg="again" more_since_last_line=990')
    assert not sparse.filter(record("again"))
    now[0] += 100 * INTERVAL
    assert sum(sparse.filter(record("again")) for _ in range(1000)) == BURST
