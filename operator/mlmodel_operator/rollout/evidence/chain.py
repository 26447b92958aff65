"""The gates on pairs and labels in their order, and the one sentence about a rehearsal for status and Events."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, get_args

from mlmodel_operator.api.evidence import Pairs, QualityState, Repeated, Segment
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import Gates
from mlmodel_operator.rollout.evidence import agreement, latency, pairs, quality
from mlmodel_operator.rollout.evidence.errors import Verdict

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


def verdicts(found: Pairs, gates: Gates, labels: QualityState = _NO_LABELS) -> dict[Gate, Verdict]:
    """Return the evidence of each gate against the candidate, in order; none of a gate that is off."""
    asked: dict[Gate, Verdict] = {
        "errors": pairs.judge(found, max_percent=gates.errors.max_percent),
        "form": agreement.judge_form(found),
        "latency": latency.judge(found, gates.latency),
        "agreement": agreement.judge(found, gates.agreement),
    }
    return asked | ({"quality": quality.judge(labels, gates.quality)} if gates.quality else {})


def judge(
    found: Pairs,
    gates: Gates,
    accepted: Collection[Gate] = (),
    *,
    seconds: float = math.inf,
    labels: QualityState = _NO_LABELS,
) -> Verdict | None:
    """Return the verdict of the first gate that rejects the candidate; None if none does.

    ``accepted`` are gates that a user lets the candidate through, and ``seconds`` is the time since the first pair.
    """
    early: tuple[Gate, ...] = ("latency",) if seconds < latency.LEAST_SECONDS else ()
    asked = (verdict for gate, verdict in verdicts(found, gates, labels).items() if gate not in {*accepted, *early})
    return next((verdict for verdict in asked if verdict.is_decisive), None)


def figures(found: Pairs, segments: tuple[Segment, ...] = ()) -> Repeated:
    """Return what users read of the pairs; the certified difference is that of pairs and live requests together."""
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
        certified_percent=pairs.certified_percent(segments, found),
    )


def summary(found: Pairs, *, stable: str, candidate: str) -> str:
    """Return what the pairs show, as one sentence without the full stop; ``stable`` and ``candidate`` are versions."""
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
    proven = pairs.certified_percent((), found)
    end = f"; proven to fail at most {proven:g} percentage points more" if proven is not None else ""
    return f"{outcomes.all} requests of {stable} were repeated: {', '.join(parts)}{end}"
