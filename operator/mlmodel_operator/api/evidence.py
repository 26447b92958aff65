"""Counts of requests, and the evidence about a candidate that ``status`` keeps between two reconciles."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

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
        if not (
            0 <= self.requests <= _MOST
            and 0 <= self.failed <= _MOST
            and 0 <= self.shared <= _MOST
            and 0 <= self.left <= _MOST
        ):
            raise TypeError("requests, failed, shared and left must be 0 to 2^63")

    @property
    def _numbers(self) -> tuple[int, int, int, int]:
        return self.requests, self.failed, self.shared, self.left

    def __add__(self, other: Counts) -> Counts:
        return Counts(  # written out, because each reconcile adds hundreds
            min(self.requests + other.requests, _MOST),
            min(self.failed + other.failed, _MOST),
            min(self.shared + other.shared, _MOST),
            min(self.left + other.left, _MOST),
        )

    @staticmethod
    def sum_of(counts: Iterable[Counts]) -> Counts:
        """Return the sum of all ``counts``: the same as with ``+``, without an object for each."""
        requests = failed = shared = left = 0
        for item in counts:
            requests += item.requests
            failed += item.failed
            shared += item.shared
            left += item.left
        return Counts(min(requests, _MOST), min(failed, _MOST), min(shared, _MOST), min(left, _MOST))

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


# --------------------------------------------------------------------------------------------------------- rehearsal

MOST_RATIO, MOST_TIME, MOST_GAP = 100, 200, 20
"""Largest bin of the ratios (and, negative, the smallest), of the times, and of the gaps (likewise)."""

_T = TypeVar("_T")


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass: thousands of objects are summed and checked in a decision."""
    return tuple(item.name for item in dataclasses.fields(kind))


def _sum(own: _T, more: _T) -> _T:
    """Return the sums of the fields of two objects of one class.

    If one exceeds the largest count, nothing is added: no honest pod counts so far, and with single counts cut off,
    they would be no counts of the same rows.
    """
    sums = {}
    kind: Any = type(own)  # a type variable is not Hashable in mypy's eyes
    for field_name in _names(kind):
        left, right = getattr(own, field_name), getattr(more, field_name)
        if isinstance(left, Mapping):
            bins = sorted(left.keys() | right.keys(), key=int)
            sums[field_name] = {name: left.get(name, 0) + right.get(name, 0) for name in bins}
            largest = max(sums[field_name].values(), default=0)
        else:
            sums[field_name] = largest = left + right
        if isinstance(largest, int) and largest > _MOST:
            return own
    return type(own)(**sums)


def _check_counts(counts: object) -> None:
    """Raise TypeError for a negative number among the fields, or one that is too large for the tests."""
    kind: Any = type(counts)
    names = _names(kind)
    if not all(0 <= getattr(counts, name) <= _MOST for name in names):
        raise TypeError(f"{', '.join(names)} must be 0 to 2^63")


@functools.cache
def _bins(lowest: int, highest: int) -> frozenset[str]:
    return frozenset(map(str, range(lowest, highest + 1)))


def _check_bins(name: str, bins: Mapping[str, int], lowest: int, highest: int) -> None:
    """Raise TypeError unless ``bins`` is a histogram with whole numbers from ``lowest`` to ``highest`` as names."""
    if not (bins.keys() <= _bins(lowest, highest) and all(0 <= number <= _MOST for number in bins.values())):
        raise TypeError(f"{name} must have bins from {lowest} to {highest}, each with a number of 0 to 2^63")


@dataclass(frozen=True)
class Dropped:
    """Copies that are not part of a pair, because one side was unreachable, shed the copy or did not accept it."""

    candidate: int = 0
    own: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for a number that cannot be a count."""
        _check_counts(self)

    def __add__(self, other: Dropped) -> Dropped:
        return _sum(self, other)


@dataclass(frozen=True)
class Outcomes:
    """Pairs by who answered: "own" is the side of the pod that repeats its requests, thus stable."""

    both: int = 0
    candidate_failed: int = 0
    """Stable answered, and the candidate did not."""
    own_failed: int = 0
    """The candidate answered, and stable did not."""
    both_failed: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for a number that cannot be a count."""
        _check_counts(self)

    def __add__(self, other: Outcomes) -> Outcomes:
        return _sum(self, other)

    @property
    def all(self) -> int:
        """Number of pairs."""
        return self.both + self.candidate_failed + self.own_failed + self.both_failed

    @property
    def answered(self) -> int:
        """Number of pairs in which at least one side answered."""
        return self.all - self.both_failed


@dataclass(frozen=True)
class Again:
    """Requests that stable answered twice, and how many of the rows differ: what a model differs from itself."""

    both: int = 0
    differ: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for numbers that cannot be counts."""
        _check_counts(self)
        if self.differ > self.both:
            raise TypeError("differ must be at most both")

    def __add__(self, other: Again) -> Again:
        return _sum(self, other)


@dataclass(frozen=True)
class Agreement:
    """How the answers of the two sides compare, of one row of each pair that both answered."""

    rows: int = 0
    same: int = 0
    """Rows with the same label, or with numbers that differ by at most a tenth of stable's spread."""
    outside: int = 0
    """Rows in which the candidate's number is outside the range of stable's answers, extended by its spread."""
    candidate_mode: int = 0
    """Rows with the candidate's most frequent answer."""
    own_mode: int = 0
    """Rows with stable's most frequent answer."""
    form: int = 0
    """Rows of answers whose outputs have other names, types or shapes. They are never ``same``."""

    def __post_init__(self) -> None:
        """Raise TypeError for numbers that cannot be counts of the same rows."""
        _check_counts(self)
        most = (self.same + self.form, self.outside, self.candidate_mode, self.own_mode)
        if max(most) > self.rows:
            raise TypeError("same and form together, outside, candidate_mode and own_mode must be at most rows")

    def __add__(self, other: Agreement) -> Agreement:
        return _sum(self, other)


@dataclass(frozen=True)
class Pairs:
    """What the pods of stable counted while they repeated their requests on the candidate and on themselves.

    Each field is one of the page of a pod, which docs/explanation/evidence.md describes; the names of bins are whole
    numbers.
    """

    seen: int = 0
    """Predictions that were offered to the samples."""
    kept: int = 0
    """Requests in the samples."""
    left: int = 0
    """Requests in the samples that have not been repeated."""
    asked: int = 0
    """Requests that have been repeated."""
    dropped: Dropped = field(default_factory=Dropped)
    pairs: Outcomes = field(default_factory=Outcomes)
    again: Again = field(default_factory=Again)
    agree: Agreement = field(default_factory=Agreement)
    gaps: Mapping[str, int] = field(default_factory=dict)
    """Differences of numbers in units of stable's spread: powers of two. Empty for labels."""
    gaps_again: Mapping[str, int] = field(default_factory=dict)
    """The same of stable and itself."""
    ratios: Mapping[str, int] = field(default_factory=dict)
    """Time of the candidate beside that of stable: powers of 1.05 of (candidate + 500 us) / (stable + 500 us)."""
    ratios_again: Mapping[str, int] = field(default_factory=dict)
    """The same of stable and itself."""
    times: Mapping[str, int] = field(default_factory=dict)
    """Times of the candidate: powers of 1.1 microseconds."""
    own_times: Mapping[str, int] = field(default_factory=dict)
    """Times of stable."""

    def __post_init__(self) -> None:
        """Raise TypeError for numbers that cannot be counts of the same pairs."""
        if not all(0 <= number <= _MOST for number in (self.seen, self.kept, self.left, self.asked)):
            raise TypeError("seen, kept, left and asked must be 0 to 2^63")
        for name, bins, lowest, highest in (
            ("gaps", self.gaps, -MOST_GAP, MOST_GAP),
            ("gaps_again", self.gaps_again, -MOST_GAP, MOST_GAP),
            ("ratios", self.ratios, -MOST_RATIO, MOST_RATIO),
            ("ratios_again", self.ratios_again, -MOST_RATIO, MOST_RATIO),
            ("times", self.times, 0, MOST_TIME),
            ("own_times", self.own_times, 0, MOST_TIME),
        ):
            _check_bins(name, bins, lowest, highest)

    def __add__(self, other: Pairs) -> Pairs:
        return _sum(self, other)


@dataclass(frozen=True)
class Repeated:
    """Requests of stable that were repeated on both versions, before a user met the candidate and since."""

    requests: Annotated[int, Doc("Number of different requests that were repeated on both versions, once per pod.")] = 0
    failed_only_on_candidate: Annotated[int, Doc("Number of them that stable answered and the candidate did not.")] = 0
    failed_only_on_stable: Annotated[int, Doc("Number of them that the candidate answered and stable did not.")] = 0
    failed_on_both: Annotated[int, Doc("Number of them that neither answered. They count for neither side.")] = 0
    compared: Annotated[int, Doc("Number of answers that were compared, one row of each request.")] = 0
    agree: Annotated[
        int,
        Doc("Number of them with the same label, or with numbers that differ by at most a tenth of stable's spread."),
    ] = 0
    stable_agrees_percent: Annotated[
        float | None,
        Doc("Percentage of requests for which stable gives the same answer twice; absent if none was asked twice."),
    ] = None
    median_time_ratio: Annotated[
        float | None,
        Doc("Median of the candidate's prediction time divided by that of stable; absent without times."),
    ] = None
    median_milliseconds: Annotated[
        float | None,
        Doc(
            "Median time in milliseconds that the candidate computes for a request, without queue, network and waits"
            " for a CPU; absent without times. It decides only with gates.latency.maxMilliseconds."
        ),
    ] = None
    stable_median_milliseconds: Annotated[
        float | None, Doc("The same of stable, for the same requests; absent without times.")
    ] = None
    certified_percent: Annotated[
        float | None,
        Doc(
            "Percentage points, 0 to 50, by which the candidate has been proven to fail at most more of these requests"
            " than stable; absent without proof."
        ),
    ] = None
    left: Annotated[int, Doc("Number of requests that the pods of stable keep and have not repeated yet.")] = 0
    message: Annotated[str, Doc("The same in one human-readable sentence.")] = ""


@dataclass(frozen=True)
class Page:
    """The last page read from one pod of stable."""

    boot: str = ""
    """Identity of the process for one rehearsal; another one counts from zero."""
    pairs: Pairs = field(default_factory=Pairs)
    is_former: bool = False
    """Whether it is of an earlier rehearsal of the same revision, which does not count for this one. Without a ``boot``
    the first process that the pod shows is such a one: it could not be read before this rehearsal."""
    is_folded: bool = False
    """Whether the pairs are a part of ``past``, and what this process counts since then is left out."""


@dataclass(frozen=True)
class Mark:
    """What was counted at some moment of the rehearsal, for the tests of late changes."""

    number: int = 0
    """From 1, in the order of time."""
    at: float = 0.0
    """Seconds since the epoch."""
    pairs: Pairs = field(default_factory=Pairs)

    def __post_init__(self) -> None:
        """Raise TypeError for a number that no mark has."""
        if not 0 <= self.number <= _MOST:
            raise TypeError("the number of a mark must be 0 to 2^63")


# ------------------------------------------------------------------------------------------------------------ labels


@dataclass(frozen=True)
class Labels:
    """Predictions of one version whose label is known, and how many of them were right."""

    number: int = 0
    right: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for numbers that cannot be counts."""
        if not 0 <= self.right <= self.number <= _MOST:
            raise TypeError("right must be 0 to number, and number 0 to 2^63")

    def __add__(self, other: Labels) -> Labels:
        return _sum(self, other)

    @property
    def wrong(self) -> int:
        """Number of predictions that were wrong."""
        return self.number - self.right

    @property
    def share(self) -> float:
        """Share of right predictions, 0 to 1; 0 without labels."""
        return self.right / self.number if self.number else 0.0


@dataclass(frozen=True)
class LabelSides:
    """Labels of predictions that the router drew for candidate and stable at one weight, or in total."""

    candidate: Labels = field(default_factory=Labels)
    stable: Labels = field(default_factory=Labels)

    def __add__(self, other: LabelSides) -> LabelSides:
        return LabelSides(self.candidate + other.candidate, self.stable + other.stable)


@dataclass(frozen=True)
class LabelPage:
    """The last counts of labels read from one pod."""

    boot: str = ""
    """Identity of the process for one rollout; another one counts from zero."""
    weights: Mapping[str, LabelSides] = field(default_factory=dict)
    """By the weight under which the predictions were drawn."""


@dataclass(frozen=True)
class QualityState:
    """What the quality gate needs to continue."""

    logs: tuple[float, ...] = ()
    """One natural logarithm per alternative."""
    judged: LabelSides = field(default_factory=LabelSides)
    """Labels of the blocks in ``logs``."""
    waiting: Mapping[str, LabelSides] = field(default_factory=dict)
    """Labels of the present block of each weight."""
    pages: Mapping[str, LabelPage] = field(default_factory=dict)
    """Last page read from each pod."""
    kind: str = ""
    """What the model predicts: ``classes`` or ``numbers``; empty before the first label."""
    bin: int = 0
    """Largest bin of errors that are counted as right."""

    def __post_init__(self) -> None:
        """Raise TypeError for numbers with which no test can be computed."""
        if not all(abs(log) <= MOST_LOG for log in self.logs):
            raise TypeError("each logarithm in logs must be -1e18 to 1e18")

    @functools.cached_property
    def labels(self) -> LabelSides:
        """All labels of this rollout."""
        return sum(self.waiting.values(), self.judged)


@dataclass(frozen=True)
class Scores:
    """Labels of predictions of both versions that the router drew at random in this rollout."""

    candidate_labels: Annotated[int, Doc("Number of predictions of the candidate with a label.")] = 0
    candidate_percent: Annotated[float | None, Doc("Percentage of them that were right; absent without labels.")] = None
    stable_labels: Annotated[int, Doc("Number of predictions of stable with a label.")] = 0
    stable_percent: Annotated[float | None, Doc("Percentage of them that were right; absent without labels.")] = None
    message: Annotated[str, Doc("The same in one human-readable sentence, or why no label counts.")] = ""


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
    pages: Mapping[str, Page] = field(default_factory=dict)
    """Last page read from each pod of stable, by the name of the pod."""
    pairs_since: float = 0.0
    """Time of the first pair in seconds since the epoch; 0 before it."""
    past: Pairs = field(default_factory=Pairs)
    """Sum of the last pages of processes that count no more."""
    excused: int = 0
    """Number of pairs that only the candidate failed while one of its pods was replaced."""
    quality: QualityState = field(default_factory=QualityState)
    marks: tuple[Mark, ...] = ()
    """All pairs at some moments, oldest first."""

    def __post_init__(self) -> None:
        """Raise TypeError for numbers with which no test can be computed."""
        if self.blocks < 0 or not all(abs(log) <= MOST_LOG for log in self.hard):
            raise TypeError("blocks must be 0 or more, and each logarithm in hard -1e18 to 1e18")
        if not 0 <= self.excused <= _MOST:
            raise TypeError("excused must be 0 to 2^63")

    @functools.cached_property
    def pairs(self) -> Pairs:
        """All pairs of this rehearsal, without those that a replaced pod of the candidate failed."""
        pages = (page.pairs for page in self.pages.values() if not page.is_former)
        found = sum(pages, self.past)
        failed = max(found.pairs.candidate_failed - self.excused, 0)
        return dataclasses.replace(found, pairs=dataclasses.replace(found.pairs, candidate_failed=failed))


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
