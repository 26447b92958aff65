"""One log line per event, with the name of the model."""

from __future__ import annotations

import logging
import sys

import pytest

from mlmodel_operator.runtime.log import LineFormatter, current_key


def record(name: str, message: str, *, error: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("the reason")
    except ValueError:
        info = sys.exc_info() if error else None
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, (), info)


def test_a_line_has_the_model_during_its_reconcile() -> None:
    formatter = LineFormatter()
    token = current_key.set(("ns", "fraud"))
    try:
        line = formatter.format(record("mlmodel_operator.x", 'said "no"\nand more'))
    finally:
        current_key.reset(token)
    assert 'level=warning from=mlmodel_operator.x model=ns/fraud msg="said \\"no\\"\\nand more"' in line
    assert "model=" not in formatter.format(record("mlmodel_operator.x", "m"))


def test_the_values_of_an_event_follow_it_quoted_if_necessary() -> None:
    values = {
        "pod": "fraud-1",
        "error": ValueError("no such\nthing"),
        "delay_seconds": 1.23456,
        "empty": "",
        "a": "b=c",
    }
    named = logging.getLogger("mlmodel_operator.x")
    event = named.makeRecord(named.name, logging.INFO, __file__, 1, "new routes", (), None, extra=values)
    line = LineFormatter().format(event)
    assert line.endswith('msg="new routes" pod=fraud-1 error="no such\\nthing" delay_seconds=1.23 empty="" a="b=c"')
    event.name = "library.x"  # its values may be whole objects
    assert LineFormatter().format(event).endswith('msg="new routes"')


def test_our_tracebacks_stay_in_the_line_and_those_of_a_library_are_reduced_to_the_error() -> None:
    ours = LineFormatter().format(record("mlmodel_operator.x", "failed", error=True))
    theirs = LineFormatter().format(record("library.x", "failed", error=True))
    assert "Traceback" in ours
    assert "\n" not in ours
    assert "Traceback" not in theirs
    assert "ValueError: the reason" in theirs


@pytest.mark.attack(held=True)
def test_characters_that_a_terminal_interprets_are_escaped() -> None:
    ours = record("mlmodel_operator.x", "m\x1b[31m")
    vars(ours).update(value="a\x1b\x7f\x9b\u2028\u202e\U000e0001\u00e4")
    line = LineFormatter().format(ours)
    assert line.isprintable()
    assert line.endswith('msg="m\\u001b[31m" value="a\\u001b\\u007f\\u009b\\u2028\\u202e\\udb40\\udc01\u00e4"')
