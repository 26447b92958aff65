"""Annotations of a field: with them one declaration gives the parser, the CRD and the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

Time = NewType("Time", float)
"""Seconds since the epoch here, RFC 3339 in UTC on the wire."""

Quantity = NewType("Quantity", str)
"""A Kubernetes quantity as the user wrote it (``500m``, ``512Mi``); on the wire it may be an integer."""


HeaderValue = NewType("HeaderValue", str)
"""A value of a header, of at most 64 characters: a list of them needs the bound in its schema."""


@dataclass(frozen=True)
class Doc:
    """The description that ``kubectl explain`` shows: what it is, its unit, its bounds, its default."""

    text: str


@dataclass(frozen=True)
class Limits:
    """Bounds of a field: numbers for numbers, length for strings, items for lists, properties for maps."""

    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Opaque:
    """Marks a field that is one JSON string on the wire: its content is not part of the API."""


@dataclass(frozen=True)
class Rule:
    """A CEL rule on an object. ``message`` names the field, says what is wrong, and what to type instead."""

    rule: str
    message: str
    field_path: str = ""
