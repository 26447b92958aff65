"""Hand changed files to two processes, and judge what they answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tests.fixtures.fuzzing import PERTURB, WALL, Process
from tests.fuzz_formats.changes import changed
from tests.fuzz_formats.seeds import all_seeds


@dataclass
class Result:
    """How many files had which outcome, the faults, and the files that the server answers and the library does not."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Child(Process):
    """A process that opens files."""

    def __init__(self, perturb: str) -> None:
        super().__init__("tests.fuzz_formats.child", perturb)

    def result(self) -> list[str]:
        """Return the words of the last line about the file; the step, if the process crashed or hung in it."""
        step, deadline = [""], time.monotonic() + WALL
        while (words := self.line(deadline).split())[0] == "step":
            step = words[1:]
        if words[0] in ("crashed", "hung"):
            self.restart()
            return [words[0], *step]
        return ["hung", *step] if self.is_too_slow() else words


def files(seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield (format, description, bytes) without end, of each format as often; first each model as it is."""
    seeds = all_seeds()
    yield from ((format, f"{name} unchanged", data) for format, name, data in seeds)
    number = 0
    while True:
        for format in ("onnx", "lightgbm", "xgboost"):
            random = Random(f"{seed} {number}")
            _, name, data = random.choice([known for known in seeds if known[0] == format])
            yield format, f"{name} number {number} seed {seed}", changed(format, data, random)
            number += 1


def judge(first: list[str], second: list[str]) -> str:
    """Return the outcome of a file from the last lines of the two processes; a fault begins with "fault"."""
    for words in (first, second):
        if words[0] in ("crashed", "hung"):
            return f"fault: {words[0]} in {words[1]}"
    if first[0] != second[0]:
        return "fault: refused in one process"
    if first[0] != "answered":
        return first[0]
    if first[1:-1] != second[1:-1]:
        return "fault: depends on foreign memory"
    if first[-1].startswith(("not-opened", "crashed")):
        return "answered, where the library crashes on the file or refuses it"
    return "answered" if first[-1] == first[-2] else "fault: not what the library answers"


def run(count: int, seconds: float, seed: int = 1, report: bool = False) -> Result:
    """Try each model as it is, then ``count`` changed files, or as many as fit into ``seconds``; with ``report``, print
    faults and every 500th number."""
    result, unchanged = Result(), len(all_seeds())
    children = [Child(value) for value in PERTURB]
    end = 0.0
    try:
        for number, (format, name, data) in enumerate(files(seed)):
            if number == unchanged:
                end = time.monotonic() + seconds
            if number >= unchanged and (number >= unchanged + count or time.monotonic() > end):
                break
            for child in children:
                child.send((format, data))
            first, second = (child.result() for child in children)
            outcome = judge(first, second)
            if outcome.startswith("refused") and "unchanged" in name:
                outcome = f"fault: a sound model is refused: {' '.join(first)}"
            result.outcomes[f"{format} {outcome.partition(':')[0]}"] += 1
            if outcome.startswith("fault"):
                result.faults.append(f"{format} {name}: {outcome} ({first}, {second})")
                if report:
                    print(result.faults[-1], flush=True)
            elif "library" in outcome:
                result.notes.append(f"{format} {name}: {outcome} ({first}, {second})")
            if report and number % 500 == 499:
                print(number + 1, dict(result.outcomes), flush=True)
    finally:
        for child in children:
            child.close()
    return result
