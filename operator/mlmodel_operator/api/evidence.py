"""Counts of requests, and the evidence about a candidate that ``status`` keeps between two reconciles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from mlmodel_operator.api.schema import Doc, Opaque, Time

_MOST = 2**63
"""Largest count: the tests compute with floating-point numbers, which an integer without bound exceeds."""
MOST_LOG = 1e18
"""Largest logarithm of evidence in a status: that of more requests than a counter of a router can have."""


@dataclass(frozen=True)
class Counts:
    """Requests and their failures: the one form in which the operator reads, stores and compares them."""

    requests: Annotated[int, Doc("Number of requests that a router drew at random and that have an outcome.")] = 0
    failed: Annotated[
        int,
        Doc(
            "Number of these requests that the revision failed: 5xx, reset, slower than the limit of an attempt, or"
            " rejected although stable accepts them."
        ),
    ] = 0
    shared: Annotated[
        int,
        Doc(
            "Number of the candidate's failed requests that stable failed too, or that the client gave up before stable"
            " could answer; 0 for stable."
        ),
    ] = 0
    left: Annotated[
        int,
        Doc(
            "Number of further requests to stable that the client gave up before stable could answer; 0 for the"
            " candidate."
        ),
    ] = 0

    def __post_init__(self) -> None:
        """Raise TypeError for a negative number, or one that is too large for the tests."""
        if not all(0 <= number <= _MOST for number in self._numbers):
            raise TypeError("requests, failed, shared and left must be 0 to 2^63")

    @property
    def _numbers(self) -> tuple[int, int, int, int]:
        return self.requests, self.failed, self.shared, self.left

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(min(own + more, _MOST) for own, more in zip(self._numbers, other._numbers, strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        # At least 0: stable's recent requests contain retries, which are not among all that were drawn.
        return Counts(*(max(own - less, 0) for own, less in zip(self._numbers, other._numbers, strict=True)))

    def is_reset_since(self, earlier: Counts) -> bool:
        """Whether any number is below its ``earlier`` value, which happens only when a new process counts from zero."""
        return any(now < before for now, before in zip(self._numbers, earlier._numbers, strict=True))

    @property
    def own(self) -> int:
        """Failures that stable did not share."""
        return self.failed - self.shared

    @property
    def failure_rate(self) -> float:
        """Share of the requests that failed, 0 to 1; 0 without requests."""
        return self.failed / self.requests if self.requests else 0.0


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

    @property
    def requests(self) -> int:
        """Requests of both sides."""
        return self.candidate.requests + self.stable.requests

    @property
    def failure_rate(self) -> float:
        """Share of the requests of both sides that failed, 0 to 1; 0 without requests."""
        return (self.candidate.failed + self.stable.failed) / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Segment:
    """Counts of one weight during a part of the rollout, for which the tests assume one failure rate."""

    weight: int
    rate: float
    """Failure rate of both sides (0 to 1) before the segment: the tests choose their bets from it, so the bets do not
    depend on the counts that they are about."""
    counts: Sides = field(default_factory=Sides)
    credited: int = 0
    """Failures of stable that speak for the candidate: not those of an outage of stable alone."""

    def __post_init__(self) -> None:
        """Raise TypeError for numbers with which no test can be computed: somebody has changed the status."""
        if not (1 <= self.weight <= 100 and 0.0 < self.rate <= 1.0):
            raise TypeError("a segment requires a weight of 1 to 100 and a rate above 0 and up to 1")
        if not 0 <= self.credited <= self.counts.stable.failed:
            raise TypeError("credited must be 0 to the failures of stable")


@dataclass(frozen=True)
class Cursor:
    """The last counts read from one router process."""

    boot: str = ""
    """Identity of the process; another one counts from zero."""
    weights: Mapping[str, Sides] = field(default_factory=dict)
    """Counts by the weight under which the requests were drawn."""
    uncounted: Mapping[str, int] = field(default_factory=dict)
    """Predictions that cannot count, by kind."""


@dataclass(frozen=True)
class Recent:
    """Requests of stable in the last half minute or so: two parts, of which the older one is dropped in turn."""

    now: Counts = field(default_factory=Counts)
    before: Counts = field(default_factory=Counts)
    since: float = 0.0
    """Start of ``now`` in seconds since the epoch."""


@dataclass(frozen=True)
class EvidenceState:
    """What the statistical tests need to continue."""

    hard: tuple[float, ...] = ()
    """Test of the failures that only the candidate had: one natural logarithm per alternative."""
    blocks: int = 0
    """Number of blocks in ``hard``."""
    segments: tuple[Segment, ...] = ()
    """All counts, in the order in which the segments began."""
    recent: Recent = field(default_factory=Recent)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    """Predictions that cannot count, by kind."""
    routers: Mapping[str, Cursor] = field(default_factory=dict)
    """Last counts read from each router."""
    pods: Mapping[str, float] = field(default_factory=dict)
    """The candidate's pods, each with the time until which its termination makes the operator drop what it reads; 0 if
    the pod does not terminate."""
    dropped_until: float = 0.0
    """Time until which the operator drops what it reads, because a pod of the candidate has gone."""

    def __post_init__(self) -> None:
        """Raise TypeError for numbers with which no test can be computed."""
        if self.blocks < 0 or not all(abs(log) <= MOST_LOG for log in self.hard):
            raise TypeError("blocks must be 0 or more, and each logarithm in hard -1e18 to 1e18")


@dataclass(frozen=True)
class Evidence:
    """Requests of both sides during the rollout, and what they prove about the candidate."""

    candidate: Annotated[Counts, Doc("Counted requests to the candidate.")] = field(default_factory=Counts)
    stable: Annotated[Counts, Doc("Counted requests to stable in the same time.")] = field(default_factory=Counts)
    against: Annotated[
        float, Doc("Evidence against the candidate, 1 without any; at 1000 the candidate is rolled back.")
    ] = 1.0
    certified_percent: Annotated[
        float | None,
        Doc(
            "Percentage points, 0 to 50, by which the candidate's failure rate has been proven to exceed that of stable"
            " at most; absent without proof."
        ),
    ] = None
    at: Annotated[Time | None, Doc("Time at which the operator wrote these figures, every 10 s while they change.")] = (
        None
    )
    state: Annotated[
        EvidenceState, Doc("State of the statistical tests, for the operator only; its content may change."), Opaque()
    ] = field(default_factory=EvidenceState)
