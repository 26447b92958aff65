"""How often the gates on pairs and labels are wrong, and how fast they decide: a part of bench/gates.py."""

from __future__ import annotations

import statistics

import pytest

from bench import gates
from bench.gates import SEED, Noise, Test, World, decided_at

pytestmark = pytest.mark.simulation


def rejected(world: World, test: Test, runs: int) -> list[int]:
    """Return after how many pairs the runs that are rejected are."""
    found = (decided_at(world, test, SEED + run) for run in range(runs))
    return [number for number in found if number is not None]


@pytest.mark.parametrize(("rate", "both"), [(0.0, 0.3), (0.02, 0.0), (0.1, 0.0)])
def test_identical_versions_in_a_flaky_environment_are_not_rejected(rate: float, both: float) -> None:
    assert rejected(gates.outcomes(rate, rate, both), gates.fails(), 6) == []


@pytest.mark.parametrize(
    ("rate", "stable", "both", "at_most"), [(1.0, 0.0, 0.0, 8), (0.5, 0.0, 0.0, 20), (0.2, 0.0, 0.0, 65)]
)
def test_a_version_that_fails_is_rejected_with_few_pairs(rate: float, stable: float, both: float, at_most: int) -> None:
    found = rejected(gates.outcomes(rate, stable, both), gates.fails(), 15)
    assert len(found) == 15
    assert statistics.median(found) <= at_most


@pytest.mark.parametrize("noise", [Noise(), Noise(noisy="candidate"), Noise(0.5, noisy="candidate")])
def test_times_of_identical_versions_differ_only_by_noise(noise: Noise) -> None:
    assert rejected(gates.times(1.0, noise=noise), gates.is_slow(), 6) == []


def test_a_version_that_takes_twice_as_long_is_rejected_with_few_pairs() -> None:
    found = rejected(gates.times(2.0), gates.is_slow(), 101)
    assert len(found) == 101
    assert statistics.median(found) <= 40


def test_a_model_that_is_not_deterministic_is_compared_with_itself() -> None:
    random = gates.labels(1.0, classes=(0.1,) * 10, random_share=1.0)
    assert rejected(random, gates.disagrees(), 6) == []
    assert rejected(gates.labels(1.0, random_share=0.5), gates.disagrees(95), 6) == []


@pytest.mark.parametrize(
    ("world", "at_most"),
    [
        (gates.labels(0.0), 16),
        (gates.labels(0.1, classes=(0.1,) * 10), 30),
        (gates.constant(0.5), 110),
    ],
)
def test_absurd_answers_are_rejected_with_few_pairs(world: World, at_most: int) -> None:
    found = rejected(world, gates.disagrees(), 11)
    assert len(found) == 11
    assert statistics.median(found) <= at_most


def test_labels_that_are_wrong_more_often_roll_a_version_back() -> None:
    worse = [gates.labelled(SEED + run, 0.8, 0.9) for run in range(25)]
    assert None not in worse
    assert statistics.median(number for number in worse if number) <= 600
    assert [gates.labelled(SEED + run, 0.9, 0.9) for run in range(2)] == [None, None]
