"""Read a status of this format or an older one, and detect one of a newer release, which stays unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlmodel_operator.api.codec import DecodeError, decode
from mlmodel_operator.api.revision import is_identity
from mlmodel_operator.api.status import FORMAT_VERSION, Status

Json = Mapping[str, Any]


def read_status(raw: Json) -> Status:
    """Return the ``status`` of an MLModel, upgraded to this release's format. Raise DecodeError, and no other error,
    if it does not fit.

    Must not be called with a status for which ``newer_format`` returns a number.
    """
    try:
        status = decode(Status, upgrade_status(raw), "status")
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(f"status does not fit its schema ({type(error).__name__})") from error
    sides = [side.revision for side in (status.stable, status.candidate) if side is not None]
    for revision in (*sides, *(item.revision for item in status.draining)):
        # It is the end of names of objects: `NAME-router` is not a revision.
        if not is_identity(revision):
            raise DecodeError("status names a revision whose identity is not 8 hexadecimal digits")
    return status


def without_state(raw: Json) -> Json:
    """Return the same status without its evidence and figures; they restart from the counts of routers and pods."""
    candidate = raw.get("candidate")
    if not isinstance(candidate, Mapping):
        return raw
    kept = {key: value for key, value in candidate.items() if key != "figures"}
    return {**raw, "candidate": kept | ({"evidence": {}} if "evidence" in candidate else {})}


def newer_format(raw: Json) -> int | None:
    """Return the format of a status that a newer release wrote; None if this release can read it. Raise DecodeError if
    the format is not a positive integer."""
    version = _format(raw)
    return version if version > FORMAT_VERSION else None


def upgrade_status(raw: Json) -> Json:
    """Return the same status in this release's format."""
    match _format(raw):
        case 1:
            return _from_1(raw)
        case 2:
            return _from_2(raw)
        case 3:
            return _from_3(raw)
        case 4:
            return _from_4(raw)
        case _:
            return raw


def _format(raw: Json) -> int:
    version = raw.get("formatVersion", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DecodeError(f"status.formatVersion is {version!r}: it must be an integer from 1")
    return version


def _from_1(raw: Json) -> Json:
    """Format 2 has ``draining`` for ``leaving``."""
    status = dict(raw)
    if draining := status.pop("leaving", None):
        status["draining"] = draining
    return _from_2(status)


def _from_2(raw: Json) -> Json:
    """Format 3 counts what the routers drew at random. What the pods counted before does not count, so that of a
    running rollout starts again, at the weight that the rollout has."""
    return _from_3(without_state(raw))


def _from_3(raw: Json) -> Json:
    """Format 4 has the phase Validating and counts of pairs: a rollout without them goes on without."""
    return _from_4(raw)


def _from_4(raw: Json) -> Json:
    """Format 5 has new fields, which a status without them does not need."""
    return {**raw, "formatVersion": 5}
