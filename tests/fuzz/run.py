"""Run the fuzzer: children with two values of ``MALLOC_PERTURB_`` must give the same answers as each other and as the
library, without a crash, within 10 s of CPU time and 512 MiB."""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.fixtures.fuzzing import PERTURB, SECONDS, WALL, Process
from tests.fuzz import models, mutate

AHEAD = 32


@dataclass
class Result:
    """What the artefacts came to, by class, and the faults."""

    outcomes: Counter[str] = field(default_factory=Counter)
    models: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Child(Process):
    """A process that opens artefacts."""

    def __init__(self, perturb: str) -> None:
        super().__init__("tests.fuzz.child", perturb)

    def result(self) -> str:
        """Return the last line about the artefact, such as ``refused …``, or the step that crashed."""
        step, deadline = "", time.monotonic() + WALL
        while True:
            line = self.line(deadline)
            if line in ("crashed", "hung"):
                return f"{line} in {step} ({self.restart()})"
            if line.split()[0] in ("skipped", "refused", "answered"):
                return f"hung in {step} (more than {SECONDS:g} s of CPU time)" if self.is_too_slow() else line
            step = line


def tasks(seed: int, pick: str) -> Iterator[tuple[str, str, bytes, Any]]:
    """Yield (description, format, bytes, rows) in a random order that the seed decides, each change of each part."""
    known = [(name, model, mutate.parts(model), rows) for name, model, rows in models.fitted() if pick in name]
    every = [
        (index, target, change)
        for index, (_, _, parts, _) in enumerate(known)
        for target in _spread(parts, seed)
        for change in mutate.changes(parts[target])
    ]
    order = np.random.default_rng(seed).permutation(len(every))
    for place in order:
        index, target, change = every[place]
        name, model, parts, rows = known[index]
        data = mutate.written(model, parts, target, change, seed + int(place))
        if data is not None:
            kind = "skops" if place % 3 == 0 and not name.startswith(("XGB", "LGBM")) else "joblib"
            yield (
                f"{name} part {target} ({type(parts[target]).__name__}) {change} {kind} seed {seed + int(place)}",
                kind,
                data,
                rows,
            )


def _spread(parts: list[Any], seed: int) -> list[int]:
    """Return the places of every array and of up to 40 other parts: an ensemble has hundreds of equal numbers."""
    arrays = [place for place, part in enumerate(parts) if isinstance(part, np.ndarray)]
    others = [place for place, part in enumerate(parts) if not isinstance(part, np.ndarray)]
    random = np.random.default_rng(seed)
    return [*(random.permutation(arrays)[:40]), *(random.permutation(others)[:40])]


def judge(result: Result, name: str, first: str, second: str) -> None:
    """Count one artefact, and record a fault."""
    words = first.split()
    model = name.split("/")[0]
    outcome = words[0]
    if first.startswith(("crashed", "hung")) or second.startswith(("crashed", "hung")):
        outcome = "made" if "in make" in first or "in make" in second else "fault"  # a crash of the library
        if outcome == "fault":
            result.faults.append(f"{name}: {first} | {second}")
    elif outcome == "answered":
        others = second.split()
        if len(set(words[1:]) | set(others[1:])) != 1:
            outcome = "fault"
            result.faults.append(f"{name}: {first} | {second}")
        elif "M" in words[1].partition(":")[0]:
            outcome = "memory"
    result.outcomes[outcome] += 1
    result.models.setdefault(model, Counter())[outcome] += 1


def run(count: int, seconds: float, seed: int = 1, pick: str = "", report: bool = False) -> Result:
    """Run ``count`` artefacts, or as many as fit into ``seconds`` after the models are fitted."""
    result, workers = Result(), [_Worker(value) for value in PERTURB]
    names: deque[str] = deque()
    deadline = 0.0

    def take() -> None:
        judge(result, names.popleft(), *(worker.results.get() for worker in workers))
        done = sum(result.outcomes.values())
        if report and done % 2000 == 0:
            print(done, dict(result.outcomes), *result.faults, sep="\n", flush=True)

    for index, (name, kind, data, rows) in enumerate(tasks(seed, pick)):
        deadline = deadline or time.monotonic() + seconds
        if index >= count or time.monotonic() > deadline:
            break
        names.append(name)
        for worker in workers:
            worker.tasks.put((kind, data, rows))
        while len(names) > AHEAD:
            take()
    while names:
        take()
    for worker in workers:
        worker.tasks.put(None)
        worker.join()
    return result


class _Worker(threading.Thread):
    """Hands artefacts to one child, which is never idle while the next are made."""

    def __init__(self, perturb: str) -> None:
        super().__init__(daemon=True)
        self.tasks: queue.Queue[Any] = queue.Queue()
        self.results: queue.Queue[str] = queue.Queue()
        self._perturb = perturb
        self.start()

    def run(self) -> None:
        """Send each artefact and wait for its result."""
        child = Child(self._perturb)
        while (task := self.tasks.get()) is not None:
            child.send(task)
            self.results.put(child.result())
        child.close()


def main() -> int:
    """Run from the command line, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="artefacts (default: 20,000)")
    parser.add_argument("--seconds", type=float, default=3_600, help="limit of time, in seconds (default: 3,600)")
    parser.add_argument("--seed", type=int, default=1, help="decides which parts are changed, and how (default: 1)")
    parser.add_argument("--pick", default="", help="only models whose name has this text (default: all)")
    options = parser.parse_args()
    result = run(options.count, options.seconds, options.seed, options.pick, report=True)
    print(*result.faults, sep="\n")
    print(sum(result.outcomes.values()), "artefacts of", len(result.models), "models:", dict(result.outcomes))
    return bool(result.faults)


if __name__ == "__main__":
    raise SystemExit(main())
