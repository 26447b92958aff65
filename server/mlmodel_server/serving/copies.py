"""A copy of a request, which another pod sends in a rehearsal: it is answered as a client's, and leaves no trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mlmodel_server.serving.inference import Answer
from mlmodel_server.tensors import InferRequest, Tensor

TURN_SECONDS = 0.5
"""Maximum seconds until the turn of a copy comes; then it gets 503, so that its sender does not take waiting for a slow
prediction."""


class Copy(ABC):
    """What a transport provides for one copy, whose body is complete."""

    __slots__ = ()

    @property
    def is_large(self) -> bool:
        """Whether decoding and encoding take milliseconds, so that they run in a thread."""
        return False

    @abstractmethod
    def decode(self) -> InferRequest:
        """Check the headers, and return the tensors of the body. Raise :class:`RequestError`."""

    @abstractmethod
    def encode(self, answer: Answer) -> object:
        """Return the response that a client would get; it may raise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The HTTP status that a client would have got, the microseconds of the prediction alone, at least 1, and the
    outputs; none unless the status is 200."""

    status: int
    own_us: int
    outputs: Sequence[Tensor] = ()
    busy_us: int = 0
    """Microseconds for which the prediction kept others waiting, 0 if they are not known."""
