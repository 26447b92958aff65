"""Free ports are free when they are returned."""

from __future__ import annotations

import multiprocessing
import socket

import pytest

from hack import ports

MANY = 200
"""More than a process reserves at once."""


def many(_: int) -> list[int]:
    return [ports.free_port() for _ in range(MANY)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_port_is_given_to_two_processes(method: str) -> None:
    own = many(0)
    with multiprocessing.get_context(method).Pool(4) as pool:
        others = pool.map(many, range(4), chunksize=1)
        found = [*own, *(port for ports_of_one in others for port in ports_of_one), *many(0)]
    assert len(set(found)) == len(found) == 6 * MANY


def test_a_port_is_free_on_all_addresses_and_is_returned_once() -> None:
    found = [ports.free_port("127.0.0.1", "127.0.0.2") for _ in range(20)]
    assert len(set(found)) == 20
    for port in found:
        for address in ("127.0.0.1", "127.0.0.2"):
            socket.create_server((address, port)).close()


def test_a_port_that_is_in_use_on_one_of_the_addresses_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = ports.free_port("127.0.0.2"), ports.free_port("127.0.0.2")
    monkeypatch.setattr(ports, "_untried", iter([taken, free]))
    with socket.create_server(("127.0.0.2", taken)):
        assert ports.free_port("127.0.0.1", "127.0.0.2") == free


def test_a_port_for_all_addresses_is_in_use_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = ports.free_port(), ports.free_port()
    monkeypatch.setattr(ports, "_untried", iter([taken, free]))
    with socket.create_server(("127.0.0.11", taken)):
        assert ports.free_port() == free


def test_when_no_port_is_left_the_error_names_the_range_and_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_untried", iter(()))
    with pytest.raises(OSError, match=r"no port from 20000 to 32767 is free on all addresses"):
        ports.free_port()
