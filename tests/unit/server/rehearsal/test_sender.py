"""The sender: what it sends in which order, what counts, what it sends again, how it spares the servers."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from mlmodel_server.protocol.binary import to_raw
from mlmodel_server.rehearsal import authentic, sender
from mlmodel_server.rehearsal.authentic import Content, key_of, verify
from mlmodel_server.rehearsal.client import Broken, Late, Unreachable
from mlmodel_server.rehearsal.compare import WARM_UP
from mlmodel_server.rehearsal.progress import Progress
from mlmodel_server.rehearsal.sample import Entry, Place
from mlmodel_server.rehearsal.sender import AGAIN_FIRST, TIMES, Sender
from mlmodel_server.rehearsal.target import Target
from mlmodel_server.rehearsal.waiting import ATTEMPTS
from mlmodel_server.startup import workers
from mlmodel_server.tensors import named

STABLE, CANDIDATE = "aaaa", "bbbb"
KEY = key_of("0" * 64, b"")

Handler = Callable[["Fake", Content], Any]


def reply(value: Any = 1, status: int = 200, microseconds: int = 1000) -> tuple[int, bytes]:
    """What a server answers to a copy."""
    tensor = named("predict", np.asarray([value]))
    outputs = [{"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape, "data": to_raw(tensor)}]
    times = {"own_us": microseconds, "busy_us": 2 * microseconds if status == 200 else 0}  # it waited for a CPU
    body = {"status": status, **times, "outputs": outputs if status == 200 else []}
    return 200, msgspec.msgpack.encode(body)


class Clock:
    """A clock that only sleeping and the servers move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cpu = 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        self.cpu += self.work
        return self.cpu

    work = 0.0
    time = staticmethod(time.time)


class Fake:
    """A server that answers with what a handler returns, and checks each copy."""

    def __init__(self, world: World, revision: str) -> None:
        self.world, self.revision = world, revision
        self.handler: Handler = lambda *_: reply()
        self.limits: list[float] = []
        self.closed = 0
        self.took = 0.001
        self.worked = 0.0

    def post(self, path: str, headers: dict[bytes, bytes], body: bytes, seconds: float) -> tuple[int, bytes | None]:
        assert path == "/rehearsal"
        assert {name for name in headers if name.startswith(b"x-")} == {
            authentic.MARK,
            authentic.TARGET,
            authentic.DRAW,
        }
        content = verify(self.world.key, self.revision, headers, body, time.time())
        assert content is not None, "signed for this revision"
        self.world.log.append((self.revision, content.body))
        self.limits.append(seconds)
        if self.took > seconds:
            self.world.clock.now += seconds
            raise Late
        self.world.clock.now += self.took
        answer = self.handler(self, content)
        if isinstance(answer, Exception):
            raise answer
        status, body_ = answer
        return status, body_

    def close(self) -> None:
        self.closed += 1


class World:
    """Kept requests, two servers and a file that names the candidate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, requests: int = 0, times: int = 0) -> None:
        self.clock = Clock()
        monkeypatch.setattr(sender, "time", self.clock)
        monkeypatch.setattr(sender, "TIMES", times)
        self.key = KEY
        self.target: Target | None = Target(CANDIDATE, "0" * 64, KEY)
        self.kept_entries: dict[tuple[int, int], Content] = {}
        self.log: list[tuple[str, bytes]] = []
        self.read_keys: list[tuple[int, int]] = []
        self.numbers = itertools.count(1)
        self.own = Fake(self, STABLE)
        self.candidates: dict[str, Fake] = {}
        self.progress = Progress()
        self.microseconds: dict[bytes, int] = {}
        self.sender = self.start()
        self.add(requests)

    @property
    def candidate(self) -> Fake:
        return self.of(CANDIDATE)

    def of(self, revision: str) -> Fake:
        return self.candidates.setdefault(revision, Fake(self, revision))

    def start(self) -> Sender:
        return Sender(
            self, lambda: self.target, (STABLE, self.own), self.of, timeout=10.0, progress=self.progress, seed=7
        )

    def add(self, count: int = 1, slot: int = 0, body: bytes = b"", microseconds: int = 0) -> None:
        """Keep requests with other bodies, or with this one."""
        for number in itertools.islice(self.numbers, count):
            sent = body or b"%d" % number
            self.kept_entries[slot, number] = Content(b"/predict", b"application/json", b"", b"", sent)
            self.microseconds[sent] = microseconds

    @property
    def seen(self) -> int:
        return 10 * len(self.kept_entries)

    @property
    def kept(self) -> int:
        return len(self.kept_entries)

    def places(self) -> list[Place]:
        return [
            Place(*place, hash(content), self.microseconds.get(content.body, 0))
            for place, content in self.kept_entries.items()
        ]

    def read(self, slot: int, sequence: int) -> Entry | None:
        content = self.kept_entries.get((slot, sequence))
        return Entry(slot, sequence, 0.0, content) if content else None

    def steps(self, seconds: float) -> dict[str, Any]:
        """Let time pass, and return the figures."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += max(1e-6, self.sender.step())
        return self.sender.figures()

    def bodies(self, revision: str) -> list[bytes]:
        return [body for asked, body in self.log if asked == revision]


def test_every_request_is_sent_once_to_the_candidate_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 100)
    figures = world.steps(60)
    sent = world.bodies(CANDIDATE)
    assert sorted(map(int, sent)) == list(range(1, 101))
    assert sent != sorted(sent, key=int)
    assert figures["pairs"] == {"both": 100, "candidate_failed": 0, "own_failed": 0, "both_failed": 0}
    assert (figures["asked"], figures["left"], figures["kept"], figures["seen"]) == (100, 0, 100, 1000)
    assert figures["agree"]["same"] == 100
    assert (figures["revision"], figures["candidate"], len(figures["boot"])) == (STABLE, CANDIDATE, 16)
    assert (figures["session"], len(figures["session"])) == (Target(CANDIDATE, "0" * 64, b"").session, 16)
    assert sum(figures["ratios"].values()) == 100 - WARM_UP


def test_either_side_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 200)
    world.steps(60)
    firsts = Counter(next(log)[0] for _, log in itertools.groupby(world.log, key=lambda sent: sent[1]))
    assert 60 < firsts[CANDIDATE] < 140
    assert world.log[0][0] == STABLE, "its time is the limit of the candidate"


def test_the_first_requests_and_a_tenth_of_the_others_are_answered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 1020)
    figures = world.steps(600)
    twice = [count for count in Counter(world.bodies(STABLE)).values() if count == 2]
    assert AGAIN_FIRST + 70 < len(twice) < AGAIN_FIRST + 130
    assert figures["again"] == {"both": len(twice), "differ": 0}


def test_new_requests_follow_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3)
    world.steps(10)
    world.add(5)
    figures = world.steps(10)
    assert list(map(int, world.bodies(CANDIDATE)[3:])) == [8, 7, 6, 5, 4]
    assert figures["asked"] == 8


def test_a_request_that_is_no_longer_kept_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 50)
    world.sender.step()
    for number in range(1, 51):
        if world.bodies(CANDIDATE) != [b"%d" % number]:
            del world.kept_entries[0, number]
    figures = world.steps(10)
    assert (len(world.log), figures["left"], figures["asked"]) == (3, 0, 1)


@pytest.mark.parametrize("failure", [reply(status=400), reply(status=500), (500, b""), (413, b""), Broken()])
def test_what_the_candidate_fails(monkeypatch: pytest.MonkeyPatch, failure: Any) -> None:
    world = World(monkeypatch, 40)
    world.candidate.handler = lambda *_: failure
    figures = world.steps(60)
    assert figures["pairs"] == {"both": 0, "candidate_failed": 40, "own_failed": 0, "both_failed": 0}
    assert figures["dropped"] == {"candidate": 0, "own": 0}


def test_what_both_fail_and_what_only_stable_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 40)
    world.own.handler = lambda *_: reply(status=500)
    world.candidate.handler = lambda _, content: reply(status=400 if int(content.body) % 2 else 200)
    assert world.steps(60)["pairs"] == {"both": 0, "candidate_failed": 0, "own_failed": 20, "both_failed": 20}


def test_a_candidate_that_hangs_fails_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 100)
    world.own.took, world.candidate.took = 0.1, 3600.0
    figures = world.steps(30)
    assert figures["pairs"]["candidate_failed"] >= 10, "enough for a verdict within half a minute"
    assert figures["pairs"]["candidate_failed"] == sum(figures["pairs"].values())
    assert world.candidate.limits == pytest.approx([1.3] * len(world.candidate.limits))


def test_what_waits_behind_a_copy_that_hangs_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 30)
    hangs = iter([False] * 3 + [True] + [False] * 100)
    sheds = iter([False] * 3 + [True] * 5 + [False] * 100)

    def handler(fake: Fake, content: Content) -> Any:
        if next(hangs):
            return Late()
        return reply(status=503 if next(sheds) else 200)

    world.candidate.handler = handler
    figures = world.steps(60)
    assert figures["pairs"] == {"both": 24, "candidate_failed": 6, "own_failed": 0, "both_failed": 0}
    assert figures["dropped"]["candidate"] == 0


def test_the_limit_is_at_most_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 2)
    world.own.took, world.candidate.took = 5.0, 9.0
    figures = world.steps(500)
    assert figures["pairs"]["both"] == 2
    assert world.candidate.limits == [10.0, 10.0]


def test_a_large_request_may_take_longer_than_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 200)

    def is_large(content: Content) -> bool:
        return int(content.body) > 196

    def handler(fake: Fake, content: Content) -> Any:
        world.clock.now += 2.0 if is_large(content) else 0.0
        return reply()

    world.own.handler = handler
    world.candidate.handler = lambda fake, content: Late() if is_large(content) and fake.limits[-1] < 2 else reply()
    assert world.steps(2000)["pairs"] == {"both": 200, "candidate_failed": 0, "own_failed": 0, "both_failed": 0}
    sent = Counter(world.bodies(CANDIDATE))
    assert 0 < sum(count == 2 for count in sent.values()) <= 4, "those that the candidate was sent first"


@pytest.mark.parametrize("absent", [Unreachable(), (403, b""), (404, b"")], ids=["no connection", "403", "404"])
def test_a_candidate_that_appears_late_gets_every_request(monkeypatch: pytest.MonkeyPatch, absent: Any) -> None:
    world = World(monkeypatch, 30)
    world.candidate.handler = lambda *_: absent
    figures = world.steps(60)
    assert sum(figures["pairs"].values()) == 0
    assert figures["dropped"]["own"] == 0
    assert 20 < figures["dropped"]["candidate"] < 60, "it backs off"
    assert figures["left"] == 30
    world.candidate.handler = lambda *_: reply()
    assert world.steps(30)["pairs"]["both"] == 30


def test_what_a_side_sheds_is_sent_again_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for side, shed in itertools.product(("own", "candidate"), (reply(status=503), reply(status=429), (503, b""))):
        world = World(monkeypatch, 10)
        getattr(world, side).handler = lambda _, content, shed=shed: shed if content.body == b"3" else reply()
        figures = world.steps(60)
        assert figures["pairs"] == {"both": 9, "candidate_failed": 0, "own_failed": 0, "both_failed": 0}
        assert figures["dropped"][side] == ATTEMPTS
        assert (figures["asked"], figures["left"]) == (10, 0)


def test_an_answer_that_cannot_be_read_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for unreadable in (b"", b"\xff", b"{}", msgspec.msgpack.encode({"status": "200"}), msgspec.msgpack.encode([1])):
        world = World(monkeypatch, 5)
        world.candidate.handler = lambda *_, body=unreadable: (200, body)
        figures = world.steps(60)
        assert sum(figures["pairs"].values()) == 0
        assert figures["dropped"]["candidate"] == 5 * ATTEMPTS


def test_a_stable_that_does_not_answer_in_time_is_not_a_failure_of_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 5)
    world.steps(10)
    world.add(1)
    world.own.took = 3600.0
    figures = world.steps(700)
    assert figures["pairs"] == {"both": 5, "candidate_failed": 0, "own_failed": 0, "both_failed": 0}
    assert figures["dropped"]["own"] == ATTEMPTS


def test_copies_do_not_crash_stable_so_often_that_it_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 100)
    world.own.handler = lambda *_: Broken()
    figures = world.steps(60)
    assert figures["pairs"]["own_failed"] == len(world.bodies(CANDIDATE))
    assert 1 < figures["pairs"]["own_failed"] < workers.CRASHES
    assert len(world.bodies(STABLE)) <= workers.CRASHES


def test_an_answer_that_is_too_large_has_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 5)
    world.candidate.handler = lambda *_: (200, None)
    figures = world.steps(10)
    assert (figures["pairs"]["both"], figures["agree"]["form"]) == (5, 5)


def test_outputs_that_do_not_fit_their_shape_have_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 5)
    wrong = {"status": 200, "own_us": 1, "outputs": [{"name": "a", "datatype": "FP64", "shape": [9], "data": b"1"}]}
    world.candidate.handler = lambda *_: (200, msgspec.msgpack.encode(wrong))
    figures = world.steps(10)
    assert (figures["pairs"]["both"], figures["agree"]["form"]) == (5, 5)


def test_both_sides_are_compared_in_the_same_row(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 50)
    tensor = named("predict", np.arange(1000))
    outputs = [{"name": "predict", "datatype": "INT64", "shape": [1000], "data": to_raw(tensor)}]
    body = msgspec.msgpack.encode({"status": 200, "own_us": 1000, "outputs": outputs})
    world.own.handler = world.candidate.handler = lambda *_: (200, body)
    agree = world.steps(60)["agree"]
    assert agree["same"] == 50
    assert agree["own_mode"] < 5, "not always the same row"


def test_the_own_server_works_on_copies_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 1000)
    world.own.took = 0.02
    world.own.handler = lambda *_: reply(microseconds=9_750)
    figures = world.steps(60)
    busy = len(world.bodies(STABLE)) * world.own.took
    assert 0.04 * 60 < busy < 0.051 * 60
    assert figures["asked"] > 100


def test_waiting_for_clients_is_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 1000)
    world.own.took = 0.02  # of which the prediction takes 2 ms
    assert world.steps(60)["asked"] > 850


def test_a_slow_candidate_works_on_copies_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 1000)
    world.candidate.took = 0.5
    world.candidate.handler = lambda *_: reply(microseconds=250_000)
    world.steps(60)
    assert 0.4 * 60 < len(world.bodies(CANDIDATE)) * world.candidate.took < 0.51 * 60


def test_the_process_takes_a_tenth_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 1000)
    world.clock.work = 0.01
    world.steps(60)
    assert len(world.bodies(CANDIDATE)) * world.clock.work <= 60 * 0.11


def test_another_candidate_begins_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 20)
    former = world.steps(10)
    world.target = Target("cccc", "0" * 64, KEY)
    world.of("cccc").handler = lambda *_: reply(status=500)
    figures = world.steps(10)
    assert figures["candidate"] == "cccc"
    assert figures["pairs"] == {"both": 0, "candidate_failed": 20, "own_failed": 0, "both_failed": 0}
    assert figures["boot"] != former["boot"]
    assert world.candidate.closed == 1


def test_the_same_revision_with_another_nonce_begins_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 20)
    world.steps(10)
    world.target = Target(CANDIDATE, "1" * 64, KEY)
    world.sender.step()
    assert world.sender.figures()["asked"] == 1


def test_the_same_candidate_after_a_pause_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 20)
    former = world.steps(10)
    target, world.target = world.target, None
    figures = world.steps(10)
    assert (figures["candidate"], figures["asked"], sum(figures["pairs"].values())) == ("", 0, 0)
    assert world.sender.step() == sender.IDLE_SECONDS
    world.target = target
    world.add(1)
    figures = world.steps(10)
    assert (figures["boot"], figures["asked"]) == (former["boot"], 21)
    assert len(world.bodies(CANDIDATE)) == 21


def test_changed_keys_are_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 1)
    world.steps(10)
    world.key = key_of("0" * 64, b"other")
    world.target = Target(CANDIDATE, "0" * 64, world.key)
    world.add(1)
    assert world.steps(10)["asked"] == 2


def test_it_never_rehearses_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 5)
    world.target = Target(STABLE, "0" * 64, KEY)
    figures = world.steps(10)
    assert (world.log, figures["candidate"]) == ([], "")


def test_a_process_that_replaces_another_goes_on_and_sends_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 100)
    world.steps(0.5)
    before = len(world.bodies(CANDIDATE))
    assert 0 < before < 100
    world.sender = world.start()
    assert world.sender.figures()["candidate"] == "", "it has not read the sample yet"
    world.add(5)
    world.sender.step()
    figures = world.sender.figures()
    assert figures["left"] + figures["asked"] == 105 - before, "the operator waits for what is left"
    figures = world.steps(10)
    assert figures["asked"] == 105 - before
    assert sorted(map(int, world.bodies(CANDIDATE))) == list(range(1, 106))
    world.target = Target("cccc", "0" * 64, KEY)
    assert world.steps(60)["asked"] == 105, "another candidate gets them all"


def test_a_request_that_ends_the_process_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 5)

    def exits(fake: Fake, content: Content) -> Any:
        if content.body == b"3":
            raise SystemExit
        return reply()

    world.candidate.handler = exits
    with pytest.raises(SystemExit):
        world.steps(10)
    world.sender = world.start()
    world.steps(10)
    assert sorted(world.bodies(CANDIDATE)) == [b"1", b"2", b"3", b"4", b"5"]


def test_what_a_side_dropped_is_sent_by_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 5)
    world.candidate.handler = lambda *_: Unreachable()
    world.steps(3)
    world.sender = world.start()
    world.candidate.handler = lambda *_: reply()
    assert world.steps(10)["asked"] == 5


@pytest.mark.attack
def test_equal_requests_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client sends one request again and again, and each worker of the pod keeps it."""
    world = World(monkeypatch, 3)
    for slot in range(4):
        world.add(200, slot, body=b"the same")
    figures = world.steps(60)
    assert (figures["asked"], figures["left"], sum(figures["pairs"].values())) == (4, 0, 4)
    assert world.bodies(CANDIDATE).count(b"the same") == 1
    world.kept_entries.clear()
    world.steps(1)
    world.add(1, body=b"the same")
    assert world.steps(10)["asked"] == 4, "also after it has left the sample"
    world.target = Target("cccc", "0" * 64, KEY)
    assert world.steps(10)["asked"] == 1, "once for each candidate"


def test_an_equal_request_is_sent_if_the_first_one_was_gone_before(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 1)
    world.candidate.handler = lambda *_: Unreachable()
    world.steps(3)
    world.kept_entries.clear()
    world.steps(1)
    world.candidate.handler = lambda *_: reply()
    world.add(1, body=b"1")
    assert world.steps(10)["asked"] == 1


def test_few_different_requests_are_timed_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request says one thing about errors and answers, and a slow candidate is slow each time."""
    world = World(monkeypatch, 1, times=TIMES)
    world.candidate.handler = lambda *_: reply(microseconds=3000)
    world.sender.step()
    assert world.sender.figures()["left"] == TIMES - 1, "the operator waits for them"
    figures = world.steps(60)
    assert figures["pairs"] == {"both": 1, "candidate_failed": 0, "own_failed": 0, "both_failed": 0}
    assert (figures["asked"], figures["left"], figures["agree"]["rows"], figures["again"]["both"]) == (1, 0, 1, 1)
    assert sum(figures["ratios"].values()) == TIMES - WARM_UP
    assert len(world.bodies(CANDIDATE)) == TIMES


def test_requests_without_times_are_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3, times=TIMES)
    world.candidate.handler = lambda *_: reply(status=500)
    figures = world.steps(60)
    assert (figures["asked"], figures["left"], len(world.bodies(CANDIDATE))) == (3, 0, 3)


def test_a_candidate_that_is_lost_while_it_is_timed_again_ends_that(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 2, times=TIMES)
    world.steps(1)
    world.candidate.handler = lambda *_: Unreachable()
    figures = world.steps(300)
    assert (figures["asked"], figures["left"]) == (2, 0)


def slow_ones(
    monkeypatch: pytest.MonkeyPatch, usual: int, slow: int, seconds: float, usual_seconds: float = 0.001
) -> World:
    """Return a world in which stable took long for some requests."""
    world = World(monkeypatch, 0)
    world.add(usual, microseconds=int(usual_seconds * 1e6))
    for number in range(slow):
        world.add(1, body=b"slow %d" % number, microseconds=int(seconds * 1e6))
    world.own.took = world.candidate.took = 0.0

    def handler(fake: Fake, content: Content) -> Any:
        taken = seconds if content.body.startswith(b"slow") else usual_seconds
        world.clock.now += taken
        fake.worked = fake.worked + taken
        return reply(microseconds=int(taken * 5e5))

    world.own.handler = world.candidate.handler = handler
    return world


@pytest.mark.attack
def test_a_few_slow_requests_do_not_starve_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = slow_ones(monkeypatch, 990, 10, 6.0)
    figures = world.steps(120)
    assert figures["pairs"]["both"] >= 900


def test_slow_requests_have_their_share_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = slow_ones(monkeypatch, 300, 10, 2.0, usual_seconds=0.1)
    world.steps(700)
    slow = sum(body.startswith(b"slow") for body in world.bodies(CANDIDATE))
    assert 2 <= slow <= 4
    assert world.own.worked <= 0.05 * 700 + 2.0, "all of them together take a twentieth of the time"
    assert len(world.bodies(CANDIDATE)) > 200


def test_slow_requests_that_are_alone_have_the_whole_share(monkeypatch: pytest.MonkeyPatch) -> None:
    world = slow_ones(monkeypatch, 20, 5, 1.0)
    figures = world.steps(150)
    assert (figures["asked"], figures["left"]) == (25, 0)
    assert [body.startswith(b"slow") for body in world.bodies(CANDIDATE)] == [False] * 20 + [True] * 5


def test_nothing_that_the_candidate_does_changes_what_is_sent_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate answers, one fails what is slow, one takes three times as long: all get the same requests in the
    same order."""
    orders = []
    for behaviour in ("answers", "fails", "slower"):
        world = slow_ones(monkeypatch, 200, 10, 0.1)
        handler = world.candidate.handler

        def candidate(fake: Fake, content: Content, behaviour: str = behaviour, handler: Handler = handler) -> Any:
            if behaviour == "fails" and content.body.startswith(b"slow"):
                return reply(status=500)
            if behaviour == "slower":
                handler(fake, content)
                handler(fake, content)
            return handler(fake, content)

        world.candidate.handler = candidate
        assert world.steps(400)["left"] == 0
        orders.append([body for body in world.bodies(CANDIDATE) if not body.startswith(b"slow")])
        assert len(world.bodies(CANDIDATE)) == 210
    assert orders[0] == orders[1] == orders[2]


def test_the_log_has_nothing_of_a_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world = World(monkeypatch, 0)
    world.kept_entries[0, 1] = Content(b"/predict?secret", b"application/secret", b"", b"", b"secret")
    for failure in (reply(status=500), (404, b"secret"), Broken("secret"), (200, b"secret")):
        world.candidate.handler = lambda *_, failure=failure: failure
        world.steps(5)
    assert "secret" not in caplog.text
    assert "secret" not in str(world.sender.figures())


def test_the_page_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3000)
    random = np.random.default_rng(7)
    world.own.handler = lambda *_: reply(float(random.normal()), microseconds=int(10 ** random.uniform(0, 7)))
    world.candidate.handler = lambda *_: reply(
        float(random.normal() * 2 ** random.uniform(-25, 10)), microseconds=int(10 ** random.uniform(0, 7))
    )
    world.own.took = world.candidate.took = 1e-6  # else it would rest as long as such times require
    figures = world.steps(20)
    assert figures["asked"] == 3000
    assert len(msgspec.json.encode(figures)) <= 16 << 10


@pytest.mark.attack(held=True)
def test_what_stable_rejects_and_the_candidate_does_not_hides_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client sends many requests that only the candidate accepts; it fails those of the others."""
    world = World(monkeypatch, 30)
    world.own.handler = lambda _, content: reply(status=400 if int(content.body) % 3 else 200)
    world.candidate.handler = lambda _, content: reply() if int(content.body) % 3 else reply(status=500)
    figures = world.steps(60)
    assert figures["asked"] == 30
    assert figures["pairs"] == {"both": 0, "candidate_failed": 10, "own_failed": 0, "both_failed": 0}


@pytest.mark.attack(held=True)
def test_requests_that_are_too_slow_for_both_sides_make_the_next_ones_no_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client sends requests that take as long as stable allows. The candidate is busy with each for a while."""
    world, busy, shed = World(monkeypatch, 80), [0], [0]

    def is_slow(content: Content) -> bool:
        return int(content.body) % 8 == 0

    def candidate(_: Fake, content: Content) -> Any:
        if is_slow(content):
            busy[0] = 2
            return Late()
        busy[0] -= 1
        shed[0] += busy[0] >= 0
        return reply(status=503) if busy[0] >= 0 else reply()

    world.own.handler = lambda _, content: Late() if is_slow(content) else reply()
    world.candidate.handler = candidate
    figures = world.steps(300)
    assert shed[0], "others came while it was busy"
    assert figures["pairs"]["candidate_failed"] == 0
    assert figures["pairs"]["both"] > 60
