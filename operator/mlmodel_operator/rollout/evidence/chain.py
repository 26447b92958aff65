"""The gates on pairs and labels in their order, and the one sentence about a rehearsal for status and Events."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, get_args

from mlmodel_operator.api.evidence import Evidence, Pairs, QualityState, Repeated
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import Gates
from mlmodel_operator.rollout.evidence import agreement, late, latency, pairs, quality
from mlmodel_operator.rollout.evidence.errors import Verdict
from mlmodel_operator.rollout.evidence.late import Window

Gate = Literal["errors", "form", "latency", "agreement", "quality"]
GATES: tuple[Gate, ...] = get_args(Gate)
"""In the order in which they are asked: an answer that failed has no time, and one of another form no agreement. Labels
come last, in both senses."""
ACCEPTABLE: Mapping[Gate, Reason] = {
    "errors": Reason.REHEARSAL_ERRORS,
    "form": Reason.OTHER_FORM,
    "agreement": Reason.OTHER_ANSWERS,
}
"""Gates that a user may let a candidate through, with their verdicts: an intended change of columns or answers."""

_NO_LABELS = QualityState()


def verdicts(
    found: Pairs, gates: Gates, later: tuple[Window, ...] = (), labels: QualityState = _NO_LABELS
) -> dict[Gate, Verdict]:
    """Return the evidence of each gate against the candidate, in order; none of a gate that is off. ``later`` are parts
    of the pairs that may show a late change."""
    lasting = tuple(window for window in later if window.seconds >= latency.LATE_SECONDS)
    asked: dict[Gate, Verdict] = {
        "errors": late.judge(lambda some: pairs.judge(some, max_percent=gates.errors.max_percent), found, later),
        "form": late.judge(agreement.judge_form, found, later),
        "latency": late.judge(lambda some: latency.judge(some, gates.latency), found, lasting),
        "agreement": late.judge(lambda some: agreement.judge(some, gates.agreement), found, later),
    }
    return asked | ({"quality": quality.judge(labels, gates.quality)} if gates.quality else {})


def judge(
    found: Pairs,
    gates: Gates,
    accepted: Collection[Gate] = (),
    *,
    seconds: float = math.inf,
    later: tuple[Window, ...] = (),
    labels: QualityState = _NO_LABELS,
) -> Verdict | None:
    """Return the verdict of the first gate that rejects the candidate; None if none does.

    ``accepted`` are gates that a user lets the candidate through, and ``seconds`` is the time since the first pair.
    """
    early: tuple[Gate, ...] = ("latency",) if seconds < latency.LEAST_SECONDS else ()
    asked = (
        verdict for gate, verdict in verdicts(found, gates, later, labels).items() if gate not in {*accepted, *early}
    )
    return next((verdict for verdict in asked if verdict.is_decisive), None)


def figures(found: Pairs, certified: float | None) -> Repeated:
    """Return what users read of the pairs; ``certified`` is the percentage that pairs and live requests prove."""
    again, ratio = found.again, latency.median_ratio(found)
    return Repeated(
        requests=found.pairs.all,
        failed_only_on_candidate=found.pairs.candidate_failed,
        failed_only_on_stable=found.pairs.own_failed,
        failed_on_both=found.pairs.both_failed,
        compared=found.agree.rows,
        agree=found.agree.same,
        stable_agrees_percent=round(100.0 * (1.0 - again.differ / again.both), 1) if again.both else None,
        median_time_ratio=None if ratio is None else round(ratio, 2),
        median_milliseconds=latency.median_milliseconds(found.times),
        stable_median_milliseconds=latency.median_milliseconds(found.own_times),
        certified_percent=certified,
    )


def summary(found: Pairs, certified: float | None, *, stable: str, candidate: str) -> str:
    """Return what the pairs show, as one sentence without the full stop; ``stable`` and ``candidate`` are versions, and
    ``certified`` is the percentage that is proven, None without a proof."""
    outcomes = found.pairs
    if not outcomes.all:
        return f"No request of {stable} was repeated on {candidate}"
    parts = [f"{outcomes.candidate_failed} failed only on {candidate}"]
    if outcomes.own_failed:
        parts.append(f"{outcomes.own_failed} only on {stable}")
    if outcomes.both_failed:
        parts.append(f"{outcomes.both_failed} on both")
    if found.agree.rows:
        parts.append(agreement.figures(found))
    if found.ratios:
        parts.append(f"median time {latency.figure(found)} times")
    end = f"; proven to fail at most {certified:g} percentage points more" if certified is not None else ""
    return f"{outcomes.all} different requests of {stable} were repeated: {', '.join(parts)}{end}"


def summary_of(evidence: Evidence, *, stable: str, candidate: str) -> str:
    """Return the same about the evidence of a rollout."""
    certified = pairs.certified_percent(evidence.state.segments, evidence.state.pairs)
    return summary(evidence.state.pairs, certified, stable=stable, candidate=candidate)
