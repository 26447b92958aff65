"""The sample: what it keeps of whom and for how long, what survives a crash, and that wiping leaves nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, takewhile
from pathlib import Path
from random import Random

import numpy as np
import pytest

from mlmodel_server.rehearsal import sample as module
from mlmodel_server.rehearsal.authentic import MARK, Content
from mlmodel_server.rehearsal.sample import CLIENT, FAIR_PER_SECOND, LARGEST, MAX_AGE, TICKS, TOTAL_BYTES, Entry, Sample

SEED = 20261129
KIB = 1 << 10
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = iter(range(SEED, SEED + 1000))
    monkeypatch.setattr(module, "Random", lambda: Random(next(seeds)))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, which tests advance."""
    seconds = [1.8e9]
    monkeypatch.setattr(time, "time_ns", lambda: int(seconds[0] * 1e9))
    return seconds


def content(body: bytes = b"{}", target: bytes = b"/predict", **headers: bytes) -> Content:
    sent = {"content_type": b"", "json_length": b"", "encoding": b""} | headers
    return Content(target, sent["content_type"], sent["json_length"], sent["encoding"], body)


def started(requests: int = 100, workers: int = 1, total: int = 1 << 20, slot: int = 0) -> Sample:
    made = Sample(requests, workers, total)
    made.start(slot)
    return made


NUMBERS = count()


def another(body: bytes = b"{}") -> Content:
    """Return a request that is unlike all others, with this body."""
    return content(body, target=b"/predict?%d" % next(NUMBERS))


def offer(sample: Sample, body: bytes = b"{}", client: bytes = b"a", repeated: bool = False, **headers: bytes) -> bool:
    """Offer a request as a worker does, and return whether it was wanted. It is unlike all others, unless repeated."""
    sent = {CLIENT: client} | {name.encode(): value for name, value in headers.items()}
    wanted = sample.wants(sent)
    if wanted:
        sample.keep(content(body) if repeated else another(body), sent)
    return wanted


def entries(sample: Sample) -> list[Entry]:
    return [entry for key in sample.places() if (entry := sample.read(*key[:2]))]


def bodies(sample: Sample) -> list[bytes]:
    return [entry.content.body for entry in entries(sample)]


def memory(sample: Sample) -> bytes:
    return sample._memory[:]


def a_second(sample: Sample) -> None:
    for _ in range(TICKS):
        sample.tick()


def test_a_request_is_kept_as_it_was_sent(now: list[float]) -> None:
    sample = started()
    sent = Content(b"/v2/models/m/infer?x=%20", b"application/octet-stream", b"12", b"gzip", bytes(range(256)))
    sample.keep(sent, {CLIENT: b"10.0.0.1"})
    assert entries(sample) == [Entry(0, 1, now[0], sent)]
    assert sent.kind == "http"
    assert content(target=b"grpc").kind == "grpc"


def test_until_the_region_is_full_every_request_is_kept_and_never_more_than_the_number() -> None:
    sample = started(100)
    assert all(offer(sample, b"%d" % number) for number in range(100))
    assert bodies(sample) == [b"%d" % number for number in range(100)]
    for number in range(100, 10_000):
        offer(sample, b"%d" % number)
        sample.tick()
        assert sample.kept <= 100
    assert sample.kept == 100
    a_second(sample)
    assert sample.seen == 10_000


def test_a_full_sample_keeps_about_one_request_per_second_at_random_times() -> None:
    sample = started(100)
    for _ in range(100):
        offer(sample)
    kept_at = []
    for second in range(2000):
        for step in range(TICKS):
            sample.tick()
            kept_at += [second + step / TICKS for _ in range(50) if offer(sample)]
    assert 0.9 < len(kept_at) / 2000 < 1.1
    steps = Counter(round(at % 1 * TICKS) % TICKS for at in kept_at)
    assert min(steps.values()) > 0.7 * len(kept_at) / TICKS, "no phase of a second is preferred"
    assert sample.kept == 100


@pytest.mark.attack(held=True)
def test_a_burst_of_one_client_does_not_take_the_sample_from_others() -> None:
    sample = started(100)
    for number in range(100):
        offer(sample, b"user %d" % number, client=b"10.0.0.%d" % (number % 10))
    a_second(sample)
    for _ in range(10):  # seconds
        a_second(sample)
        for _ in range(5000):
            offer(sample, b"burst", client=b"10.9.9.9")
    held = Counter(bodies(sample))
    assert held[b"burst"] <= 12 + 10 * 2, "its share, and what is kept of anyone in ten seconds"


def test_a_client_that_comes_after_a_burst_gets_its_share_at_once() -> None:
    sample = started(100)
    for _ in range(1000):
        offer(sample, b"burst", client=b"10.9.9.9")
    for number in range(60):
        sample.tick()
        assert offer(sample, b"user", client=b"10.0.0.1") or number >= 50
    held = Counter(bodies(sample))
    assert held[b"user"] >= 45
    assert held[b"burst"] >= 45


def test_many_clients_do_not_make_the_sample_expensive() -> None:
    sample = started(100)
    for _ in range(100):
        offer(sample)
    kept = 0
    for _ in range(60):
        a_second(sample)
        kept += sum(offer(sample, client=b"%d" % number) for number in range(1000))
    assert kept <= 60 * (FAIR_PER_SECOND + 2 * module.PER_SECOND) + 10


def test_a_client_with_large_requests_does_not_take_the_memory_of_one_that_seldom_sends() -> None:
    sample = started(100)
    for second in range(2000):
        a_second(sample)
        for _ in range(20):
            offer(sample, bytes(60 * KIB), client=b"large")
        if second % 10 == 0:
            offer(sample, bytes(100), client=b"small")
    sizes = Counter(len(body) for body in bodies(sample))
    assert sizes[60 * KIB] > 0
    assert sizes[100] >= 50


def test_without_the_header_of_the_router_all_are_one_client() -> None:
    sample = started(10)
    for _ in range(10):
        sample.keep(another(), {})
    assert not any(sample.wants({}) for _ in range(100))


@pytest.mark.parametrize("workers", [1, 3, 4, 256])
def test_number_and_bytes_are_divided_by_the_workers(workers: int) -> None:
    sample = Sample(1000, workers)
    largest = TOTAL_BYTES // workers // LARGEST
    assert len(sample._memory) == TOTAL_BYTES
    for slot in range(workers):
        sample.start(slot)
        for size in (largest + 1, largest // 100, *[100] * 1010):
            offer(sample, bytes(size))
    assert sample.kept == 1000
    assert max(map(len, bodies(sample))) <= largest
    assert {place.slot for place in sample.places()} == set(range(workers))


def test_fewer_requests_than_workers() -> None:
    sample = Sample(2, 4, 1 << 16)
    for slot in range(4):
        sample.start(slot)
        for _ in range(5):
            offer(sample)
        sample.tick()
    assert sample.kept == 2
    assert sample.seen == 20


def test_bodies_that_do_not_fit_are_skipped_and_others_are_kept_intact() -> None:
    sample = started(100, total=64 * KIB)
    generator = Random(SEED)
    sent = []
    for number in range(3000):
        body = bytes([number % 256]) * generator.choice([0, 1, 100, 1000, 3 * KIB, 4 * KIB, 4 * KIB + 1, 90 * KIB])
        sent.append(body)
        sample.keep(another(body), {CLIENT: b"%d" % number})
    kept = bodies(sample)
    assert set(kept) <= {body for body in sent if len(body) <= 4 * KIB}
    assert len(kept) == sample.kept, "none of them is damaged"
    assert sum(map(len, kept)) > 40 * KIB
    assert kept[-1] == next(body for body in reversed(sent) if len(body) <= 4 * KIB)


def test_headers_that_are_too_long_are_skipped() -> None:
    sample = started()
    sample.keep(content(target=b"/" * 9000), {})
    sample.keep(content(content_type=b"x" * 70_000), {})
    assert sample.kept == 0


@pytest.mark.attack
def test_a_request_that_is_sent_again_and_again_takes_one_place() -> None:
    sample = started(100)
    for number in range(1000):
        offer(sample, b"one row", client=b"10.9.9.9", repeated=True)
        if number % 100 == 0:
            offer(sample, b"user", client=b"10.0.0.1")
        sample.tick()
    assert Counter(bodies(sample)) == {b"one row": 1, b"user": 10}
    assert sample.seen == 1010


def test_requests_are_equal_if_all_that_their_answer_depends_on_is() -> None:
    sample = started()
    different = [content(b"1"), content(b"2"), content(b"1", target=b"/other"), content(b"1", content_type=b"text/csv")]
    for sent in (*different, *different):
        sample.tick()
        sample.keep(sent, {CLIENT: b"a"})
    assert [entry.content for entry in entries(sample)] == different
    assert len({place.digest for place in sample.places()}) == 4


def test_equal_requests_of_two_workers_have_one_digest_which_is_another_one_in_another_pod() -> None:
    digests: list[int] = []
    for _ in range(2):
        sample = Sample(10, 2, 1 << 16)
        for slot in range(2):
            sample.start(slot)
            offer(sample, b"one row", repeated=True)
        assert sample.kept == 2
        digests += {place.digest for place in sample.places()}
    assert len(digests) == 2


def test_a_repeated_request_costs_one_look_for_each_client_between_two_ticks() -> None:
    sample = started(100)
    offer(sample, repeated=True)
    assert offer(sample, repeated=True), "it may be another one"
    assert not any(offer(sample, repeated=True) for _ in range(100))
    assert offer(sample, b"user", client=b"b"), "others are kept"
    looked = []
    region = sample._regions[0]
    digest_of = region.digest_of
    region.digest_of = lambda raw: looked.append(raw) or digest_of(raw)  # type: ignore[func-returns-value,method-assign]
    for number in range(1000):
        offer(sample, client=b"%d" % number, repeated=True)
    assert len(looked) <= module.REPEATS, "also of a client that names many"
    sample.tick()
    assert offer(sample, b"user", client=b"a")


def test_a_repeated_request_is_kept_again_after_it_has_made_room() -> None:
    sample = started(2)
    offer(sample, b"one row", repeated=True)
    for _ in range(2):
        a_second(sample)
        sample.keep(another(), {CLIENT: b"b"})
    assert b"one row" not in bodies(sample)
    sample.keep(content(b"one row"), {CLIENT: b"c"})
    assert b"one row" in bodies(sample)


def test_the_successor_of_a_worker_knows_what_is_kept() -> None:
    sample = started()
    offer(sample, repeated=True)
    sample.start(0)
    offer(sample, repeated=True)
    assert sample.kept == 1


def test_a_place_has_the_time_that_stable_took() -> None:
    sample = started()
    for seconds in (0.0, 0.0015, 1e9, -1.0):
        sample.keep(another(), {}, seconds)
    assert [place.microseconds for place in sample.places()] == [0, 1500, 3600 * 10**6, 0]


@pytest.mark.attack
def test_a_client_that_names_many_addresses_has_at_most_half_of_the_sample() -> None:
    """It reaches the pod directly, and names another address in each request. Users come over the router."""
    sample, numbers = started(100), count()

    def send(peer: str, client: bytes, body: bytes) -> None:
        if sample.wants({CLIENT: client}):
            sample.keep(another(body), {CLIENT: client}, 0.001, peer)

    generator = Random(SEED)
    for tick in range(1200):
        sample.tick()
        for user in generator.sample(range(22), 22):
            if user >= 2:
                send("10.9.9.9", b"10.77.0.%d" % next(numbers), b"attack")
            elif tick > 100:
                send("10.1.1.1", b"192.168.0.%d" % user, b"user")
    assert Counter(bodies(sample))[b"attack"] <= 51


def test_a_peer_that_is_alone_has_the_whole_sample() -> None:
    sample = started(10)
    for _ in range(100):
        a_second(sample)
        sample.keep(another(), {CLIENT: b"a"}, 0.0, "10.1.1.1")
    last = sample.places()[-1].sequence
    assert (sample.kept, last) == (10, 100)


def test_a_copy_is_not_kept() -> None:
    sample = started()
    sample.keep(content(), {MARK: b"1 2"})
    assert sample.kept == 0


def test_old_requests_are_neither_read_nor_left_in_memory(now: list[float]) -> None:
    sample = started()
    offer(sample, b"old marker")
    now[0] += MAX_AGE - 1
    offer(sample, b"new marker")
    assert bodies(sample) == [b"old marker", b"new marker"]
    now[0] += 2
    assert bodies(sample) == [b"new marker"]
    for _ in range(10 * TICKS):
        sample.tick()
    assert sample.kept == 1
    assert b"old marker" not in memory(sample)
    assert b"new marker" in memory(sample)


def test_an_entry_that_makes_room_leaves_nothing_in_memory() -> None:
    sample = started(3)
    sample.keep(content(b"first marker"), {})
    for _ in range(3):
        sample.keep(another(b"x"), {})
    assert b"first marker" not in memory(sample)


def test_an_address_is_not_in_memory() -> None:
    sample = started()
    offer(sample, client=b"192.168.111.222")
    assert b"192.168" not in memory(sample)
    assert bytes([192, 168, 111, 222]) not in memory(sample)


def test_an_entry_that_changes_while_it_is_read_is_not_returned() -> None:
    sample = started()
    for number in range(10):
        offer(sample, b"%d" % number * 50)
    region = sample._regions[0]
    for key in sample.places()[::2]:
        start = region._record(key[1])
        place = region.words[start + 2] % region.size
        region.ring[place + 20] ^= 1
    assert bodies(sample) == [b"%d" % number * 50 for number in range(1, 10, 2)]


@pytest.mark.parametrize("word", range(8))
def test_a_record_that_was_half_written_is_not_returned(word: int) -> None:
    sample = started()
    offer(sample)
    region = sample._regions[0]
    for wrong in (0, 1, -1, 2**40, region.words[region._record(1) + word] ^ 4):
        before = region.words[region._record(1) + word]
        region.words[region._record(1) + word] = wrong
        assert bodies(sample) == ([] if wrong != before else [b"{}"])
        region.words[region._record(1) + word] = before
    assert bodies(sample) == [b"{}"]


def test_a_body_with_an_entry_in_it_is_not_an_entry() -> None:
    """A client cannot write a record, whose checksum has a key."""
    sample, forged = started(), started()
    forged.keep(content(b"forged", target=b"/v1/models/m:explain"), {})
    region = forged._regions[0]
    record, raw = region.words[region._record(1) : region._record(1) + 8].tobytes(), bytes(region.ring[:200])
    sample.keep(content(record + raw), {})
    target = sample._regions[0]
    target.words[target._record(1) : target._record(1) + 8] = memoryview(record).cast("q")
    target.ring[:200] = raw
    assert entries(sample) == []


def forked(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process, and return its pid."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_another_process_reads_while_a_worker_writes_and_never_reads_a_mixture() -> None:
    sample = Sample(50, 1, 64 * KIB)

    def write() -> None:
        sample.start(0)
        number = 0
        while True:
            number += 1
            sample.keep(content(b"%08d" % number * (1 + number % 300)), {CLIENT: b"%d" % number})

    pid = forked(write)
    try:
        read = 0
        end = time.monotonic() + 120
        while read < 5000 and time.monotonic() < end:
            for entry in entries(sample):
                body = entry.content.body
                assert body == body[:8] * (1 + int(body[:8]) % 300)
                assert int(body[:8]) == entry.sequence
                read += 1
        assert read >= 5000
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def crashes() -> Iterator[tuple[str, int]]:
    yield from (("write", number) for number in range(15))
    yield from (("remove_first", number) for number in range(11))


@pytest.mark.parametrize(("step", "words"), list(crashes()))
def test_a_worker_that_crashes_at_any_word_leaves_a_region_that_its_successor_continues(step: str, words: int) -> None:
    """The memory is stopped after each of the words that a step writes, as a crash would."""
    sample = started(3)
    for number in range(3):
        sample.keep(content(b"%d" % number), {})
    last = sample.places()[-1][1]
    region = sample._regions[0]
    left = [words]

    class Crash(Exception):
        pass

    class Words:
        def __getitem__(self, index: int) -> int:
            return original[index]

        def __setitem__(self, index: int, value: int) -> None:
            if not left[0]:
                raise Crash
            left[0] -= 1
            original[index] = value

    original, region.words = region.words, Words()  # type: ignore[assignment]
    try:
        if step == "write":
            region.write(region.offset_for(12), time.time_ns(), 7, 8, 9, bytes(8) + b"half")
        else:
            region.remove_first()
    except Crash:
        pass
    region.words = original
    before = set(bodies(sample))
    assert before <= {b"0", b"1", b"2"} or step == "write"
    sample.start(0)
    for number in range(3, 10):
        sample.keep(content(b"%d" % number), {CLIENT: b"b"})
    assert bodies(sample) == [b"7", b"8", b"9"]
    assert sample.places()[0][1] > last
    assert sample.kept == 3


def test_the_successor_of_a_worker_continues_numbers_shares_and_counts() -> None:
    sample = started(10)
    for _ in range(30):
        offer(sample, b"burst", client=b"a")
    a_second(sample)
    keys = sample.places()
    sample.start(0)
    assert sample.places() == keys
    assert not offer(sample, client=b"a"), "still full, and of this client"
    assert offer(sample, client=b"b")
    a_second(sample)
    assert sample.seen == 32
    assert sample.places()[-1][1] == keys[-1][1] + 1


@pytest.mark.parametrize("number", [1, 2, 99, 100, 101, 102, 250])
def test_wiping_leaves_zeros_behind_the_header(number: int) -> None:
    sample = started(100)
    for _ in range(number):
        sample.keep(another(b"marker"), {})
    assert memory(sample)[64:].strip(b"\0")
    sample.wipe()
    assert memory(sample)[64:].strip(b"\0") == b""


@pytest.mark.parametrize("workers", [1, 4])
def test_wiping_leaves_no_byte_of_a_request_and_keeps_nothing_afterwards(workers: int) -> None:
    sample = Sample(100, workers, 1 << 20)
    for slot in range(workers):
        sample.start(slot)
        for number in range(150):
            offer(sample, b"marker %d" % number, client=b"%d" % number)
        key = sample.places()[-1]
        assert sample.read(*key[:2])
        sample.wipe()
        assert sample.read(*key[:2]) is None
        sample.keep(another(b"marker"), {})
        for _ in range(100):
            sample.tick()
            assert not offer(sample, b"marker")
    assert b"marker" not in memory(sample)
    assert b"/predict" not in memory(sample)
    assert (sample.places(), sample.kept) == ([], 0)


def test_a_worker_after_a_wiped_one_keeps_requests_again_with_further_numbers() -> None:
    sample = started(10)
    offer(sample, b"old")
    sample.wipe()
    sample.start(0)
    offer(sample, b"new")
    assert [(entry.sequence, entry.content.body) for entry in entries(sample)] == [(2, b"new")]


def mapping(sample: Sample) -> dict[str, str]:
    """Return what the kernel reports about the memory of a sample."""
    start = f"{np.frombuffer(sample._memory, np.uint8).ctypes.data:x}-"
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.startswith(start))
    of_mapping = takewhile(lambda line: line.split()[0].endswith(":"), lines)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in of_mapping)}


def resident(sample: Sample) -> int:
    """Return the bytes of the mapping that are in memory."""
    return int(mapping(sample)["Rss"].split()[0]) * KIB


@ON_LINUX
@pytest.mark.parametrize("workers", [1, 4])
def test_pages_are_used_only_for_what_is_kept(workers: int) -> None:
    sample = Sample(1000, workers)
    assert resident(sample) == 0
    for slot in range(workers):
        sample.start(slot)
    assert (sample.seen, sample.kept, sample.places()) == (0, 0, [])
    assert resident(sample) <= workers * 4 * KIB
    for _ in range(100):
        offer(sample, bytes(1000))
    for place in sample.places():
        sample.read(*place[:2])
    assert resident(sample) < 100 * 1100 + workers * 3 * 4 * KIB
    sample.wipe()
    assert resident(sample) < 100 * 1100 + workers * 3 * 4 * KIB
    for slot in range(workers):
        sample.start(slot)
        for number in range(1000):
            sample.keep(another(bytes(30_000)), {CLIENT: b"%d" % number})
    assert 0.95 * TOTAL_BYTES < resident(sample) <= TOTAL_BYTES


@ON_LINUX
def test_small_requests_never_use_the_whole_ring() -> None:
    sample = started(100, total=TOTAL_BYTES)
    for _ in range(18_000):  # more bytes than the ring has
        sample.keep(another(bytes(1000)), {})
    assert sample.kept == 100
    assert resident(sample) < 300 * KIB
    sample.wipe()
    assert resident(sample) < 300 * KIB
    assert memory(sample)[64:].strip(b"\0") == b""


@pytest.mark.attack(held=True)
@ON_LINUX
def test_a_core_dump_has_no_request_in_it() -> None:
    assert "dd" in mapping(started())["VmFlags"].split(), "madvise(MADV_DONTDUMP)"
