"""Turns in the queue: each source has its share of the time."""

from __future__ import annotations

from mlmodel_server.engine.shares import MAX_SOURCES, Shares


def order(requests: list[tuple[str, float]]) -> list[str]:
    """Return the sources in the order in which their requests are served, if all arrive at once."""
    shares = Shares()
    placed = [(shares.place(source, cost), number, source) for number, (source, cost) in enumerate(requests)]
    return [source for _, _, source in sorted(placed)]


def test_a_source_alone_is_served_in_the_order_of_arrival() -> None:
    shares = Shares()
    places = [shares.place("a", 1.0) for _ in range(5)]
    assert places == sorted(places)


def test_many_requests_of_one_source_do_not_delay_another() -> None:
    assert order([("flood", 1.0)] * 50 + [("honest", 1.0)] * 2)[:4] == ["flood", "honest", "flood", "honest"]


def test_large_requests_take_as_much_time_as_small_ones() -> None:
    served = order([("large", 10.0)] * 3 + [("small", 1.0)] * 25)
    assert served[:22].count("small") == 20


def test_a_source_that_sends_one_large_request_after_the_other_waits_for_the_others() -> None:
    shares = Shares()
    shares.served(shares.place("large", 10.0))
    small = [shares.place("small", 1.0) for _ in range(9)]
    assert shares.place("large", 10.0) > max(small)


def test_a_source_that_was_idle_has_no_credit() -> None:
    shares = Shares()
    for _ in range(100):
        shares.served(shares.place("busy", 1.0))
    assert shares.place("new", 1.0) >= 99.0


def test_sources_are_forgotten() -> None:
    shares = Shares()
    for number in range(5 * MAX_SOURCES):
        shares.served(shares.place(number, 1.0))
    assert len(shares._next) <= MAX_SOURCES
