"""What the server measures before it serves."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, rows_of
from mlmodel_server.errors import RequestError, UsageError
from mlmodel_server.formats.opened import Table
from mlmodel_server.manifest import Signature
from mlmodel_server.startup import assemble
from mlmodel_server.startup.options import parse
from mlmodel_server.tensors import Array, TensorSpec

BASE, PER_ROW = 0.02, 0.00001


@pytest.mark.parametrize(("per_row", "measured"), [(PER_ROW, 64), (0.02, 20)])
def test_a_model_that_takes_long_for_any_number_of_rows_is_measured_with_many(
    monkeypatch: pytest.MonkeyPatch, per_row: float, measured: int
) -> None:
    """With a few rows, the noise of 20 ms would be the cost of a row, and the server would shed requests that it has
    time for. A model that takes long for each row is not measured with more than 0.1 s of them."""
    predicted: list[int] = []

    def functions(table: Table, _: Sequence[str]) -> list[Array]:
        predicted.append(rows_of(table))
        return [np.zeros(rows_of(table))]

    def seconds(predict: Callable[[], object]) -> float:
        predict()
        noise = 0.005 if 1 < predicted[-1] < 10 else 0.0
        return BASE + per_row * predicted[-1] + noise

    monkeypatch.setattr(assemble, "measure", seconds)
    signature = Signature("matrix", (TensorSpec("x", "FP64", (-1, 3)),), (TensorSpec("predict", "FP64", (-1,)),))
    model = Model(functions, signature)
    cost = assemble._cost(model, selftest.blank_body(model))
    assert max(predicted) <= measured
    assert cost.per_row == pytest.approx(per_row, rel=0.7)


def test_a_model_that_takes_seconds_for_a_row_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start took eight predictions, for one of twelve seconds over a minute and a half."""
    measured: list[Callable[[], object]] = []

    def seconds(predict: Callable[[], object]) -> float:
        measured.append(predict)
        return 12.0

    monkeypatch.setattr(assemble, "measure", seconds)
    signature = Signature("matrix", (TensorSpec("x", "FP64", (-1, 3)),), (TensorSpec("predict", "FP64", (-1,)),))
    model = Model(lambda table, _: [np.zeros(rows_of(table))], signature)
    cost = assemble._cost(model, selftest.blank_body(model))
    assert len(measured) == 1
    assert (cost.seconds(1), cost.seconds(5)) == (12.0, 60.0)


@pytest.mark.attack
def test_a_feedback_key_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    arguments = argparse.Namespace(name="fraud", feedback_key=path)
    path.write_bytes(b"x" * 31)
    with pytest.raises(UsageError, match="has 31 bytes, fewer than 32: make one with `openssl rand -hex 32`"):
        assemble._feedback_key(arguments)
    path.write_bytes(b"x" * 32)
    assert assemble._feedback_key(arguments) != assemble._feedback_key(argparse.Namespace(name="f", feedback_key=None))


@pytest.mark.attack
@pytest.mark.parametrize(
    ("options", "host", "is_answered"),
    [
        (["--host", "127.0.0.1"], "evil.example", False),
        (["--host", "127.0.0.1"], "localhost", True),
        (["--host", "127.0.0.2"], "127.0.0.2", True),
        (["--host", "::1"], "evil.example", False),
        (["--host", "[::1]"], "[::1]", True),
        (["--host", "localhost"], "evil.example", False),
        ([], "fraud.default.svc", True),
        (["--host", "0.0.0.0"], "10.0.0.7", True),
        (["--host", "127.0.0.1", "--allowed-hosts", "my.machine,localhost"], "my.machine", True),
        (["--host", "127.0.0.1", "--allowed-hosts", "my.machine"], "127.0.0.1", False),
        (["--host", "127.0.0.1", "--allowed-hosts", "any"], "evil.example", True),
        (["--allowed-hosts", "fraud.default.svc"], "evil.example", False),
    ],
)
def test_the_names_of_a_server_depend_on_who_can_connect(options: list[str], host: str, is_answered: bool) -> None:
    hosts = assemble.hosts_of(parse(["--name", "m", "--uri", "builtin://iris", *options]))
    try:
        if hosts:
            hosts.check("GET", {b"host": host.encode() + b":8080"})
        assert is_answered
    except RequestError:
        assert not is_answered
