"""Counts of requests, and the evidence about a candidate that ``status`` keeps between two reconciles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from mlmodel_operator.api.schema import Doc, Opaque, Time


@dataclass(frozen=True)
class Counts:
    """Requests and their errors: the one form in which the operator reads, stores and compares them."""

    requests: Annotated[int, Doc("Number of requests, including rejected and failed ones.")] = 0
    rejected: Annotated[int, Doc("Number of requests that were rejected with 4xx, without those in failed.")] = 0
    failed: Annotated[
        int,
        Doc(
            "Number of requests that got a 5xx response or none; of the candidate also those that it rejected and"
            " stable accepted."
        ),
    ] = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.requests + other.requests, self.rejected + other.rejected, self.failed + other.failed)

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.requests - other.requests, self.rejected - other.rejected, self.failed - other.failed)

    def is_reset_since(self, earlier: Counts) -> bool:
        """Whether any number is below its ``earlier`` value, which happens only when a new process counts from zero."""
        return self.requests < earlier.requests or self.rejected < earlier.rejected or self.failed < earlier.failed

    @property
    def errors(self) -> int:
        """Requests that were rejected or failed."""
        return self.rejected + self.failed

    @property
    def failure_rate(self) -> float:
        """Share of the requests that failed, 0 to 1; 0 without requests."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def error_rate(self) -> float:
        """Share of the requests that were rejected or failed, 0 to 1; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Sides:
    """Counts of candidate and stable over the same time."""

    candidate: Counts = field(default_factory=Counts)
    stable: Counts = field(default_factory=Counts)

    def __add__(self, other: Sides) -> Sides:
        return Sides(self.candidate + other.candidate, self.stable + other.stable)

    def __sub__(self, other: Sides) -> Sides:
        return Sides(self.candidate - other.candidate, self.stable - other.stable)

    def is_reset_since(self, earlier: Sides) -> bool:
        """Whether any number is below its ``earlier`` value."""
        return self.candidate.is_reset_since(earlier.candidate) or self.stable.is_reset_since(earlier.stable)


@dataclass(frozen=True)
class Ledger:
    """State of the sequential tests: one natural logarithm of a likelihood ratio per alternative."""

    absolute: tuple[float, ...] = ()
    """Against the limit, one per alternative error rate."""
    relative: tuple[float, ...] = ()
    """Against stable, one per risk ratio."""


@dataclass(frozen=True)
class EvidenceState:
    """What the statistical tests need to continue."""

    ledger: Ledger = field(default_factory=Ledger)
    counted: Counts = field(default_factory=Counts)
    """Requests of the candidate as its own pods counted them."""
    routed: Sides = field(default_factory=Sides)
    """Requests as the routers counted them; for stable without failures."""
    routed_before_step: Sides = field(default_factory=Sides)
    """``routed`` at the start of the present step."""
    excused: int = 0
    """Failures that only the routers counted, while a pod was being replaced: they are not counted as failures."""
    pods: Mapping[str, Counts] = field(default_factory=dict)
    """Last counters read from each pod."""
    routers: Mapping[str, Sides] = field(default_factory=dict)
    """Last counters read from each router."""


@dataclass(frozen=True)
class Evidence:
    """Requests of both sides during the rollout, and what they prove about the candidate."""

    candidate: Annotated[Counts, Doc("Requests to the candidate.")] = field(default_factory=Counts)
    stable: Annotated[Counts, Doc("Requests to stable in the same time.")] = field(default_factory=Counts)
    against: Annotated[
        float, Doc("Likelihood ratio against the candidate, 1 without evidence; at 1000 the candidate is rolled back.")
    ] = 1.0
    certified_percent: Annotated[
        float | None,
        Doc(
            "Failure rate in percent, 0 to 50, that the candidate has been proven to stay below; absent without proof."
        ),
    ] = None
    at: Annotated[Time | None, Doc("Time at which the operator wrote these figures, every 10 s while they change.")] = (
        None
    )
    state: Annotated[
        EvidenceState, Doc("State of the statistical tests, for the operator only; its content may change."), Opaque()
    ] = field(default_factory=EvidenceState)
