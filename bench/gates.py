"""The gates on pairs and on labels: how often they reject a good version, and how many pairs or labels they need.

Every run is evaluated after each of the first pairs, and then after each tenth one. The worlds are models: failures are
independent, times are log-normal with outliers and a noisy node, labels are drawn at random.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mlmodel_operator.api.evidence import Again, Agreement, Labels, LabelSides, Mark, Outcomes, Pairs, QualityState
from mlmodel_operator.api.types import AgreementGate, Gates, LatencyGate, QualityGate
from mlmodel_operator.rollout.evidence import agreement, chain, late, latency, pairs, quality

SEED = 20260106
PAIRS = 1000
"""Pairs of a rehearsal: the default of spec.rollout.rehearsal.requests."""

FIRST = 60
"""Pairs after each of which a run is evaluated."""

World = Callable[[random.Random], Iterator[Pairs]]
"""Yields the counts after each pair of a run."""
Test = Callable[[Pairs], bool]
"""Whether the candidate is rejected, or certified."""


def decided_at(world: World, test: Test, seed: int, *, most: int = PAIRS) -> int | None:
    """Return after how many pairs a run is decided; None if it is not."""
    for number, found in enumerate(world(random.Random(seed)), 1):
        if (number <= FIRST or number % 10 == 0) and test(found):
            return number
        if number == most:
            break
    return None


# --------------------------------------------------------------------------------------------------------------- errors


def outcomes(candidate: float, stable: float, both: float = 0.0) -> World:
    """Return a world in which the sides fail at random and independently, and ``both`` is the share of requests that
    both fail."""

    def world(rng: random.Random) -> Iterator[Pairs]:
        counts = [0, 0, 0, 0]
        while True:
            poison = rng.random() < both
            own, others = poison or rng.random() < candidate, poison or rng.random() < stable
            counts[own + 2 * others] += 1
            yield Pairs(pairs=Outcomes(*counts))

    return world


def fails(max_percent: float = 1.0) -> Test:
    """Return the test of the error gate."""
    return lambda found: pairs.judge(found, max_percent=max_percent).is_decisive


def certifies(limit: float) -> Test:
    """Return the certification of a limit."""
    return lambda found: pairs.is_certified(found, limit)


# -------------------------------------------------------------------------------------------------------------- latency


@dataclass(frozen=True)
class Noise:
    """What disturbs times beside the model."""

    sigma: float = 0.2
    """Standard deviation of the logarithm of each time."""
    outliers: float = 0.05
    """Share of the times of each side that are ten times as long."""
    noisy: str = ""
    """Side whose node doubles all times of a quarter of the pairs."""
    together: int = 1
    """How many of these pairs follow each other."""


QUIET = Noise()


def times(factor: float, base: float = 0.01, noise: Noise = QUIET) -> World:
    """Return a world in which stable takes ``base`` seconds in the median, and the candidate ``factor`` times as long;
    two of three requests are at most twice as large or as small as the median one."""

    def world(rng: random.Random) -> Iterator[Pairs]:
        ratios: Counter[str] = Counter()
        noisy = [rng.random() < 0.25 for _ in range(PAIRS // noise.together + 1)]

        def time(side: str, size: float, number: int) -> float:
            disturbed = noise.noisy == side and noisy[number // noise.together]
            outlier = 10.0 if rng.random() < noise.outliers else 1.0
            return size * rng.lognormvariate(0.0, noise.sigma) * outlier * (2.0 if disturbed else 1.0)

        for number in range(PAIRS):
            size = base * rng.lognormvariate(0.0, 0.7)
            own, others = time("candidate", factor * size, number), time("stable", size, number)
            ratio = (1e6 * own + 500.0) / (1e6 * others + 500.0)
            ratios[str(max(min(round(math.log(ratio) / math.log(latency.RATIO)), 100), -100))] += 1
            yield Pairs(ratios=ratios)

    return world


def is_slow(per_second: float = 0.0) -> Test:
    """Return the test of the latency gate, with its defaults; ``per_second`` pairs are counted in each second."""

    def test(found: Pairs) -> bool:
        is_early = sum(found.ratios.values()) < latency.LEAST_SECONDS * per_second
        return not is_early and latency.judge(found, LatencyGate()).is_decisive

    return test


# ------------------------------------------------------------------------------------------------------------ agreement


def labels(same: float, *, classes: tuple[float, ...] = (0.5, 0.5), random_share: float = 0.0) -> World:
    """Return a world in which stable's labels have these shares, and the candidate gives the same label for ``same`` of
    the requests. ``random_share`` is the share of its answers that each version draws at random, again each time."""

    def world(rng: random.Random) -> Iterator[Pairs]:
        own_modes: Counter[int] = Counter()
        modes: Counter[int] = Counter()
        equal, again = 0, Again()
        numbers = range(len(classes))
        for number in range(1, PAIRS + 1):
            truth = rng.choices(numbers, classes)[0]

            def answer(label: int) -> int:
                return rng.choices(numbers, classes)[0] if rng.random() < random_share else label

            other = (truth + rng.randrange(1, len(classes))) % len(classes)
            own, others = answer(truth if rng.random() < same else other), answer(truth)
            if number <= 20 or rng.random() < 0.1:
                again += Again(1, others != answer(truth))
            equal += own == others
            modes[own] += 1
            own_modes[others] += 1
            agree = Agreement(number, equal, 0, max(modes.values()), max(own_modes.values()))
            yield Pairs(agree=agree, again=again)

    return world


def constant(share: float) -> World:
    """Return a world in which stable gives two labels, one of them for ``share`` of the requests, and the candidate
    always the other."""

    def world(rng: random.Random) -> Iterator[Pairs]:
        rare = 0
        for number in range(1, PAIRS + 1):
            rare += rng.random() < share
            yield Pairs(agree=Agreement(number, number - rare, 0, number, max(rare, number - rare)))

    return world


def disagrees(minimum: float | None = None) -> Test:
    """Return the test of the agreement gate."""
    return lambda found: agreement.judge(found, AgreementGate(minimum)).is_decisive


# -------------------------------------------------------------------------------------------------------------- quality

MAX_DROP = 0.02
STEPS = ((150, 5), (350, 25), (PAIRS * 10, 50))
"""Labels of the candidate until which it has a weight: those of a rollout with the default steps."""
Harder = Callable[[int], float]


def easy(_: int) -> float:
    """All requests are as hard."""
    return 0.0


def rising(number: int) -> float:
    """Requests become harder while the weight rises."""
    return min(number / 2000.0, 0.25)


def waves(number: int) -> float:
    """Requests become harder and easier."""
    return 0.08 * math.sin(number / 40.0)


def labelled(
    seed: int, candidate: float, stable: float, *, steps: tuple[tuple[int, int], ...] = STEPS, harder: Harder = easy
) -> int | None:
    """Return after how many labels of the candidate it is rolled back, of at most 2000; None if it is not.

    Labels are read after each fifth one of the candidate. ``harder`` is by how much both versions are right less often
    after some labels of the candidate.
    """
    rng, gate = random.Random(seed), QualityGate(max_drop=MAX_DROP)
    state, counts = QualityState(), [0, 0, 0, 0]
    number = 0
    while number < 2000:
        weight = next(weight for until, weight in steps if number < until)
        is_own = rng.random() < weight / 100
        right = rng.random() < (candidate if is_own else stable) - harder(number)
        counts[0 if is_own else 2] += 1
        counts[1 if is_own else 3] += right
        number += is_own
        if is_own and number % 5 == 0:
            block = LabelSides(Labels(*counts[:2]), Labels(*counts[2:]))
            state, counts = quality.add(state, {str(weight): block}, max_drop=MAX_DROP), [0, 0, 0, 0]
            if quality.judge(state, gate).is_decisive:
                return number
    return None


# --------------------------------------------------------------------------------------------------------- late changes

PER_SECOND = 10.0
"""Pairs per second, if a case has no others."""


def joined(before: World, after: World, at: int) -> World:
    """Return a world that changes after ``at`` pairs."""

    def world(rng: random.Random) -> Iterator[Pairs]:
        last = Pairs()
        for number, found in enumerate(before(rng), 1):
            if number > at:
                break
            last = _counted(found, number)
            yield last
        for number, found in enumerate(after(rng), 1):
            yield last + _counted(found, number)

    return world


def _counted(found: Pairs, number: int) -> Pairs:
    """Return the counts with ``number`` outcomes, if they have none."""
    return found if found.pairs.all else replace(found, pairs=Outcomes(number))


def found_at(
    world: World, seed: int, per_second: float, *, has_marks: bool = True, most: int = 2 * PAIRS
) -> int | None:
    """Return after how many pairs a run is decided by any gate, with or without the tests of late changes."""
    marks: tuple[Mark, ...] = ()
    for number, found in enumerate(world(random.Random(seed)), 1):
        if number % 20 == 0:
            counts, now = _counted(found, number), number / per_second
            marks = late.marked(marks, counts, now) if has_marks else ()
            if chain.judge(counts, Gates(), seconds=now, later=late.windows(marks, counts, now)):
                return number
        if number == most:
            break
    return None


def late_changes(runs: int) -> None:
    """Print how soon a change is found, with and without marks, and how often none is."""
    for name, world, per_second in LATE:
        few = max(runs // 20, 1)
        for has_marks in (False, True) if "identical" not in name else (True,):
            number = runs if "identical" in name else few
            found = [found_at(world, SEED + run, per_second, has_marks=has_marks) for run in range(number)]
            _print(f"late changes, {name}, {'with' if has_marks else 'without'} marks", found)


# --------------------------------------------------------------------------------------------------------------- tables


def main(runs: int = 100) -> None:
    """Print the tables of all gates; each case of a version that is decided soon has a fifth of the runs."""
    print(f"gates, at most {PAIRS} pairs, seeds {SEED} to {SEED + runs - 1}")
    fewer = max(runs // 5, 1)
    for own, others, both in ERRORS:
        name = f"candidate fails {100 * own:g} %, stable {100 * others:g} %, both {100 * both:g} %"
        _row(f"errors: {name}", outcomes(own, others, both), fails(), runs if own == others else fewer)
    for own, others, limit in CERTIFIED:
        name = f"candidate fails {100 * own:g} %, stable {100 * others:g} %, limit {100 * limit:g} %"
        world, test = outcomes(own, others), certifies(limit)
        _print(
            f"certification: {name}",
            [
                decided_at(world, test, SEED + run, most=2 * PAIRS)
                for run in range(runs if own - others >= limit else fewer)
            ],
            "certified",
        )
    for name, factor, base, noise, per_second in TIMES:
        _row(f"latency: {name}", times(factor, base, noise), is_slow(per_second), runs if factor == 1.0 else fewer)
    for name, world, minimum in ANSWERS:
        _row(f"agreement: {name}", world, disagrees(minimum), runs if name.startswith("identical") else fewer)
    for own, others, steps, harder in QUALITY:
        number = runs if round(others - own, 9) <= MAX_DROP else fewer
        found = [labelled(SEED + run, own, others, steps=steps, harder=harder) for run in range(number)]
        weights = ", ".join(str(weight) for _, weight in steps)
        name = f"stable is right in {100 * others:g} %, candidate {100 * own:g} %, weights {weights}, {harder.__name__}"
        _print(f"quality: {name}", found)
    late_changes(runs)


def _row(name: str, world: World, test: Test, runs: int) -> None:
    _print(name, [decided_at(world, test, SEED + run) for run in range(runs)])


def _print(name: str, found: list[int | None], what: str = "rejected") -> None:
    hits = [number for number in found if number is not None]
    median = f", median {statistics.median(hits):g}" if hits else ""
    print(f"{name}: {len(hits)} of {len(found)} {what}{median}", flush=True)


ERRORS = (
    *((rate, rate, 0.0) for rate in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)),
    (0.0, 0.0, 0.3),
    (1.0, 0.0, 0.0),
    (1.0, 0.05, 0.0),
    (0.5, 0.0, 0.0),
    (0.2, 0.0, 0.0),
    (0.2, 0.0, 0.3),
    (0.1, 0.0, 0.0),
    (0.05, 0.0, 0.0),
)
CERTIFIED = (
    (0.0, 0.0, 0.04),
    (0.0, 0.0, 0.02),
    (0.0, 0.0, 0.01),
    (0.001, 0.0, 0.01),
    (0.005, 0.0, 0.01),
    (0.01, 0.01, 0.01),
    (0.03, 0.03, 0.01),
    (0.03, 0.03, 0.04),
    (0.01, 0.0, 0.01),
    (0.02, 0.01, 0.01),
    (0.04, 0.0, 0.04),
)
TIMES = (
    ("identical", 1.0, 0.01, Noise(), 0.0),
    ("identical, candidate on a noisy node", 1.0, 0.01, Noise(noisy="candidate"), 0.0),
    ("identical, stable on a noisy node", 1.0, 0.01, Noise(noisy="stable"), 0.0),
    ("identical, candidate on a noisy node, times vary more", 1.0, 0.01, Noise(0.5, noisy="candidate"), 0.0),
    ("identical, noisy for 20 pairs each, 5 pairs per second", 1.0, 0.01, Noise(noisy="candidate", together=20), 5.0),
    (
        "identical, noisy for 100 pairs each, 50 pairs per second",
        1.0,
        0.001,
        Noise(noisy="candidate", together=100),
        50.0,
    ),
    ("20 % slower", 1.2, 0.01, Noise(), 0.0),
    ("40 % slower", 1.4, 0.01, Noise(), 0.0),
    ("twice as slow", 2.0, 0.01, Noise(), 0.0),
    ("twice as slow, candidate on a noisy node", 2.0, 0.01, Noise(noisy="candidate"), 0.0),
    ("twice as slow, stable on a noisy node", 2.0, 0.01, Noise(noisy="stable"), 0.0),
    ("twice as slow, times vary less", 2.0, 0.01, Noise(0.1), 0.0),
    ("twice as slow, times vary more", 2.0, 0.01, Noise(0.5), 0.0),
    ("three times as slow", 3.0, 0.01, Noise(), 0.0),
    ("twice as slow, 0.1 ms", 2.0, 0.0001, Noise(), 0.0),
    ("twice as slow, 0.6 ms", 2.0, 0.0006, Noise(), 0.0),
    ("twice as slow, 2 ms", 2.0, 0.002, Noise(), 0.0),
    ("ten times as slow, 0.2 ms", 10.0, 0.0002, Noise(), 0.0),
)
ANSWERS: tuple[tuple[str, World, float | None], ...] = (
    ("98 % of two labels stay", labels(0.98), None),
    ("70 % of ten labels stay", labels(0.7, classes=(0.1,) * 10), None),
    ("52 % of ten labels stay", labels(0.52, classes=(0.1,) * 10), None),
    ("identical, every second answer is random", labels(1.0, random_share=0.5), None),
    ("identical, every answer is random, ten labels", labels(1.0, classes=(0.1,) * 10, random_share=1.0), None),
    ("identical, every second answer is random, minPercent 95", labels(1.0, random_share=0.5), 95),
    ("98 % stay, minPercent 95", labels(0.98), 95),
    ("85 % stay, minPercent 95", labels(0.85), 95),
    ("two labels are swapped", labels(0.0), None),
    ("ten labels are swapped", labels(0.1, classes=(0.1,) * 10), None),
    ("30 % of the labels stay", labels(0.3), None),
    ("constant, stable's labels 50:50", constant(0.5), None),
    ("constant, stable's labels 80:20", constant(0.2), None),
    ("constant, stable's labels 95:5", constant(0.05), None),
    ("identical, labels 95:5", labels(1.0, classes=(0.95, 0.05)), None),
    ("identical, labels 99.5:0.5", labels(1.0, classes=(0.995, 0.005)), None),
)
LATE = (
    *(
        (f"twice as slow from pair {at + 1}, {per_second:g} pairs per second", world, per_second)
        for at, per_second in ((0, 2.0), (500, 2.0), (0, 10.0), (500, 10.0))
        for world in (joined(times(1.0), times(2.0), at),)
    ),
    *(
        (f"fails 20 % from pair {at + 1}", joined(outcomes(0.0, 0.0), outcomes(0.2, 0.0), at), PER_SECOND)
        for at in (0, 500)
    ),
    *(
        (f"30 % of the labels stay from pair {at + 1}", joined(labels(1.0), labels(0.3), at), PER_SECOND)
        for at in (0, 500)
    ),
    ("identical times", times(1.0), PER_SECOND),
    ("identical times, noisy for 20 pairs each, 5 pairs per second", times(1.0, 0.01, TIMES[4][3]), 5.0),
    ("identical times, noisy for 100 pairs each, 50 pairs per second", times(1.0, 0.001, TIMES[5][3]), 50.0),
    ("identical, 5 % fail on either side", outcomes(0.05, 0.05), PER_SECOND),
    ("identical, every second answer is random", labels(1.0, random_share=0.5), PER_SECOND),
)
QUALITY: tuple[tuple[float, float, tuple[tuple[int, int], ...], Harder], ...] = (
    *((0.9, 0.9, STEPS, harder) for harder in (easy, rising, waves)),
    *((0.88, 0.9, STEPS, harder) for harder in (easy, rising, waves)),
    *((0.8, 0.9, STEPS, harder) for harder in (easy, rising, waves)),
    *((0.8, 0.9, ((10_000, weight),), easy) for weight in (5, 25, 50)),
    (0.6, 0.9, STEPS, easy),
    (0.5, 0.6, STEPS, easy),
    (0.95, 0.99, STEPS, easy),
)
