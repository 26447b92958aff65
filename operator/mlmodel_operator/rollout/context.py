"""Input of a decision about one model, and what every phase derives from it."""

from __future__ import annotations

from dataclasses import dataclass

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import MLModel, Revision, Rollout
from mlmodel_operator.names import ACCEPT_ANNOTATION
from mlmodel_operator.rollout.capacity import full_capacity
from mlmodel_operator.rollout.evidence.gather import fresh_evidence
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.obstacles import obstacle_of_candidate
from mlmodel_operator.rollout.pod_failures import why_not_ready
from mlmodel_operator.rollout.routes import Routes, are_confirmed, routes_for, weight_of
from mlmodel_operator.rollout.sides import NO_SIDES, Sides, sides_of

STABLE_DOWN_SECONDS = 3.0
"""Time without a ready pod of stable after which a ready candidate gets all requests.

The routers retry for a second, and a container that restarts in place is ready again within two or three: a shorter
time would give all requests to an unproven version for nothing, a longer one only adds failed requests.
"""


@dataclass(frozen=True)
class Context:
    """The input of a decision; ``status`` is the state before it."""

    model: MLModel
    observed: Observed
    status: Status
    now: float
    desired: Revision
    routes: Routes | None
    """The routes that ``status`` requires; None while an address is unknown."""
    is_confirmed: bool
    """Whether every ready router follows ``routes``."""
    evidence: Evidence | None
    """The evidence of this moment; that in ``status`` may be up to ten seconds old."""
    full_capacity: int
    """Number of pods for all requests."""
    obstacle: str
    """Why the candidate's pods are not ready, as a clause for messages; empty if no cause is known."""

    @property
    def rollout(self) -> Rollout:
        """``spec.rollout``."""
        return self.model.spec.rollout

    @property
    def stable_label(self) -> str:
        """The version of stable, for messages."""
        return self.status.stable.version if self.status.stable else "nothing"

    def is_change_accepted(self, candidate: Candidate) -> bool:
        """Whether an annotation says that the other answers of this candidate are intended."""
        return self.model.annotations.get(ACCEPT_ANNOTATION) == candidate.revision

    def ready(self, candidate: Candidate) -> int:
        """Return the number of the candidate's ready pods."""
        return self.observed.revision(candidate.revision).ready

    def attempt_limit_ms(self, stable_ms: int) -> int:
        """Return the time in milliseconds that the candidate has for a request: what stable needs, with a margin.

        A candidate that hangs then costs its users little; all of the timeout if it is unknown what stable needs, or if
        stable cannot answer instead (``stable_ms`` is 0).
        """
        timeout = 1000 * self.model.spec.traffic.timeout_seconds
        return min(timeout, 1000 + 3 * stable_ms) if stable_ms else timeout

    @property
    def why_unconfirmed(self) -> str:
        """What the confirmation of the routes waits for, as a clause for messages."""
        if self.observed.routers:
            return "the routers have not confirmed the routes yet"
        return why_no_router(self.observed)

    def serves_alone(self, candidate: Candidate) -> bool:
        """Whether the candidate gets requests and has a ready pod, and stable has none or does not answer yet."""
        return weight_of(candidate) > 0 and self.lacks_stable(candidate) and self.ready(candidate) > 0

    def lacks_stable(self, candidate: Candidate) -> bool:
        """Whether stable has no ready pod, or does not answer yet in place of the candidate."""
        stable = self.status.stable
        return stable is not None and (
            candidate.stands_in_since is not None or self.observed.revision(stable.revision).ready == 0
        )

    def is_stable_down(self, candidate: Candidate) -> bool:
        """Whether stable has had no ready pod for ``STABLE_DOWN_SECONDS`` and the candidate has one."""
        return (
            candidate.stable_down_since is not None
            and self.now >= candidate.stable_down_since + STABLE_DOWN_SECONDS
            and self.ready(candidate) > 0
        )


def why_no_router(observed: Observed) -> str:
    """Return why no router pod is ready, as a clause for messages."""
    return f"no router pod is ready: {why_not_ready(observed.router.pods, observed.router.replica_failure)}"


def context_of(model: MLModel, observed: Observed, status: Status, image: str, now: float) -> Context:
    """Derive the context of a decision; ``image`` is the server image that a new revision gets."""
    routes = routes_for(status, observed, sides_for(model, status))
    running = observed.revision(status.stable.revision).replicas if status.stable else 0
    return Context(
        model,
        observed,
        status,
        now,
        desired=desired_revision(model.spec, image),
        routes=routes,
        is_confirmed=are_confirmed(routes, observed, status.routes),
        evidence=fresh_evidence(model, observed, status, now),
        full_capacity=full_capacity(model.spec.serving, running),
        obstacle=obstacle_of_candidate(model, status, observed, now),
    )


def sides_for(model: MLModel, status: Status) -> Sides:
    """Return which requests a header assigns while the candidate of ``status`` is rolled out."""
    return sides_of(model, status.candidate.revision) if status.candidate is not None else NO_SIDES
