"""One kept connection to a server, with a deadline for each request as a whole."""

from __future__ import annotations

import http.client
import select
import socket as sockets
import time
from collections.abc import Mapping
from typing import Any

CONNECT_SECONDS = 2.0
"""Maximum seconds until a connection is made."""

IDLE_SECONDS = 20.0
"""An idle connection is used this long: servers close theirs later."""

MAX_RESPONSE = 16 << 20
"""Maximum size of a response in bytes."""


class Unreachable(Exception):
    """No connection could be made; nothing was sent."""


class Late(Exception):
    """The response was not complete before the deadline."""


class Broken(Exception):
    """The connection broke after the request was sent, or the response is not HTTP."""


class Client:
    """Sends requests to one server, one after another. The name is resolved anew for each connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._kept: tuple[http.client.HTTPConnection, _Timed] | None = None
        self._used = 0.0

    def post(self, path: str, headers: Mapping[bytes, bytes], body: bytes, seconds: float) -> tuple[int, bytes | None]:
        """Return the status and the body of the response, None if it is too large.

        Raise :class:`Unreachable`, :class:`Late` or :class:`Broken`.
        """
        connection, socket = self._connected(min(seconds, CONNECT_SECONDS))
        socket.end = time.monotonic() + seconds
        try:
            connection.request(
                "POST", path, body, {name.decode(): value.decode("latin-1") for name, value in headers.items()}
            )
            with connection.getresponse() as response:
                answer = response.read(MAX_RESPONSE + 1)
                if len(answer) <= MAX_RESPONSE and response.length:
                    raise http.client.IncompleteRead(b"", response.length)
                if len(answer) > MAX_RESPONSE or response.will_close:
                    self.close()
                self._used = time.monotonic()
                return response.status, answer if len(answer) <= MAX_RESPONSE else None
        except TimeoutError:
            self.close()
            raise Late from None
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            raise Broken from None

    def close(self) -> None:
        """Close the connection."""
        if self._kept:
            self._kept[0].close()
            self._kept = None

    def _connected(self, seconds: float) -> tuple[http.client.HTTPConnection, _Timed]:
        if self._kept and time.monotonic() - self._used < IDLE_SECONDS and not _is_readable(self._kept[1]):
            return self._kept
        self.close()
        try:
            made = sockets.create_connection((self._host, self._port), seconds)
        except (OSError, UnicodeError):  # UnicodeError: the name cannot be one of DNS
            raise Unreachable from None
        made.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.auto_open = 0  # else a request could get a new connection, which has no deadline
        connection.sock = socket = _Timed(made.family, made.type, made.proto, made.detach())
        self._kept = connection, socket
        return self._kept


class _Timed(sockets.socket):
    """A socket with one deadline for all that follows: a server that sends a byte now and then is late too."""

    end = 0.0

    def recv_into(self, *arguments: Any) -> int:
        self._limit()
        return super().recv_into(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self._limit()
        super().sendall(*arguments)

    def _limit(self) -> None:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)


def _is_readable(socket: sockets.socket) -> bool:
    """Whether the server has closed an idle connection: it has nothing else to send."""
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
