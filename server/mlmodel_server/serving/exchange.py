"""One inference request and what becomes of it, as the pipeline sees it whatever the transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.serving.inference import Answer, Call
from mlmodel_server.tensors import InferRequest

Reply = TypeVar("Reply")


class Gone(Exception):
    """The client disconnected before its request was complete."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client gets instead of a prediction: an HTTP status and one sentence without payload or traceback."""

    status: int
    message: str
    retry_after: int = 0
    """Seconds; 0 when a retry does not help."""


def failure_of(error: Exception) -> Failure:
    """Return what a client gets for an error; 500 for an error that the request did not cause."""
    if isinstance(error, Overloaded):
        return Failure(error.status, str(error), error.retry_after)
    if isinstance(error, RequestError):
        return Failure(error.status, str(error))
    if isinstance(error, ModelFailure):
        return Failure(500, str(error))
    return Failure(500, f"internal error ({type(error).__name__})")


class Exchange(ABC, Generic[Reply]):
    """What a transport provides for one request. The pipeline calls the methods in the order in which they stand here;
    each may raise :class:`RequestError`."""

    __slots__ = ("call", "request")

    request: InferRequest
    """Set by the pipeline once it is decoded."""
    call: Call
    """Set by the pipeline: the request as the model takes it."""

    headers: Mapping[bytes, bytes]
    """All headers by lower-case name; of those sent twice the last."""
    started: float
    """A reading of ``perf_counter`` when the headers were complete."""

    @property
    @abstractmethod
    def route(self) -> str:
        """Names the method and address in traces."""

    @abstractmethod
    def check(self) -> int:
        """Check the headers; return the bytes that the body may take in memory."""

    @property
    @abstractmethod
    def deadline(self) -> float:
        """A reading of ``perf_counter``, after which nobody waits for the answer."""

    @abstractmethod
    async def read(self) -> None:
        """Read the body. Raises :class:`Gone`."""

    @property
    @abstractmethod
    def is_large(self) -> bool:
        """Whether decoding and encoding take milliseconds, so that they run in a thread."""

    @abstractmethod
    def decode(self) -> InferRequest:
        """Return the tensors of the body."""

    @abstractmethod
    def encode(self, answer: Answer) -> Reply:
        """Return the reply that carries the answer."""

    @abstractmethod
    def reject(self, failure: Failure) -> Reply:
        """Return the reply that reports the failure."""
