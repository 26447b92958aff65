"""Run the combinations in several processes, and keep their verdicts."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

import onnxruntime  # type: ignore[import-untyped]

from hack.census import design, results
from hack.census.judge import judge
from hack.census.models import trained
from hack.census.tables import SEED
from hack.census.verdicts import FAULTS, Case, Verdict


def run_all(every: bool, only: str, rest: bool, jobs: int) -> int:
    """Run, write the verdicts and a summary, and return 1 if there is a fault."""
    started = perf_counter()
    cases = [case for case in (design.every() if every else design.pairwise()) if only in case.row]
    kept, _ = results.read()
    possible = {*design.every(), *design.pairwise()}
    found = {case: verdict for case, verdict in kept.items() if case in possible}
    if rest:
        faults = [case for case, verdict in found.items() if verdict.outcome in FAULTS and only in case.row]
        cases = [*(case for case in cases if case not in kept), *faults]
    sys.stderr.write(f"{len(cases):,} combinations, seed {SEED}\n")
    with ProcessPoolExecutor(jobs) as pool:
        for done in pool.map(judge_row, (part for _, part in design.chunks(cases))):
            found |= done
            for case, verdict in done.items():
                if verdict.outcome in FAULTS:
                    sys.stderr.write(f"{verdict.outcome}: {case}: {verdict.reason}\n")
            sys.stderr.flush()
            results.write({case: results.shortened(verdict) for case, verdict in found.items()}, results.versions())
    counts = Counter(found[case].outcome for case in cases)
    sys.stderr.write(f"{dict(counts)}, {perf_counter() - started:.0f} s\n")
    return int(any(counts[fault] for fault in FAULTS))


def judge_row(cases: list[Case]) -> dict[Case, Verdict]:
    """Return the verdicts on the cases of one row."""
    logging.disable(logging.CRITICAL)  # one line for each model
    onnxruntime.set_default_logger_severity(4)  # about files of skl2onnx
    verdicts = {case: judge(case) for case in cases}
    trained.cache_clear()
    return verdicts
