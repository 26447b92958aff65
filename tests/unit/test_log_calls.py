"""Every log call is an event in a few words with its values as fields, as the formatter and log queries require."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

import mlmodel_operator
import mlmodel_server

PACKAGES = [Path(str(package.__file__)).parent for package in (mlmodel_operator, mlmodel_server)]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
RESERVED = {*vars(logging.makeLogRecord({})), "message", "asctime", "time", "level", "from", "msg"}
MODULES = [
    path for package in PACKAGES for path in sorted(package.rglob("*.py")) if "import logging" in path.read_text()
]


def log_calls(tree: ast.AST) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and ast.unparse(node.func.value) in ("logger", "logging")
    ]


def keys(tree: ast.AST, extra: ast.expr) -> list[str]:
    """Return the keys of ``extra``: a dictionary, or a name to which one is assigned in the same module."""
    values: list[ast.expr] = [extra] if isinstance(extra, ast.Dict) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [ast.unparse(extra)]:
            values.append(node.value)
    assert values, ast.unparse(extra)
    found = []
    for value in values:
        assert isinstance(value, ast.Dict), ast.unparse(value)
        found += [ast.literal_eval(key) for key in value.keys if key is not None]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_log_call_is_a_plain_event_with_its_values_in_extra(path: Path) -> None:
    # The formatter of the operator adds the model of a reconcile itself.
    reserved = RESERVED | ({"model"} if mlmodel_operator.__name__ in path.parts else set())
    tree = ast.parse(path.read_text())
    for call in log_calls(tree):
        event = ast.unparse(call)
        assert len(call.args) == 1, event
        assert isinstance(call.args[0], ast.Constant), event
        assert "%" not in str(call.args[0].value), event
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        assert set(given) <= {"extra", "exc_info"}, event
        if "extra" in given:
            assert not reserved & set(keys(tree, given["extra"])), event


def test_loggers_have_one_name_and_the_calls_are_found() -> None:
    found = 0
    for path in MODULES:
        text = path.read_text()
        calls = log_calls(ast.parse(text))
        found += len(calls)
        assert not calls or "\nlogger = logging.getLogger(__name__)\n" in text, path
    assert found > 10
