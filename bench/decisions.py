"""Time and errors until a rollback, the sequential tests compared with the policies of other tools; and whole rollouts:
how long they take, and how often the decision is wrong.

The requests are simulated (Bernoulli errors) and the same for every policy. The other policies model the documented
semantics with common settings: "window" Flagger (60 s windows, success of at least 99 %, five failed checks in total
roll back), "limit" an Argo Rollouts analysis (60 s, success of at least 95 %, more than three failures). They are our
models, not runs of those products.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from bench import gates
from mlmodel_operator.api.evidence import Counts, Evidence, Pairs, Sides
from mlmodel_operator.rollout.evidence import difference, errors, pairs

SEED = 20260104
RATE, FRACTION, HORIZON = 10, 0.1, 1800
"""Requests per second, the fraction that goes to the candidate, and the length of a rollout in seconds."""
RUNS = 200
WRITE_SECONDS = 10
BAKE_SECONDS = 60
NO_PAIRS = Pairs()

Second = tuple[int, int, int, int]
"""Requests and errors of the candidate, then of stable, in one second."""
Policy = Callable[[Iterator[Second]], int | None]
"""Returns the seconds until the candidate is rolled back, None if it is not."""


class Gate:
    """The tests of one rollout, with the state that the operator keeps in status: written every 10 s."""

    def __init__(self, max_percent: float = 1.0) -> None:
        self.max_percent = max_percent
        self.evidence = Evidence()
        self._written = Evidence()
        self._block = Sides()
        self._age = 0

    def add(self, weight: int, second: Sides) -> None:
        """Add the counts of one second at one weight."""
        self._block += second
        self._age += 1
        state = self._written.state
        hard = errors.update_hard(
            state.hard,
            state.blocks,
            weight,
            self._block,
            max_percent=self.max_percent,
            before=difference.credited(state.segments),
        )
        segments = difference.add(state.segments, weight, self._block)
        self.evidence = Evidence(
            self._written.candidate + self._block.candidate,
            self._written.stable + self._block.stable,
            state=replace(state, hard=hard, blocks=state.blocks + 1, segments=segments),
        )
        if self._age == WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the evidence, as the operator does every 10 s and at each step."""
        self._written, self._block, self._age = self.evidence, Sides(), 0

    def is_against(self) -> bool:
        """Whether the candidate is rolled back."""
        return errors.judge(self.evidence, max_percent=self.max_percent).is_decisive

    def is_proven(self, weight: int) -> bool:
        """Whether the candidate may get ``weight``."""
        limit = errors.limit_for(weight, max_percent=self.max_percent)
        return pairs.is_proven(self.evidence.state.segments, NO_PAIRS, limit)


@dataclass(frozen=True)
class Outcome:
    """How a simulated rollout ended, after how many seconds and requests to the candidate."""

    ending: str
    seconds: int
    requests: int


def rollout(
    rng: random.Random,
    candidate: float,
    stable: float,
    *,
    poison: float = 0.0,
    unknown: tuple[float, float] = (0.0, 0.0),
    late: float = 0.0,
    timed: float = 0.0,
    per_second: int = 50,
    steps: tuple[int, ...] = (5, 25, 50),
    horizon: int = 3600,
) -> Outcome:
    """Simulate a rollout with the default bakeSeconds: both versions fail requests at random and independently, and
    ``poison`` is the share of requests that each version fails. Each request is drawn in shuffled blocks of 100.

    ``unknown`` are the shares of requests to candidate and stable without an outcome, and ``late`` is that of requests
    to the candidate whose clients give up so late that they count as failures. ``timed`` is the share of requests that
    both versions fail and whose client gives up after the candidate has failed and before stable has.
    """
    gate, weights, weight, baked = Gate(), [*steps[1:], 100], steps[0], math.inf
    draws: list[bool] = []
    for now in range(1, horizon + 1):
        if len(draws) < per_second:
            block = [True] * weight + [False] * (100 - weight)
            rng.shuffle(block)
            draws += block
        number = sum(draws[:per_second])
        del draws[:per_second]
        own, others = number - _hits(rng, number, unknown[0]), per_second - number
        others -= _hits(rng, others, unknown[1])
        failed = _hits(rng, own, late) or _hits(rng, own, timed)
        left = _hits(rng, others, timed)
        gave_up = Sides(Counts(failed, failed, failed), Counts(left=left))
        gate.add(weight, gave_up + _second(rng, own - failed, others - left, candidate, stable, poison))
        requests = gate.evidence.candidate.requests
        if gate.is_against():
            return Outcome("rolled back", now, requests)
        if now >= baked:
            return Outcome("promoted", now, requests)
        if weights and gate.is_proven(weights[0]):
            gate.write()
            weight, draws = weights.pop(0), []
            baked = now + BAKE_SECONDS if weight == 100 else math.inf
    return Outcome("no verdict", horizon, requests)


def _second(rng: random.Random, own: int, others: int, candidate: float, stable: float, poison: float) -> Sides:
    """Return the counts of one second."""
    poisoned = _hits(rng, own, poison)
    failed = _hits(rng, own - poisoned, candidate)
    poisoned_others = _hits(rng, others, poison)
    return Sides(
        Counts(own, poisoned + failed, poisoned + _hits(rng, failed, stable)),
        Counts(others, poisoned_others + _hits(rng, others - poisoned_others, stable)),
    )


def _hits(rng: random.Random, number: int, probability: float) -> int:
    return sum(rng.random() < probability for _ in range(number)) if probability else 0


def sequential(seconds: Iterator[Second]) -> int | None:
    """Apply the project's sequential tests every second."""
    gate = Gate()
    for now, (n, k, m, j) in enumerate(seconds, 1):
        gate.add(round(100 * FRACTION), Sides(Counts(n, k), Counts(m, j)))
        if gate.is_against():
            return now
    return None


def windows(success: float, allowed: int) -> Policy:
    """Return a policy that checks windows of 60 s, and rolls back if more than ``allowed`` have less ``success``."""

    def policy(seconds: Iterator[Second]) -> int | None:
        requests = errors = failed_checks = 0
        for now, (n, k, _, _) in enumerate(seconds, 1):
            requests, errors = requests + n, errors + k
            if now % 60 == 0:
                failed_checks += bool(requests) and (requests - errors) / requests < success
                if failed_checks > allowed:
                    return now
                requests = errors = 0
        return None

    return policy


POLICIES: dict[str, Policy] = {"sequential": sequential, "window": windows(0.99, 4), "limit": windows(0.95, 3)}


@dataclass(frozen=True)
class Result:
    """Results of one policy for one error rate of the candidate."""

    rolled_back: float
    median_seconds: int | None
    median_failed: int | None


def traffic(rng: random.Random, candidate: float, stable: float) -> Iterator[Second]:
    """Yield the counts of each second of one rollout, for the error rates of candidate and stable."""
    for _ in range(HORIZON):
        n = sum(rng.random() < FRACTION for _ in range(RATE))
        m = RATE - n
        yield n, sum(rng.random() < candidate for _ in range(n)), m, sum(rng.random() < stable for _ in range(m))


def measure(policy: Policy, candidate: float, stable: float) -> Result:
    """Run one policy on ``RUNS`` rollouts."""
    hits: list[tuple[int, int]] = []
    for run in range(RUNS):
        failed = 0

        def counted(seconds: Iterator[Second]) -> Iterator[Second]:
            nonlocal failed
            for second in seconds:
                failed += second[1]
                yield second

        took = policy(counted(traffic(random.Random(SEED + run), candidate, stable)))
        if took is not None:
            hits.append((took, failed))
    hits.sort()
    middle = hits[len(hits) // 2] if hits else (None, None)
    return Result(len(hits) / RUNS, *middle)


def main(runs: int = 100) -> None:
    """Print all tables."""
    _compare()
    print()
    _whole_rollouts(runs)
    print()
    gates.main(runs)


CASES = (
    *((rate, rate, 0.0) for rate in (0.0, 0.01, 0.03, 0.05)),
    *((rate + 0.01, rate, 0.0) for rate in (0.0, 0.01, 0.03, 0.05)),
    *((rate + 0.03, rate, 0.0) for rate in (0.0, 0.01, 0.03, 0.05)),
    (0.0, 0.0, 0.1),
    (0.3, 0.0, 0.3),
    (0.3, 0.0, 0.0),
    (1.0, 0.0, 0.0),
    (1.0, 0.05, 0.0),
)
"""Failure rates of candidate and stable, and the share of requests that both fail."""


def _whole_rollouts(runs: int) -> None:
    print(
        f"whole rollouts, 50 requests/s, steps 5, 25, 50, bakeSeconds {BAKE_SECONDS}, at most an hour; {runs} runs,"
        f" seeds {SEED} to {SEED + runs - 1}"
    )
    heads = f"{'promoted':>15} {'rolled back':>14}  {'requests until then':>20}"
    print(f"{'candidate':>9} {'stable':>7} {'both':>6}   {heads}")
    for candidate, stable, poison in CASES:
        found = [rollout(random.Random(SEED + run), candidate, stable, poison=poison) for run in range(runs)]
        promoted = sorted(item.seconds for item in found if item.ending == "promoted")
        back = sorted((item.seconds, item.requests) for item in found if item.ending == "rolled back")
        cells = (
            f"{len(promoted):5d} {_median(promoted):>7.0f} s",
            f"{len(back):5d} {_median([seconds for seconds, _ in back]):>6.0f} s",
            f"{_median(sorted(requests for _, requests in back)):>18.0f}",
        )
        print(
            f"{100 * candidate:>7.0f} % {100 * stable:>5.0f} % {100 * poison:>4.0f} %   {'  '.join(cells)}", flush=True
        )


def _median(values: list[int]) -> float:
    return statistics.median(values) if values else math.nan


def _compare() -> None:
    print(
        f"{RATE} requests/s, candidate at weight {100 * FRACTION:g}, {HORIZON // 60} min, {RUNS} runs, seed {SEED}; "
        "medians of the rolled-back runs"
    )
    print(f"{'candidate fails':<22}" + "".join(f"{name:^41}" for name in POLICIES))
    for rate in (0.005, 0.02, 0.05, 0.2, 1.0):
        results = {name: measure(policy, rate, 0.005) for name, policy in POLICIES.items()}
        cells = "".join(
            f"{100 * found.rolled_back:5.1f} % rolled back, {found.median_seconds or 0:5d} s,"
            f" {found.median_failed or 0:4d} failed "
            for found in results.values()
        )
        print(f"{100 * rate:>6.1f} %{'  (as stable)' if rate == 0.005 else '':<13} {cells}")
    base, ours = measure(POLICIES["window"], 1.0, 0.005), measure(sequential, 1.0, 0.005)
    if ours.median_seconds and base.median_seconds and ours.median_failed and base.median_failed:
        print(
            "ratio of window to sequential, for a candidate that fails all requests: "
            f"time {base.median_seconds / ours.median_seconds:.0f}, "
            f"failed requests {base.median_failed / ours.median_failed:.0f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.decisions", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=100, help="number of whole rollouts per case, from 1 (default: 100)"
    )
    main(parser.parse_args().runs)
