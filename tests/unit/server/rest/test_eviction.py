"""Which connections are closed when there are too many."""

from __future__ import annotations

from mlmodel_server.rest.eviction import Standing, victims


def idle(name: str, source: str, since: float) -> Standing[str]:
    return Standing(name, source, True, since)


def arriving(name: str, source: str, since: float) -> Standing[str]:
    return Standing(name, source, False, since)


def test_the_surplus_of_a_source_goes_first_and_of_it_the_oldest_idle_one() -> None:
    flood = [idle(f"flood {number}", "flood", 100.0 + number) for number in range(5)]
    honest = [idle("honest 0", "honest", 1.0), idle("honest 1", "honest", 2.0)]
    assert victims([*honest, *flood], 3) == ["flood 0", "flood 1", "flood 2"]
    assert set(victims([*honest, *flood], 5)) == {"flood 0", "flood 1", "flood 2", "flood 3", "honest 0"}


def test_idle_connections_go_before_requests_that_arrive() -> None:
    mixed = [arriving("old", "a", 1.0), idle("idle", "a", 9.0), arriving("new", "a", 5.0)]
    assert victims(mixed, 2) == ["idle", "old"]


def test_without_a_connection_that_waits_none_is_closed() -> None:
    assert victims([], 3) == []
