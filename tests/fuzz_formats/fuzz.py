"""Hand changed files to two processes, and judge what they answer."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tests.fuzz_formats.changes import changed
from tests.fuzz_formats.seeds import all_seeds

SECONDS = 10.0
"""Maximum CPU time for one file, in seconds."""

WALL = 120.0
"""Maximum real time for one file, in seconds: other programs may need the CPU."""

PERTURB = ("85", "170")


@dataclass
class Result:
    """How many files had which outcome, the faults, and the files that the server answers and the library does not."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Child:
    """A process that opens files; it is started again after a crash or a hang."""

    def __init__(self, perturb: str) -> None:
        self._environment = {**os.environ, "MALLOC_PERTURB_": perturb, "OMP_NUM_THREADS": "1"}
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fuzz_formats.child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self._environment, bufsize=0,
        )  # fmt: skip
        self._read = b""
        if self._line(time.monotonic() + 120) != "ready":
            raise RuntimeError("the process does not start")
        self._used = self._cpu()

    def _line(self, deadline: float) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return "hung"
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                return "crashed"
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def send(self, format: str, data: bytes) -> None:
        """Hand over one file."""
        message = pickle.dumps((format, data))
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(struct.pack("<Q", len(message)) + message)

    def result(self) -> list[str]:
        """Return the words of the last line about the file; the step, if the process crashed or hung in it."""
        step, deadline = [""], time.monotonic() + WALL
        while (words := self._line(deadline).split())[0] == "step":
            step = words[1:]
        if words[0] in ("crashed", "hung"):
            self.close()
            self._start()
            return [words[0], *step]
        before, self._used = self._used, self._cpu()
        return ["hung", *step] if self._used - before > SECONDS else words

    def _cpu(self) -> float:
        """Return the seconds of CPU time of the process, and of those that it started and waited for."""
        with open(f"/proc/{self._process.pid}/stat", encoding="ascii") as file:
            times = file.read().rpartition(")")[2].split()[11:15]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()


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
    """Try ``count`` files, or as many as fit into ``seconds``; with ``report``, print faults and every 500th number."""
    result, end = Result(), time.monotonic() + seconds
    children = [Child(value) for value in PERTURB]
    try:
        for number, (format, name, data) in enumerate(files(seed)):
            if number >= count or time.monotonic() > end:
                break
            for child in children:
                child.send(format, data)
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
