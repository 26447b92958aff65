"""The recording that ``make demo`` writes: one JSON object per line, in order of time.

A *sample* is what a user of the cluster sees at one moment; a *mark* is an action of the demo or an outcome. All counts
are totals since the traffic started. ``hack.picture`` draws a recording.

=====================  ================================================================================================
``seconds``            time since the recording started
``phase``              ``status.phase``; empty while the status belongs to an older spec
``weight``             weight of the candidate in percent; 0 without a candidate
``stable``             version that is stable
``candidate``          version that is the candidate, or null
``counted``            time of the next three counts, on the clock of ``seconds``
``requests``           answered requests by the version that answered
``failed``             requests that failed for the client
``fallbacks``          requests that the candidate failed and that stable answered after the router's retry
``against``            evidence against the candidate, or null; the operator writes it every 10 seconds
``certified``          error rate in percent below which the candidate has been proven to be, or null
``text``               description of a mark; a mark has only this field and ``seconds``
=====================  ================================================================================================
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from hack.traffic import Totals


@dataclass(frozen=True)
class Sample:
    """The state at one moment; see the table above."""

    seconds: float
    phase: str = ""
    weight: int = 0
    stable: str = ""
    candidate: str | None = None
    counted: float = 0.0
    requests: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    fallbacks: int = 0
    against: float | None = None
    certified: float | None = None


@dataclass(frozen=True)
class Mark:
    """An action of the demo, or an outcome."""

    seconds: float
    text: str


@dataclass(frozen=True)
class Recording:
    """The samples and marks of one run."""

    samples: tuple[Sample, ...]
    marks: tuple[Mark, ...]


def sample(seconds: float, status: Mapping[str, Any], seen: Totals, age: float = 0.0) -> Sample:
    """Return the sample of a status and of counts that are ``age`` seconds old."""
    candidate = status.get("candidate") or {}
    evidence = candidate.get("evidence") or {}
    return Sample(
        seconds=round(seconds, 2),
        phase=status.get("phase", ""),
        weight=candidate.get("weight") or 0,
        stable=(status.get("stable") or {}).get("version", ""),
        candidate=candidate.get("version"),
        counted=round(seconds - age, 2),
        requests=dict(seen.versions),
        failed=seen.failed,
        fallbacks=seen.fallbacks,
        against=evidence.get("against"),
        certified=evidence.get("certifiedPercent"),
    )


class Recorder:
    """Writes each sample and mark to a file at once, so that an interrupted run keeps them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self._started = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def sample(self, status: Mapping[str, Any], seen: Totals) -> None:
        """Write a sample of this moment."""
        self._write(asdict(sample(self._seconds(), status, seen, time.time() - seen.at)))

    def mark(self, text: str) -> None:
        """Write a mark at this moment."""
        self._write({"seconds": round(self._seconds(), 2), "text": text})

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read(lines: Iterable[str]) -> Recording:
    """Return the recording in these lines. Raises TypeError or ValueError if they are not a recording."""
    samples, marks = [], []
    for line in lines:
        content = json.loads(line)
        if "text" in content:
            marks.append(Mark(**content))
        else:
            samples.append(Sample(**content))
    if not samples:
        raise ValueError("it has no sample")
    return Recording(tuple(samples), tuple(marks))
