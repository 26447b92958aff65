"""Reasons: one module declares them, all others use its constants."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import mlmodel_operator
from mlmodel_operator.api import reasons, reference
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Outcome, Phase
from mlmodel_operator.rollout.evidence.errors import Verdict
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.pod_failures import Failure
from mlmodel_operator.rollout.readiness import Readiness

PACKAGE = Path(mlmodel_operator.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in PACKAGE.rglob("*.py")
    if path != Path(reasons.__file__)
}
CONDITIONS = {"Ready", "Available", "Reconciling", "Stalled", "RolledBack", "Paused", "OutdatedImage"}
OTHER_MEANING = {*get_args(Phase), *get_args(Outcome), *CONDITIONS}
"""Words that are also a phase, an outcome or the type of a condition; mypy rejects them as a reason (see below)."""


def literals() -> Iterator[tuple[str, str]]:
    """Yield every string in the operator, with its module."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield name, node.value


def test_no_other_module_contains_a_reason() -> None:
    words = {str(reason) for reason in Reason} - OTHER_MEANING
    assert len(words) > 15
    assert [(name, text) for name, text in literals() if text in words] == []


@pytest.mark.parametrize("holder", [Notice, Failure, Verdict, Readiness])
def test_mypy_rejects_a_literal_as_a_reason(holder: type) -> None:
    assert get_type_hints(holder)["reason"] is Reason


def test_no_call_passes_a_literal_reason() -> None:
    given = [
        (name, keyword.value.value)
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant)
    ]
    assert given == []


def test_every_reason_is_used() -> None:
    used = {
        node.attr
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    assert used == set(Reason.__members__)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_one_word_with_sentences_and_in_the_reference(reason: Reason) -> None:
    assert re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)*", reason)
    assert reason.meaning.endswith(".")
    assert reason.action.endswith(".")
    assert f"| `{reason}` | {reason.meaning} | {reason.action} |" in reference.page()


def test_every_reason_is_expected_by_a_test_that_reaches_it() -> None:
    folder = Path(__file__).parents[3]
    texts = [path.read_text() for path in folder.rglob("*.py") if path != Path(__file__)]
    named = {
        reason for reason in Reason if any(f'"{reason}"' in text or f"Reason.{reason.name}" in text for text in texts)
    }
    assert set(Reason) - named == set()
