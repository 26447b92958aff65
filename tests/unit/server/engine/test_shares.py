"""Turns in the queue: each source has its share of the time, and pays for what is served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mlmodel_server.engine.shares import MAX_SOURCES, Shares


@dataclass(eq=False)
class Request:
    source: object
    cost: float
    arrived: float = 0.0
    until: float = 0.0
    """When its client cancels it."""


def served(shares: Shares, waiting: list[Request]) -> Request:
    """Serve the request whose turn it is, and remove it."""
    first = shares.ordered(waiting)[0]
    shares.serve([first])
    waiting.remove(first)
    return first


def order(requests: list[tuple[str, float]]) -> list[object]:
    """Return the sources in the order in which their requests are served, if all arrive at once."""
    shares, waiting = Shares(), [Request(source, cost) for source, cost in requests]
    return [served(shares, waiting).source for _ in requests]


def test_a_source_alone_is_served_in_the_order_of_arrival() -> None:
    shares, waiting = Shares(), [Request("a", 1.0) for _ in range(5)]
    assert shares.ordered(waiting) == waiting


def test_many_requests_of_one_source_do_not_delay_another() -> None:
    assert order([("flood", 1.0)] * 50 + [("honest", 1.0)] * 2)[:4] == ["flood", "honest", "flood", "honest"]


def test_large_requests_take_as_much_time_as_small_ones() -> None:
    served = order([("large", 10.0)] * 3 + [("small", 1.0)] * 25)
    assert served[:22].count("small") == 20


def test_a_source_that_sends_one_large_request_after_the_other_waits_for_the_others() -> None:
    shares = Shares()
    shares.serve([Request("large", 10.0)])
    waiting = [Request("large", 10.0, shares.now), *(Request("small", 1.0, shares.now) for _ in range(9))]
    assert [served(shares, waiting).source for _ in range(10)][-1] == "large"


def test_a_source_that_was_idle_has_no_credit() -> None:
    shares = Shares()
    for _ in range(100):
        shares.serve([Request("busy", 1.0, shares.now)])
    waiting = [Request(source, 1.0, shares.now) for source in ("busy", "new", "busy", "new", "new", "new")]
    assert [served(shares, waiting).source for _ in range(4)] == ["new", "busy", "new", "busy"]


def test_requests_that_are_served_together_are_paid_once_also_if_one_between_them_waits() -> None:
    shares = Shares()
    first, between, last = (Request("a", 1.0) for _ in range(3))
    shares.serve([first, last])
    shares.serve([between])
    other = [Request("b", 1.0) for _ in range(4)]
    waiting = [Request("a", 1.0), *other]
    assert [served(shares, waiting).source for _ in range(5)] == ["b", "b", "b", "a", "b"]


def test_sources_are_forgotten() -> None:
    shares = Shares()
    for number in range(5 * MAX_SOURCES):
        shares.serve([Request(number, 1.0, shares.now)])
    assert len(shares._paid) <= MAX_SOURCES


def test_what_leaves_the_queue_is_not_paid() -> None:
    shares = Shares()
    left = [Request("a", 1.0) for _ in range(10)]  # shed, late or cancelled
    shares.ordered(left)
    waiting = [Request("b", 1.0) for _ in range(10)] + [Request("a", 1.0, shares.now)]
    assert "a" in [served(shares, waiting).source for _ in range(2)]


def simulated(
    patience: dict[str, Callable[[], float]], *, seconds: int = 2000, most: int = 16
) -> tuple[Counter[object], Counter[object]]:
    """Serve one request each second; return how many of each source were served, and how many it cancelled.

    Each source but ``flood`` has one request in the queue, which it cancels after its ``patience``; it sends the next
    one at once. ``flood`` always has 40. A full queue sheds the newest of the source that has most.
    """
    shares, waiting = Shares(), list[Request]()
    answered, cancelled = Counter[object](), Counter[object]()

    def send(source: str, now: float) -> None:
        waiting.append(Request(source, 1.0, shares.now, now + patience[source]() if source in patience else seconds))
        if len(waiting) > most:
            counts = Counter(request.source for request in waiting)
            largest = max(counts, key=lambda other: counts[other])
            waiting.remove(next(request for request in reversed(waiting) if request.source == largest))

    for now in range(seconds):
        for request in [one for one in waiting if one.until <= now]:
            waiting.remove(request)
            cancelled[request.source] += 1
        for source in patience:
            if not any(request.source == source for request in waiting):
                send(source, now)
        while sum(request.source == "flood" for request in waiting) < 40 and len(waiting) <= most - 1:
            send("flood", now)
        answered[served(shares, waiting).source] += 1
    return answered, cancelled


def test_a_client_that_gives_up_keeps_its_share_and_gains_none() -> None:
    random = Random(0)
    waits, gives_up = float("inf"), [lambda: random.uniform(1, 6), lambda: random.uniform(1, 3)]
    answered, cancelled = simulated({"waits": lambda: waits, "retries": gives_up[0], "hasty": gives_up[1]})
    share = 2000 / 4
    assert answered["waits"] >= 0.95 * share
    assert cancelled["hasty"] > 100
    for source in ("retries", "hasty"):  # unanswered, then sent again: no less than its share, and no more
        assert 0.8 * share <= answered[source] <= 1.05 * share, answered
