"""The design of the census covers the pairs that it names, and its verdicts survive a round trip."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from hack.census import design, results
from hack.census.models import BY_NAME
from hack.census.verdicts import Case, Verdict

CHOSEN = cache(design.pairwise)


def test_the_design_covers_every_pair_of_two_factors() -> None:
    def pairs(cases: list[Case]) -> set[design.Pair]:
        return {pair for case in cases for pair in design.pairs_of(BY_NAME[case.row], case)}

    assert pairs(design.every()) <= pairs(CHOSEN())


def test_the_design_is_the_same_each_time() -> None:
    assert CHOSEN() == design.pairwise()


def test_a_verdict_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FILE", tmp_path / "results.tsv")
    verdicts = {
        Case("Ridge", "float64", "joblib", True, True): Verdict("right", "", True),
        Case("Ridge", "float64", "skops", False, False): Verdict("refused", "save it as joblib"),
        Case("SVC (linear)", "mixed", "mlflow", False, False): Verdict("wrong", "predict differs"),
    }
    results.write(verdicts, {"numpy": "2.4"})
    assert results.read() == (verdicts, {"numpy": "2.4"})
