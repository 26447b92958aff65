"""One inference request and its reply, the same for the pipeline over every transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.errors import ModelFailure, RequestError, TooSlow
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.serving.inference import Answer, Call
from mlmodel_server.serving.lateness import Limit
from mlmodel_server.tensors import InferRequest
from mlmodel_server.texts import one_line

Reply = TypeVar("Reply")

MAX_MESSAGE = 1_000
"""Maximum number of characters of an error in a response."""

LATE = "x-mlmodel-late"
"""Header of a response to a request whose deadline cannot be met, or that did not arrive in time."""


class Disconnected(Exception):
    """The client disconnected before its request was complete."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client gets instead of a prediction: an HTTP status, and one sentence without data or traceback."""

    status: int
    message: str
    retry_after: int = 0
    """Seconds to wait before a retry; 0 if a retry does not help."""
    is_late: bool = False
    """Whether the deadline of the client cannot be met, or the request did not arrive in time; the router blames no
    version for that."""


def failure_of(error: Exception) -> Failure:
    """Return what a client gets for an error: status 500 unless the request caused it."""
    if isinstance(error, Overloaded):
        return Failure(error.status, str(error), error.retry_after, is_late=error.reason == "deadline")
    if isinstance(error, RequestError):
        return Failure(error.status, one_line(str(error), MAX_MESSAGE), is_late=isinstance(error, TooSlow))
    if isinstance(error, ModelFailure):
        return Failure(500, one_line(str(error), MAX_MESSAGE))
    return Failure(500, f"internal error ({type(error).__name__})")


class Exchange(ABC, Generic[Reply]):
    """What a transport provides for one request. The pipeline calls the methods in the order below; each may raise
    :class:`RequestError`."""

    __slots__ = ("call", "request")

    request: InferRequest
    """The decoded request; the pipeline sets it."""
    call: Call
    """The request as a call of the model; the pipeline sets it."""

    headers: Mapping[bytes, bytes]
    """All headers by lower-case name; the last one if a header was sent twice."""
    started: float
    """Reading of ``perf_counter`` when the headers were complete."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """Address of the other end of the connection: that of a router, or of a client without one; "" if unknown."""

    @property
    @abstractmethod
    def route(self) -> str:
        """Method and path, as the name in traces."""

    @property
    @abstractmethod
    def is_sampled(self) -> bool:
        """Whether another version could answer it: a prediction that names no version."""

    @abstractmethod
    def content(self) -> Content | None:
        """Return the request as the client sent it; None before :meth:`read`."""

    @property
    @abstractmethod
    def source(self) -> object:
        """The client, as :func:`~mlmodel_server.serving.source.source_of` names it."""

    @abstractmethod
    def check(self) -> None:
        """Check the headers."""

    @property
    @abstractmethod
    def deadline(self) -> float:
        """Reading of ``perf_counter`` after which the client no longer waits."""

    @property
    @abstractmethod
    def limit(self) -> Limit:
        """Who set the deadline."""

    @abstractmethod
    async def read(self) -> None:
        """Read the body. Raise :class:`Disconnected` if the client disconnects."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the body that was read, as sent and decompressed."""

    @property
    @abstractmethod
    def is_large(self) -> bool:
        """Whether decoding and encoding take milliseconds, so that they run in a thread."""

    @abstractmethod
    def decode(self) -> InferRequest:
        """Return the tensors of the body."""

    @abstractmethod
    def encode(self, answer: Answer) -> Reply:
        """Return the reply with the answer."""

    @abstractmethod
    def reject(self, failure: Failure) -> Reply:
        """Return the reply that reports the failure."""
