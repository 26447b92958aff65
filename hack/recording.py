"""What ``make demo`` writes down while it runs: one JSON object per line, in order of time.

A *sample* is what a user of the cluster sees at one moment; a *mark* is something that the demo did or saw. All counts
are totals since the traffic began. ``hack.picture`` draws a recording.

=====================  ================================================================================================
``seconds``            since the recording began
``phase``              ``status.phase``; empty while the status is of an older spec
``weight``             the candidate's share of the requests, in percent; 0 without a candidate
``stable``             version that is stable
``candidate``          version that is the candidate, or null
``counted``            when the users took the next three counts, on the clock of ``seconds``
``requests``           answered requests by the version that answered
``failed``             requests that failed for a user
``rescued``            requests that the candidate failed and stable answered within the same request
``against``            evidence against the candidate, or null; the operator writes it every 10 seconds
``certified``          error rate in percent below which the candidate is proven to be, or null
``text``               of a mark: what happened; it has ``seconds`` and nothing else beside it
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

from hack.traffic import Second


@dataclass(frozen=True)
class Sample:
    """One moment; see the table above."""

    seconds: float
    phase: str = ""
    weight: int = 0
    stable: str = ""
    candidate: str | None = None
    counted: float = 0.0
    requests: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    rescued: int = 0
    against: float | None = None
    certified: float | None = None


@dataclass(frozen=True)
class Mark:
    """Something that happened."""

    seconds: float
    text: str


@dataclass(frozen=True)
class Recording:
    """All of one run."""

    samples: tuple[Sample, ...]
    marks: tuple[Mark, ...]


def sample(seconds: float, status: Mapping[str, Any], seen: Second, age: float = 0.0) -> Sample:
    """Return what a status, and the users' counts of ``age`` seconds ago, say at one moment."""
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
        rescued=seen.fallbacks,
        against=evidence.get("against"),
        certified=evidence.get("certifiedPercent"),
    )


class Recorder:
    """Writes samples and marks to a file as they come, so that an interrupted run leaves what it saw."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self._began = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def sample(self, status: Mapping[str, Any], seen: Second) -> None:
        """Write one moment."""
        self._write(asdict(sample(self._seconds(), status, seen, time.time() - seen.at)))

    def mark(self, text: str) -> None:
        """Write that something happened now."""
        self._write({"seconds": round(self._seconds(), 2), "text": text})

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read(lines: Iterable[str]) -> Recording:
    """Return the recording in these lines; TypeError or ValueError when they are none."""
    samples, marks = [], []
    for line in lines:
        content = json.loads(line)
        if "text" in content:
            marks.append(Mark(**content))
        else:
            samples.append(Sample(**content))
    if not samples:
        raise ValueError("the recording has no sample: write one with `make demo`")
    return Recording(tuple(samples), tuple(marks))
