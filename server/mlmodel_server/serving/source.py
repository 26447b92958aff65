"""The source of a request: who shares the server with others under contention."""

from __future__ import annotations

from collections.abc import Mapping

from mlmodel_server.rehearsal.sample import CLIENT

MAX_NAME = 64
"""Maximum length of an address in the header; a longer one is cut."""


def source_of(peer: str, headers: Mapping[bytes, bytes]) -> object:
    """Return the client: the address that the router names in ``x-mlmodel-client``, else that of the connection."""
    named = headers.get(CLIENT)
    return named[:MAX_NAME] if named else peer
