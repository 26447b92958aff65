"""Sends each kept request to the candidate and to the own server, in random order, and counts the pairs of answers.

One request at a time, slowly enough that clients do not notice. A request and its answers are in this process only
while it is being sent.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.client import Broken, Late, Unknown, Unreachable
from mlmodel_server.rehearsal.compare import FAILED, Answer, Output, Pairs, draw_row
from mlmodel_server.rehearsal.sample import Entry, Place
from mlmodel_server.rehearsal.target import Target
from mlmodel_server.rehearsal.waiting import Waiting

IDLE_SECONDS = 0.5
"""Pause when there is nothing to send; also how often the file with the candidate and the sample are looked at."""

OWN_SHARE = 0.05
"""Maximum share of the time in which the own server works on copies: a client that comes then waits for it."""

SLOW_SHARE = 0.01
"""Part of it for the slow requests, while others wait."""

CANDIDATE_SHARE = 0.5
"""The same of the candidate, which has few clients or none."""

CPU_SHARE = 0.1
"""Maximum share of one CPU for this process."""

HANDLING_SECONDS, HANDLING_SECONDS_PER_BYTE = 0.0005, 1e-8
"""What a server needs for a copy besides the prediction."""

AGAIN_FIRST, AGAIN_SHARE = 20, 0.1
"""The own server answers the first requests twice, then this share of them."""

TIMES = 100
"""So many pairs of times are measured, also if the sample has fewer different requests."""

LIMIT_SECONDS, LIMIT_FACTOR = 1.0, 3.0
"""The candidate has this many seconds, and this many times what the own server takes."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 2.0

LATE = Answer(True)
"""The candidate did not answer within its limit."""

REJECTED = Answer(True)
"""The server rejected the request (4xx). What stable rejects and the candidate answers does not count: else a client
could hide the failures of a candidate behind such requests."""

BROKEN_SECONDS = 30.0
"""Pause after a connection to the own server broke: its worker may have crashed, and four crashes in a minute end the
server. Copies alone never cause so many."""

_OWN_LATE = "no answer in time"

_NOT_ACCEPTED = "not accepted: check that both revisions have the same API keys, and the clocks of the nodes"

_SHED = (429, 503)
_ABSENT = (401, 403, 404, 405)

Kind = Literal["usual", "slow", "repeat"]
"""A "repeat" was sent before, and only its times count."""

logger = logging.getLogger(__name__)


class Requests(Protocol):
    """The kept requests; see :class:`.sample.Sample`."""

    @property
    def seen(self) -> int:
        """Number of predictions since the start."""

    @property
    def kept(self) -> int:
        """Number of requests that are kept."""

    def places(self) -> list[Place]:
        """Return the place of each."""

    def read(self, slot: int, sequence: int) -> Entry | None:
        """Return one, None if it is no longer kept."""


class Server(Protocol):
    """A connection to a server; see :class:`.client.Client`."""

    def post(self, path: str, headers: dict[bytes, bytes], body: bytes, seconds: float) -> tuple[int, bytes | None]:
        """Return status and body of the response; see there for the errors."""

    def close(self) -> None:
        """Close the connection."""


class Progress(Protocol):
    """What outlives this process; see :class:`.progress.Progress`."""

    def begin(self, name: bytes) -> list[int]:
        """Return what was noted for this rehearsal."""

    def note(self, digest: int) -> None:
        """Note a request that is about to be sent."""

    def undo(self) -> None:
        """Forget the request that was noted last."""


class _Reply(msgspec.Struct):
    status: int
    own_us: int
    busy_us: int = 0
    outputs: list[Output] = []


_decoder = msgspec.msgpack.Decoder(_Reply)


class _Dropped(Exception):
    """A side gave no answer that counts. ``shed``: it accepts copies, but not this one now."""

    def __init__(self, side: _Side, reason: str, shed: bool = False) -> None:
        super().__init__()
        self.side, self.reason, self.shed = side, reason, shed


@dataclass(slots=True)
class _Side:
    """One of the two servers, as this process has experienced it."""

    revision: str
    server: Server
    dropped: int = 0
    failures: int = 0
    """Of them, those since its last answer."""
    reasons: set[str] = field(default_factory=set)
    """Why, for the log."""
    resume: float = 0.0
    """When it may be sent a copy again."""
    answers: int = 0
    seconds: float = 0.0
    """Sum over its answers."""
    busy: float = 0.0
    """Seconds that it worked on the present request."""
    is_late: bool = False
    """Whether it was late and has answered nothing since: it may still work on that copy, so no other gets a turn."""

    @property
    def average(self) -> float:
        return self.seconds / self.answers if self.answers else 0.0


@dataclass(slots=True)
class _Rehearsal:
    """What is kept for one candidate."""

    target: Target
    own: _Side
    candidate: _Side
    waiting: Waiting
    boot: str = field(default_factory=lambda: os.urandom(8).hex())
    pairs: Pairs = field(default_factory=Pairs)
    answered: list[Place] = field(default_factory=list)
    """The first requests that both sides answered, whose times may be measured again."""
    timed: int = 0
    """Pairs whose times were measured, or could not be."""
    asked: int = 0
    refreshed: float = -IDLE_SECONDS
    credit: float = 0.0
    """Seconds for which the own server may work on a slow request, beside the others; negative after one."""
    credited: float = 0.0

    @property
    def left(self) -> int:
        """What is still to be sent."""
        return len(self.waiting) + self.repeats

    @property
    def repeats(self) -> int:
        """How many times are still measured again: few different requests show a slow candidate only so."""
        return max(0, TIMES - self.timed) if self.answered else 0

    def refresh(self, places: list[Place], now: float) -> None:
        """Note which requests are new in the sample, and forget those that are gone."""
        present = set(places)
        self.waiting.refresh(places)
        self.answered = [place for place in self.answered if place in present]
        self.refreshed = now

    def next(self, now: float) -> tuple[Place, Kind] | None:
        """Remove and return the request to send next, and of which kind it is; None if there is none yet."""
        usual, slow = self.waiting.usual, self.waiting.slow
        place, slowest = usual.next(), slow.next()
        cost = slowest.microseconds * 1e-6 if slowest else 0.0
        self.credit = min(self.credit + OWN_SHARE * (now - self.credited), cost)
        self.credited = now
        if slowest and self.credit >= (cost if place else 0.0):  # beside others it pays before
            slow.remove(slowest)
            return slowest, "slow"
        if place:
            usual.remove(place)
            return place, "usual"
        if self.repeats and not slowest:
            return self.answered[self.timed % len(self.answered)], "repeat"
        return None

    def pause(self, kind: Kind) -> float:
        """Return how long the own server rests after a request of this kind: a slow one is paid from the credit."""
        has_slow = bool(len(self.waiting.slow)) or self.credit < -1e-9
        share = OWN_SHARE - SLOW_SHARE if has_slow else OWN_SHARE
        self.credit -= self.own.busy
        return 0.0 if kind == "slow" else self.own.busy / share

    def answer(self, place: Place, kind: Kind, own: Answer, candidate: Answer, again: Answer | None) -> None:
        """Count a pair of answers."""
        self.timed += 1
        if kind == "repeat":
            self.pairs.add_times(own, candidate)
            return
        if not (own is REJECTED and not candidate.failed):
            self.pairs.add(own, candidate, again)
        self.asked += 1
        if not own.failed and not candidate.failed and len(self.answered) < TIMES:
            self.answered.append(place)

    def drop(self, place: Place, kind: Kind, shed: bool) -> None:
        """Send a request that a side dropped again, if it counts, at some later time."""
        if kind == "repeat":
            self.timed += 1
        elif not self.waiting.requeue(place, shed):
            self.asked += 1


class Sender:
    """Does one step at a time; the process calls :meth:`step` forever, and the page :meth:`figures`."""

    def __init__(
        self,
        requests: Requests,
        target: Callable[[], Target | None],
        own: tuple[str, Server],
        candidate: Callable[[str], Server],
        *,
        timeout: float,
        progress: Progress,
        seed: int = 0,
    ) -> None:
        """``own`` is revision and server of this pod, ``candidate`` returns the server of another revision.
        ``timeout`` is the deadline of a request in seconds."""
        self._requests, self._target, self._own, self._candidate = requests, target, own, candidate
        self._timeout, self._progress = timeout, progress
        self._random = random.Random(seed)  # noqa: S311  # draws an order, guards nothing
        self._rehearsal: _Rehearsal | None = None
        self._active = False
        self._resume = 0.0
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def step(self) -> float:
        """Send the next request if it is time, and return the seconds until the next step."""
        target = self._target()
        self._active = target is not None and target.revision != self._own[0]
        if target is None or not self._active:
            if self._rehearsal:
                self._rehearsal.own.server.close()
                self._rehearsal.candidate.server.close()
            return IDLE_SECONDS
        rehearsal, now = self._rehearsal_of(target), time.monotonic()
        resume = max(self._resume, rehearsal.own.resume, rehearsal.candidate.resume)
        if now < resume:
            return min(IDLE_SECONDS, resume - now)
        found = self._next(rehearsal, now)
        if found is None:
            return IDLE_SECONDS
        self._send(rehearsal, *found, now)
        return min(IDLE_SECONDS, max(0.0, self._resume - time.monotonic()))

    def figures(self) -> dict[str, Any]:
        """Return the content of the page. Safe from any thread."""
        with self._lock:
            rehearsal = self._rehearsal if self._active else None
            counts = rehearsal.pairs if rehearsal else Pairs()
            return {
                "boot": rehearsal.boot if rehearsal else "0" * 16,
                "session": rehearsal.target.session if rehearsal else "",
                "revision": self._own[0],
                "candidate": rehearsal.target.revision if rehearsal else "",
                "seconds": int(time.monotonic() - self._started),
                "seen": self._requests.seen,
                "kept": self._requests.kept,
                "left": rehearsal.left if rehearsal else 0,
                "asked": rehearsal.asked if rehearsal else 0,
                "dropped": {
                    "candidate": rehearsal.candidate.dropped if rehearsal else 0,
                    "own": rehearsal.own.dropped if rehearsal else 0,
                },
                **counts.figures(),
            }

    def _rehearsal_of(self, target: Target) -> _Rehearsal:
        """Return what is kept for this candidate. Another one begins with nothing; the same after a pause goes on."""
        former = self._rehearsal
        if former and former.target[:2] == target[:2]:
            former.target = target  # the API keys may have changed
            return former
        if former:
            former.candidate.server.close()
        own = _Side(*self._own)
        # The process before this one may have sent some: none counts twice.
        waiting = Waiting(self._progress.begin(f"{target.revision} {target.nonce}".encode()))
        waiting.start(self._requests.places(), self._random)
        made = _Rehearsal(target, own, _Side(target.revision, self._candidate(target.revision)), waiting)
        made.credited = time.monotonic()
        self._resume = 0.0
        with self._lock:
            self._rehearsal = made
        logger.info("rehearsal started", extra={"candidate": target.revision})
        return made

    def _next(self, rehearsal: _Rehearsal, now: float) -> tuple[Entry, Place, Kind] | None:
        """Return the next request that is still kept."""
        if now - rehearsal.refreshed >= IDLE_SECONDS:
            places = self._requests.places()
            with self._lock:
                rehearsal.refresh(places, now)
        while (found := rehearsal.next(now)) is not None:
            place, kind = found
            if entry := self._requests.read(place.slot, place.sequence):
                return entry, place, kind
            with self._lock:
                rehearsal.waiting.forget(place)
                rehearsal.answered = [other for other in rehearsal.answered if other != place]
        return None

    def _send(self, rehearsal: _Rehearsal, entry: Entry, place: Place, kind: Kind, started: float) -> None:
        own, candidate, used = rehearsal.own, rehearsal.candidate, time.thread_time()
        own.busy = candidate.busy = 0.0
        was_late = candidate.is_late
        if kind != "repeat":
            self._progress.note(place.digest)
        try:
            answers = self._answers(rehearsal, entry, _draw(place), kind)
        except _Dropped as dropped:
            side = dropped.side
            if dropped.reason == _OWN_LATE:  # the request is too slow for both
                candidate.is_late = was_late
            if dropped.reason not in side.reasons:
                side.reasons.add(dropped.reason)
                values = {"revision": side.revision, "reason": dropped.reason}
                logger.info("copies are dropped", extra=values)
            side.resume = time.monotonic() + min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**side.failures)
            side.failures = min(side.failures + 1, 10)
            with self._lock:
                side.dropped += 1
                rehearsal.drop(place, kind, dropped.shed)
            if kind != "repeat":
                self._progress.undo()
        else:
            own.failures = candidate.failures = 0
            with self._lock:
                rehearsal.answer(place, kind, *answers)
        cpu = time.thread_time() - used
        self._resume = started + max(rehearsal.pause(kind), candidate.busy / CANDIDATE_SHARE, cpu / CPU_SHARE)

    def _answers(
        self, rehearsal: _Rehearsal, entry: Entry, draw: int, kind: Kind
    ) -> tuple[Answer, Answer, Answer | None]:
        """Return the answers of the own server, of the candidate, and perhaps a second one of the own server."""
        own, candidate, key = rehearsal.own, rehearsal.candidate, rehearsal.target.key
        order = [own, candidate]
        if kind != "repeat" and (rehearsal.asked < AGAIN_FIRST or self._random.random() < AGAIN_SHARE):
            order.append(own)
        self._random.shuffle(order)
        if not own.answers:  # its time is the limit of the candidate
            order.sort(key=lambda side: side is candidate)
        of_own: list[Answer] = []
        of_candidate: Answer | None = None
        seconds = 0.0
        for side in order:
            if side is own and of_own and of_own[0].failed:
                continue  # a second answer would be compared with nothing
            if side is own:
                former = own.seconds
                of_own.append(self._ask(own, key, entry, draw, self._timeout))
                seconds = max(seconds, own.seconds - former)
            else:
                limit = self._limit(max(own.average, seconds))
                of_candidate = self._ask(candidate, key, entry, draw, limit)
        if of_candidate is LATE and 2 * limit < (longer := self._limit(seconds)):
            of_candidate = self._ask(
                candidate, key, entry, draw, longer
            )  # a large request: the own server needs long too
        assert of_candidate is not None
        return of_own[0], of_candidate, of_own[1] if len(of_own) > 1 else None

    def _limit(self, own_seconds: float) -> float:
        return min(self._timeout, LIMIT_SECONDS + LIMIT_FACTOR * own_seconds)

    def _ask(self, side: _Side, key: bytes, entry: Entry, draw: int, seconds: float) -> Answer:
        """Send one copy and return the answer. Raise :class:`_Dropped` if there is none that counts."""
        content = entry.content
        headers = authentic.sign(key, side.revision, content, time.time(), draw)
        started = time.monotonic()
        try:
            status, body = side.server.post(authentic.PATH, headers, content.body, seconds)
        except Unreachable:
            raise _Dropped(side, "no connection") from None
        except Unknown:
            raise _Dropped(side, _NOT_ACCEPTED) from None
        except Late:
            side.busy += time.monotonic() - started
            if side.revision == self._own[0]:  # its clients go first
                raise _Dropped(side, _OWN_LATE, shed=True) from None
            side.is_late = True
            return LATE
        except Broken:
            if side.revision == self._own[0]:
                side.resume = time.monotonic() + BROKEN_SECONDS
            return FAILED
        taken = time.monotonic() - started
        if status in _SHED:
            return _shed(side, taken)
        if status in _ABSENT:
            raise _Dropped(side, _NOT_ACCEPTED)
        if status != 200:
            side.busy += taken
            return FAILED
        if body is None:
            side.busy += taken
            return Answer(False)
        try:
            reply = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Dropped(side, "unreadable answer", shed=True) from None
        handling = HANDLING_SECONDS + HANDLING_SECONDS_PER_BYTE * (len(body) + len(content.body))
        side.busy += min(taken, reply.busy_us * 1e-6 + handling) if reply.busy_us > 0 else taken
        if reply.status in _SHED:
            return _shed(side, taken)
        side.is_late = False
        side.answers += 1
        side.seconds += taken
        return _answer(reply, draw)


def _shed(side: _Side, seconds: float) -> Answer:
    """Return a failure if a copy that the side never answered is in the way. Raise :class:`_Dropped` otherwise."""
    if side.is_late:
        side.busy += seconds
        return FAILED
    raise _Dropped(side, "overloaded", shed=True)


def _draw(place: Place) -> int:
    """Return a number that selects the row to compare: the same for both sides, and no client can compute it."""
    return place.digest % 2**64


def _answer(reply: _Reply, draw: int) -> Answer:
    if reply.status != 200:
        return REJECTED if 400 <= reply.status < 500 else FAILED
    try:
        row = draw_row(reply.outputs[0], draw) if reply.outputs else None
    except ValueError:
        row = None
    return Answer(False, max(1, reply.own_us), row)
