"""Free TCP ports on loopback."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

_FIRST, _LAST, _BLOCK = 20_000, 32_767, 64
_reservations: list[socket.socket] = []


def free_port(*addresses: str) -> int:
    """Return a port that is free on the addresses (default: all): a different one on each call, also of other
    processes on this machine.

    A server on all addresses needs a port that is free on each. It is below the ephemeral ports, which the kernel may
    give to a client, such as a probe, before the server binds it.

    Raises:
        OSError: no port from 20000 to 32767 is left.
    """
    for port in _untried:
        with ExitStack() as stack:
            try:
                for address in addresses or ("0.0.0.0",):
                    stack.enter_context(socket.create_server((address, port)))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {_FIRST} to {_LAST} is free on {', '.join(addresses) or 'all addresses'}")


def _ports() -> Iterator[int]:
    """Yield ports of blocks that this process has reserved, each port once.

    A port may be found free twice before the first server binds it, and then two HAProxy share it without an error,
    and the kernel gives each of them a part of the connections. So a socket with the name of a block reserves it until
    its process ends.
    """
    firsts = range(_FIRST, _LAST + 1, _BLOCK)
    for first in random.SystemRandom().sample(firsts, len(firsts)):
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reservation.bind(f"\0mlmodel-ports-{first}")  # no file: the name is one of the network namespace
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        yield from range(first, min(first + _BLOCK, _LAST + 1))


def _restart() -> None:
    global _untried
    _untried = _ports()


_untried = _ports()
os.register_at_fork(after_in_child=_restart)  # a forked process would yield the ports of its parent
