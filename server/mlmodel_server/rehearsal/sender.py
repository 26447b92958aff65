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
from typing import Any, Protocol

import msgspec

from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.client import Broken, Late, Unknown, Unreachable
from mlmodel_server.rehearsal.compare import FAILED, Answer, Output, Pairs, draw_row, hash_of
from mlmodel_server.rehearsal.sample import Entry
from mlmodel_server.rehearsal.target import Target

IDLE_SECONDS = 0.5
"""Pause when there is nothing to send; also how often the file with the candidate and the sample are looked at."""

OWN_SHARE = 0.05
"""Maximum share of the time in which the own server works on copies: a client that comes then waits for it."""

CANDIDATE_SHARE = 0.5
"""The same of the candidate, which has few clients or none."""

CPU_SHARE = 0.1
"""Maximum share of one CPU for this process."""

HANDLING_SECONDS, HANDLING_SECONDS_PER_BYTE = 0.0005, 1e-8
"""What a server needs for a copy besides the prediction."""

AGAIN_FIRST, AGAIN_SHARE = 20, 0.1
"""The own server answers the first requests twice, then this share of them."""

ATTEMPTS = 3
"""Maximum number of times that a request is sent again because a server shed it."""

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

logger = logging.getLogger(__name__)


class Requests(Protocol):
    """The kept requests; see :class:`.sample.Sample`."""

    @property
    def seen(self) -> int:
        """Number of predictions since the start."""

    @property
    def kept(self) -> int:
        """Number of requests that are kept."""

    def places(self) -> list[tuple[int, int]]:
        """Return slot and number of each."""

    def read(self, slot: int, sequence: int) -> Entry | None:
        """Return one, None if it is no longer kept."""


class Server(Protocol):
    """A connection to a server; see :class:`.client.Client`."""

    def post(self, path: str, headers: dict[bytes, bytes], body: bytes, seconds: float) -> tuple[int, bytes | None]:
        """Return status and body of the response; see there for the errors."""

    def close(self) -> None:
        """Close the connection."""


class Memory(Protocol):
    """A few bytes that outlive this process; see :mod:`.process`."""

    def read(self) -> bytes:
        """Return what was written last, by this process or its predecessor."""

    def write(self, content: bytes) -> None:
        """Replace the content."""


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
    """What is kept for one candidate. Requests are pairs of slot and number."""

    target: Target
    own: _Side
    candidate: _Side
    boot: str = field(default_factory=lambda: os.urandom(8).hex())
    pairs: Pairs = field(default_factory=Pairs)
    known: set[tuple[int, int]] = field(default_factory=set)
    first: list[tuple[int, int]] = field(default_factory=list)
    """What the sample had at the start, in random order."""
    fresh: list[tuple[int, int]] = field(default_factory=list)
    """What it kept since then; the newest is last, and sent first."""
    later: list[tuple[int, int]] = field(default_factory=list)
    """What a side has dropped."""
    attempts: dict[tuple[int, int], int] = field(default_factory=dict)
    asked: int = 0
    refreshed: float = -IDLE_SECONDS

    @property
    def left(self) -> int:
        return len(self.first) + len(self.fresh) + len(self.later)

    def refresh(self, keys: list[tuple[int, int]]) -> None:
        """Note which requests are new in the sample, and forget those that are gone."""
        present = set(keys)
        self.fresh += sorted((key for key in keys if key not in self.known), key=lambda key: key[1])
        self.known = present
        self.first, self.fresh, self.later = (
            [key for key in part if key in present] for part in (self.first, self.fresh, self.later)
        )
        self.attempts = {key: count for key, count in self.attempts.items() if key in present}

    def next(self) -> tuple[int, int] | None:
        """Remove and return the request to send next."""
        for part in (self.first, self.fresh, self.later):
            if part:
                return part.pop() if part is not self.later else part.pop(0)
        return None

    def requeue(self, key: tuple[int, int], shed: bool) -> None:
        """Send a dropped request again, behind all others; only a few times if it was shed."""
        self.attempts[key] = count = self.attempts.get(key, 0) + shed
        if count < ATTEMPTS:
            self.later.append(key)
        else:
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
        memory: Memory,
        seed: int = 0,
    ) -> None:
        """``own`` is revision and server of this pod, ``candidate`` returns the server of another revision.
        ``timeout`` is the deadline of a request in seconds."""
        self._requests, self._target, self._own, self._candidate = requests, target, own, candidate
        self._timeout, self._memory = timeout, memory
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
        entry = self._next(rehearsal, now)
        if entry is None:
            return IDLE_SECONDS
        self._send(rehearsal, entry, now)
        return min(IDLE_SECONDS, max(0.0, self._resume - time.monotonic()))

    def figures(self) -> dict[str, Any]:
        """Return the content of the page. Safe from any thread."""
        with self._lock:
            rehearsal = self._rehearsal if self._active else None
            counts = rehearsal.pairs if rehearsal else Pairs()
            return {
                "boot": rehearsal.boot if rehearsal else "0" * 16,
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
        made = _Rehearsal(target, own, _Side(target.revision, self._candidate(target.revision)))
        name, keys = f"{target.revision} {target.nonce}".encode(), self._requests.places()
        if not former and self._memory.read() == name:
            made.refresh(keys)  # the process before this one may have sent them: none counts twice
            made.fresh.clear()
        else:
            made.known, made.first = set(keys), self._random.sample(keys, len(keys))
        self._memory.write(name)
        self._resume = 0.0
        with self._lock:
            self._rehearsal = made
        logger.info("rehearsal started", extra={"candidate": target.revision})
        return made

    def _next(self, rehearsal: _Rehearsal, now: float) -> Entry | None:
        """Return the next request that is still kept."""
        if now - rehearsal.refreshed >= IDLE_SECONDS:
            rehearsal.refreshed = now
            with self._lock:
                rehearsal.refresh(self._requests.places())
        while (key := rehearsal.next()) is not None:
            entry = self._requests.read(*key)
            if entry:
                return entry
        return None

    def _send(self, rehearsal: _Rehearsal, entry: Entry, started: float) -> None:
        own, candidate, used = rehearsal.own, rehearsal.candidate, time.thread_time()
        own.busy = candidate.busy = 0.0
        was_late = candidate.is_late
        key = entry.slot, entry.sequence
        try:
            answers = self._answers(rehearsal, entry)
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
                rehearsal.requeue(key, dropped.shed)
        else:
            own.failures = candidate.failures = 0
            is_laxer = answers[0] is REJECTED and not answers[1].failed
            with self._lock:
                if not is_laxer:
                    rehearsal.pairs.add(*answers)
                rehearsal.asked += 1
        cpu = time.thread_time() - used
        self._resume = started + max(own.busy / OWN_SHARE, candidate.busy / CANDIDATE_SHARE, cpu / CPU_SHARE)

    def _answers(self, rehearsal: _Rehearsal, entry: Entry) -> tuple[Answer, Answer, Answer | None]:
        """Return the answers of the own server, of the candidate, and perhaps a second one of the own server."""
        own, candidate, key = rehearsal.own, rehearsal.candidate, rehearsal.target.key
        order = [own, candidate]
        if rehearsal.asked < AGAIN_FIRST or self._random.random() < AGAIN_SHARE:
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
                of_own.append(self._ask(own, key, entry, self._timeout))
                seconds = max(seconds, own.seconds - former)
            else:
                limit = self._limit(max(own.average, seconds))
                of_candidate = self._ask(candidate, key, entry, limit)
        if of_candidate is LATE and 2 * limit < (longer := self._limit(seconds)):
            of_candidate = self._ask(candidate, key, entry, longer)  # a large request: the own server needs long too
        assert of_candidate is not None
        return of_own[0], of_candidate, of_own[1] if len(of_own) > 1 else None

    def _limit(self, own_seconds: float) -> float:
        return min(self._timeout, LIMIT_SECONDS + LIMIT_FACTOR * own_seconds)

    def _ask(self, side: _Side, key: bytes, entry: Entry, seconds: float) -> Answer:
        """Send one copy and return the answer. Raise :class:`_Dropped` if there is none that counts."""
        content = entry.content
        headers = authentic.sign(key, side.revision, content, time.time())
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
        return _answer(reply, entry)


def _shed(side: _Side, seconds: float) -> Answer:
    """Return a failure if a copy that the side never answered is in the way. Raise :class:`_Dropped` otherwise."""
    if side.is_late:
        side.busy += seconds
        return FAILED
    raise _Dropped(side, "overloaded", shed=True)


def _answer(reply: _Reply, entry: Entry) -> Answer:
    if reply.status != 200:
        return REJECTED if 400 <= reply.status < 500 else FAILED
    draw = hash_of(f"{entry.slot} {entry.sequence}")
    try:
        row = draw_row(reply.outputs[0], draw) if reply.outputs else None
    except ValueError:
        row = None
    return Answer(False, max(1, reply.own_us), row)
