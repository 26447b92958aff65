"""One kept connection to a server, with a deadline for each request as a whole."""

from __future__ import annotations

import hmac
import http.client
import select
import socket as sockets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

CONNECT_SECONDS = 2.0
"""Maximum seconds until a connection is made."""

IDLE_SECONDS = 20.0
"""An idle connection is used this long: servers close theirs later."""

_MAX_ANSWER = 1024

MAX_RESPONSE = 16 << 20
"""Maximum size of a response in bytes."""


class Unreachable(Exception):
    """No connection could be made; nothing was sent."""


class Late(Exception):
    """The response was not complete before the deadline."""


class Broken(Exception):
    """The connection broke after the request was sent, or the response is not HTTP."""


class Unknown(Exception):
    """The server of a new connection has not proven who it is; it got nothing but the greeting."""


class Greeting(NamedTuple):
    """What a new connection sends first, with POST and without a body, and the only answer that counts."""

    path: str
    headers: Mapping[bytes, bytes]
    answer: bytes


class Client:
    """Sends requests to one server, one after another. The name is resolved anew for each connection."""

    def __init__(self, host: str, port: int, greeting: Callable[[], Greeting | None] | None = None) -> None:
        """With a ``greeting`` each new connection begins with it; None of the function means that there is none now."""
        self._host, self._port, self._greeting = host, port, greeting
        self._is_known = False
        self._kept: tuple[http.client.HTTPConnection, _Timed] | None = None
        self._used = 0.0

    def post(self, path: str, headers: Mapping[bytes, bytes], body: bytes, seconds: float) -> tuple[int, bytes | None]:
        """Return the status and the body of the response, None if it is too large.

        Raise :class:`Unreachable`, :class:`Unknown`, :class:`Late` or :class:`Broken`.
        """
        end = time.monotonic() + seconds
        connection, socket = self._connected(min(seconds, CONNECT_SECONDS), end)
        socket.end = end
        try:
            connection.request("POST", path, body, _texts(headers))
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

    def _connected(self, seconds: float, end: float) -> tuple[http.client.HTTPConnection, _Timed]:
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
        if self._greeting:
            socket.end = end
            self._greet(connection, self._greeting())
        return self._kept

    def _greet(self, connection: http.client.HTTPConnection, greeting: Greeting | None) -> None:
        """Raise :class:`Unknown` unless the server knows the answer; a known one that gives none is late or broken."""
        answer = b""
        error: type[Exception] = Unknown
        try:
            if greeting:
                connection.request("POST", greeting.path, b"", _texts(greeting.headers))
                with connection.getresponse() as response:
                    answer = b"" if response.status != 200 or response.will_close else response.read(_MAX_ANSWER)
        except TimeoutError:
            error = Late if self._is_known else Unknown
        except (OSError, http.client.HTTPException, ValueError):
            error = Broken if self._is_known else Unknown
        if not greeting or not hmac.compare_digest(answer, greeting.answer):
            self.close()
            raise error
        self._is_known = True


def _texts(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers.items()}


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
