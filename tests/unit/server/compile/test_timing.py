"""How long a model and its compiled form are timed."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlmodel_server.compile import timing
from mlmodel_server.compile.verdict import Times
from mlmodel_server.formats.opened import Functions, Table


@pytest.mark.parametrize(
    ("original", "compiled", "rounds"),
    [
        (700, 100, timing.ENOUGH),
        (100, 700, timing.ENOUGH),
        (110, 100, 1000),
        (400, 100, 400),  # decisive, but some noise more or less and it is not
    ],
)
def test_a_clear_difference_is_not_timed_any_longer(
    monkeypatch: pytest.MonkeyPatch, original: float, compiled: float, rounds: int
) -> None:
    now, calls = 0.0, 0
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))

    def taking(microseconds: float) -> Functions:
        def functions(table: Table, _outputs: Sequence[str], /) -> list[Any]:
            nonlocal now, calls
            now += microseconds / 1e6
            calls += 1
            return [table]

        return functions

    seconds = rounds * 4 * (original + compiled) / 1e6 if rounds > timing.ENOUGH else 1.0
    times = timing.measure(taking(original), taking(compiled), np.zeros((3, 2)), seconds)
    assert times == (Times(original, original), Times(compiled, compiled))
    assert calls == pytest.approx(4 + 8 * rounds, abs=8)
