"""The rehearsal: the pods of stable repeat requests that they have answered on the candidate, and count pairs.

Predictions have no effect, so a version can be compared before a user meets it, at any traffic. A file beside the
routes says which candidate the pods rehearse; what they count is on a page of each pod. No request leaves a pod by any
other way.
"""

from __future__ import annotations

from mlmodel_operator.api.status import Candidate, CandidatePhase, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.names import REHEARSAL_PORT
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.observed import Observed, Rehearsing
from mlmodel_operator.rollout.session import nonce_of

UNREADABLE_SECONDS = 30.0
"""Time without an answer after which the rehearsal goes on without a pod."""

_PHASES: tuple[CandidatePhase, ...] = ("Validating", "Canary", "Promoting", "Baking")


def why_none(model: MLModel, status: Status, observed: Observed) -> str:
    """Return why the candidate cannot be rehearsed, as a clause for messages; empty if it can."""
    stable, candidate = status.stable, status.candidate
    if stable is None or candidate is None:
        return "there is nothing to compare with"
    if not model.spec.rollout.rehearsal.requests:
        return "spec.rollout.rehearsal.requests is 0"
    if stable.snapshot.api_keys != candidate.snapshot.api_keys:
        return f"{stable.version} and {candidate.version} use different Secrets with API keys"
    for side in (stable, candidate):
        if not observed.revision(side.revision).rehearses:
            return (
                f"the pods of {side.version} were started without one, by an older release of the operator or with"
                " spec.rollout.rehearsal.requests: 0"
            )
    return ""


def file_for(model: MLModel, before: Status, state: Status, observed: Observed) -> str:
    """Return the file that names the candidate to the servers; empty if none is rehearsed.

    Only once the status ``before`` this decision has the phase: a page of an older release that names the candidate
    earlier is of an earlier rehearsal (``gather.first_evidence``), also if the operator is killed between the two
    writes.
    """
    candidate = state.candidate
    if candidate is None or not (_is_rehearsed(before.candidate, candidate) and _is_rehearsed(candidate, candidate)):
        return ""
    if why_none(model, state, observed):
        return ""
    keys = candidate.snapshot.api_keys
    return f"candidate {candidate.revision} {nonce_of(model.owner, candidate)} {keys.secret_name if keys else 'none'}\n"


def _is_rehearsed(side: Candidate | None, candidate: Candidate) -> bool:
    return (
        side is not None
        and side.phase in _PHASES
        and (side.revision, side.holds) == (candidate.revision, candidate.holds)
    )


# ------------------------------------------------------------------------------------------------------------ progress


def followers(context: Context, candidate: Candidate) -> list[Rehearsing]:
    """Return the pods of stable whose pages show this rehearsal."""
    former = {
        name: page.boot
        for name, page in (context.evidence.state.pages if context.evidence else {}).items()
        if page.is_former
    }
    return [
        found
        for found in context.observed.rehearsing
        if found.boot
        and found.candidate == candidate.revision
        and (found.is_named or former.get(found.pod) not in ("", found.boot))
    ]


def is_finished(context: Context, candidate: Candidate) -> bool:
    """Whether every pod of stable has repeated all that it keeps, without those that have been silent for long."""
    asked = [found for found in context.observed.rehearsing if not _is_silent(context, found)]
    following = followers(context, candidate)
    return (
        bool(context.observed.rehearsing)
        and len(following) == len(asked)
        and not any(found.pairs.left for found in following)
    )


def why_unread(context: Context) -> str:
    """Return why pages of stable's pods could not be read for long, as a clause for messages; empty if they could."""
    silent = sum(_is_silent(context, found) for found in context.observed.rehearsing)
    return (
        f"{silent} of {len(context.observed.rehearsing)} pods of {context.stable_label} do not answer the operator on"
        f" port {REHEARSAL_PORT}: check that no NetworkPolicy blocks it"
        if silent
        else ""
    )


def _is_silent(context: Context, found: Rehearsing) -> bool:
    return found.silent_since is not None and context.now >= found.silent_since + UNREADABLE_SECONDS


def no_request_came(context: Context, candidate: Candidate) -> bool:
    """Whether every router and every pod of stable shows that no request ever came. Unreadable is not none."""
    stable, evidence, observed = context.status.stable, context.evidence, context.observed
    if stable is None or evidence is None or why_none(context.model, context.status, observed):
        return False
    following = followers(context, candidate)
    is_seen = any(found.pairs.seen for found in following) or bool(evidence.state.past.seen)
    is_counted = bool(evidence.candidate.requests or evidence.stable.requests or any(evidence.state.uncounted.values()))
    has_all_pods = 0 < observed.revision(stable.revision).ready == len(following)
    has_all_routers = context.is_confirmed and all(
        router.boot and router.candidate == candidate.revision for router in observed.routers
    )
    return has_all_pods and has_all_routers and not is_seen and not is_counted
