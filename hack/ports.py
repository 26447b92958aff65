"""Free TCP ports on loopback."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

_FIRST, _LAST = 20_000, 32_767
# In random order, so that concurrent processes rarely try the same one. Each is tried once: none is returned twice.
_untried = iter(random.SystemRandom().sample(range(_FIRST, _LAST + 1), _LAST + 1 - _FIRST))


def free_port(*addresses: str) -> int:
    """Return a port that is free on the addresses (default: all), a different one on each call.

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
