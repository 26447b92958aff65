"""Time and errors until a rollback: the sequential test compared with the policies of other tools.

The requests are simulated (Bernoulli errors) and the same for every policy. The other policies model the documented
semantics with common settings: "window" Flagger (60 s windows, success of at least 99 %, five failed checks in total
roll back), "limit" an Argo Rollouts analysis (60 s, success of at least 95 %, more than three failures). They are our
models, not runs of those products.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlmodel_operator.api.evidence import Counts, Ledger, Sides
from mlmodel_operator.rollout.evidence import errors

SEED = 20260104
RATE, FRACTION, HORIZON = 10, 0.1, 1800
"""Requests per second, the fraction that goes to the candidate, and the length of a rollout in seconds."""
RUNS = 200

Second = tuple[int, int, int, int]
"""Requests and errors of the candidate, then of stable, in one second."""
Policy = Callable[[Iterator[Second]], int | None]
"""Returns the seconds until the candidate is rolled back, None if it is not."""


def sequential(seconds: Iterator[Second]) -> int | None:
    """Apply the project's sequential test every second."""
    ledger, own, others = Ledger(), Counts(), Counts()
    for now, (n, k, m, j) in enumerate(seconds, 1):
        block = Sides(Counts(n, 0, k), Counts(m, 0, j))
        ledger = errors.update(ledger, block, max_percent=1.0, stable_before=others)
        own, others = own + block.candidate, others + block.stable
        if errors.judge(ledger, own, others, max_percent=1.0).is_decisive:
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


def main() -> None:
    """Print the table."""
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
    argparse.ArgumentParser(prog="python -m bench.decisions", description=__doc__).parse_args()
    main()
