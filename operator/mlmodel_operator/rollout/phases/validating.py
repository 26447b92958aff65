"""Validating: stable's own requests are repeated on the candidate, which gets no request of a user."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence, Pairs
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.rollout import failures, hold, rehearsal
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence import errors, latency, pairs
from mlmodel_operator.rollout.evidence.gather import first_evidence
from mlmodel_operator.rollout.phases import canary
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.transition import PAUSED, Decision, Stay, Transition

PROVEN_SECONDS = 20.0
"""Time after which the rest of the requests need not be repeated, if the others prove all steps."""
LONGEST_SECONDS = 120.0
"""Time after which the canary begins with what there is."""
_COMPARED = 100
"""Number of times and of answers that must have been compared."""


def enter(context: Context, candidate: Candidate) -> Transition:
    """Let the pods of stable repeat their requests on the candidate."""
    entered = replace(
        candidate,
        phase="Validating",
        since=Time(context.now),
        stable_ms=hold.slowest_stable(context),
        evidence=first_evidence(context.observed, candidate, context.now),
    )
    notice = Notice(
        "Normal",
        Reason.VALIDATING,
        f"the pods of {context.stable_label} repeat requests that they have answered on {candidate.version}, which gets"
        " no request of a user yet",
    )
    return Transition(replace(context.status, candidate=entered), (notice,))


def advance(context: Context, candidate: Candidate) -> Decision:
    """Roll back, wait for more pairs, or start the canary."""
    failure = failures.with_requests(context, candidate)
    if failure is not None:
        return hold.roll_back_or_hold(context, candidate, failure)
    if context.rollout.paused:
        return Stay(PAUSED)
    ended, why = _end(context, candidate)
    if not ended:
        return Stay(_what_it_waits_for(context, candidate))
    obstacle = canary.why_not(context, candidate)
    return canary.enter(context, candidate, why) if obstacle is None else obstacle


def _end(context: Context, candidate: Candidate) -> tuple[bool, str]:
    """Return whether the rehearsal is over, and why it is not whole, as a clause for messages; empty if it is."""
    none = rehearsal.why_none(context.model, context.status, context.observed)
    if none:
        return True, none
    if candidate.stands_in_since is not None:
        return True, f"{context.stable_label} has no ready pod"
    unread = rehearsal.why_unread(context)
    seconds, found = context.now - candidate.since, (context.evidence or Evidence()).state.pairs
    if seconds >= LONGEST_SECONDS:
        late = f"{found.left} requests could not be repeated within {LONGEST_SECONDS:g} s"
        return True, unread or _what_it_waits_for(context, candidate) or late
    is_finished = rehearsal.is_finished(context, candidate)
    if not is_finished and not (seconds >= PROVEN_SECONDS and _is_enough(context, found)):
        return False, ""
    # The gate on times decides only after a while: it must not be too late for the first user.
    return not latency.judge(found, context.rollout.gates.latency).is_decisive, unread if is_finished else ""


def _is_enough(context: Context, found: Pairs) -> bool:
    """Whether the pairs prove all steps, and enough times and answers have been compared."""
    limit = errors.limit_for(100, max_percent=context.rollout.gates.errors.max_percent)
    return pairs.is_certified(found, limit) and min(found.agree.rows, sum(found.ratios.values())) >= _COMPARED


def _what_it_waits_for(context: Context, candidate: Candidate) -> str:
    if rehearsal.followers(context, candidate):
        return ""
    return f"the pods of {context.stable_label} have not read yet which version to rehearse"
