"""What a transport needs to know of the server behind it. Each is asked with tensors, whatever came over the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mlmodel_server.errors import RequestError
from mlmodel_server.tensors import InferRequest, InferResponse, ModelMetadata


class DataPlane(Protocol):
    """The one model of a server, by whatever transport it is asked.

    ``version`` "" is whichever there is. For a model or version that is not there, :class:`~..errors.RequestError` 404.
    """

    def admit(self, metadata: Mapping[str, str]) -> None:
        """Asked before anything of a call is looked at, but for those about health: :class:`~..errors.RequestError` 401
        when whoever sent this ``metadata`` may not ask."""
        ...

    def check_room(self) -> None:
        """Asked before a request is decoded: :class:`~..errors.RequestError` 429 when there is no room for one more."""
        ...

    async def infer(
        self, model: str, version: str, request: InferRequest, deadline: float | None, metadata: Mapping[str, str]
    ) -> InferResponse:
        """The answer. ``deadline`` is a reading of ``time.perf_counter``, after which nobody waits for it any more;
        ``metadata`` is what else was sent, as HTTP has it in headers, its names in lower case.

        Raises :class:`~..errors.RequestError` with the HTTP status that says what is wrong, and
        :class:`~..errors.ModelFailure` when the model raises on input that fits.
        """
        ...

    def refused(self, error: RequestError, metadata: Mapping[str, str]) -> None:
        """Hears of a request that could not be decoded, to count it as :meth:`infer` does others."""
        ...

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """Inputs, outputs and versions of the model."""
        ...

    def model_ready(self, model: str, version: str) -> bool:
        """Whether the model answers requests."""
        ...

    def ready(self) -> bool:
        """Whether requests should be sent here; false while draining."""
        ...

    def describe(self) -> tuple[str, str, tuple[str, ...]]:
        """Name and version of the server, and the extensions of the protocol that it knows."""
        ...
