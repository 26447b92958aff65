"""How soon and how wrongly rollouts are decided: the sequential test beside the policies that are in use elsewhere.

Simulated users (Bernoulli errors), the same for every policy. The other policies are modelled after the documented
semantics with their usual settings: "window" after Flagger (60 s windows, success of at least 99 %, five failed checks
in all roll back), "limit" after an Argo Rollouts analysis (60 s, success of at least 95 %, more than three failures).
These are models of ours, not runs of those products.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlmodel_operator.api.evidence import Counts, Ledger, Sides
from mlmodel_operator.rollout.evidence import errors

SEED = 20260104
RATE, SHARE, HORIZON = 10, 0.1, 1800
RUNS = 200

Second = tuple[int, int, int, int]
"""Requests and errors of the candidate, requests and errors of stable, in one second."""
Policy = Callable[[Iterator[Second]], int | None]
"""Seconds until the candidate is rolled back, None if it is not."""


def sequential(seconds: Iterator[Second]) -> int | None:
    """Ours, looking every second."""
    ledger, own, others = Ledger(), Counts(), Counts()
    for now, (n, k, m, j) in enumerate(seconds, 1):
        block = Sides(Counts(n, 0, k), Counts(m, 0, j))
        ledger = errors.update(ledger, block, max_percent=1.0, stable_before=others)
        own, others = own + block.candidate, others + block.stable
        if errors.judge(ledger, own, others, max_percent=1.0).decisive:
            return now
    return None


def windows(success: float, allowed: int) -> Policy:
    """Checks of 60 s windows against a threshold; more than ``allowed`` failed ones roll back."""

    def policy(seconds: Iterator[Second]) -> int | None:
        asked = failed = bad = 0
        for now, (n, k, _, _) in enumerate(seconds, 1):
            asked, failed = asked + n, failed + k
            if now % 60 == 0:
                bad += bool(asked) and (asked - failed) / asked < success
                if bad > allowed:
                    return now
                asked = failed = 0
        return None

    return policy


POLICIES: dict[str, Policy] = {"sequential": sequential, "window": windows(0.99, 4), "limit": windows(0.95, 3)}


@dataclass(frozen=True)
class Result:
    """How one policy did on one kind of candidate."""

    rolled_back: float
    median_seconds: int | None
    median_failed: int | None


def traffic(rng: random.Random, candidate: float, stable: float) -> Iterator[Second]:
    """One rollout's worth of users."""
    for _ in range(HORIZON):
        n = sum(rng.random() < SHARE for _ in range(RATE))
        m = RATE - n
        yield n, sum(rng.random() < candidate for _ in range(n)), m, sum(rng.random() < stable for _ in range(m))


def measure(policy: Policy, candidate: float, stable: float) -> Result:
    """Runs one policy on ``RUNS`` rollouts."""
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


def main() -> None:
    """Prints the table."""
    print(
        f"{RATE} requests per second, {100 * SHARE:g} % to the candidate, {HORIZON // 60} min, {RUNS} runs, seed {SEED}"
    )
    print(f"{'candidate fails':<17}" + "".join(f"{name:^34}" for name in POLICIES))
    for rate in (0.005, 0.02, 0.05, 0.2, 1.0):
        results = {name: measure(policy, rate, 0.005) for name, policy in POLICIES.items()}
        cells = "".join(
            f"{100 * found.rolled_back:5.1f} % back, {found.median_seconds or 0:5d} s,"
            f" {found.median_failed or 0:4d} failed "
            for found in results.values()
        )
        print(f"{100 * rate:>6.1f} %{'  (as stable)' if rate == 0.005 else '':<9} {cells}")
    base, ours = measure(POLICIES["window"], 1.0, 0.005), measure(sequential, 1.0, 0.005)
    if ours.median_seconds and base.median_seconds and ours.median_failed and base.median_failed:
        print(
            f"a candidate that fails everything: {base.median_seconds / ours.median_seconds:.0f} x sooner and"
            f" {base.median_failed / ours.median_failed:.0f} x fewer failures than the window policy"
        )


if __name__ == "__main__":
    main()
