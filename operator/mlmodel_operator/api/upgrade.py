"""Read a status of this release or of the one before, and detect one of a newer release, which stays unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlmodel_operator.api.codec import DecodeError, decode
from mlmodel_operator.api.status import FORMAT_VERSION, Status

Json = Mapping[str, Any]


def read_status(raw: Json) -> Status:
    """Return the ``status`` of an MLModel, upgraded to this release's format. Raise DecodeError, and no other error,
    if it does not fit.

    Must not be called with a status for which ``newer_format`` returns a number.
    """
    try:
        return decode(Status, upgrade_status(raw), "status")
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(f"status does not fit its schema ({type(error).__name__})") from error


def without_state(raw: Json) -> Json:
    """Return the same status without what the sequential tests remember; they restart from the pods' counters."""
    candidate = raw.get("candidate")
    if not isinstance(candidate, Mapping) or "evidence" not in candidate:
        return raw
    return {**raw, "candidate": {**candidate, "evidence": {}}}


def newer_format(raw: Json) -> int | None:
    """Return the format of a status that a newer release wrote; None if this release can read it. Raise DecodeError if
    the format is not a positive integer."""
    version = _format(raw)
    return version if version > FORMAT_VERSION else None


def upgrade_status(raw: Json) -> Json:
    """Return the same status in this release's format."""
    return raw if _format(raw) == FORMAT_VERSION else _from_1(raw)


def _format(raw: Json) -> int:
    version = raw.get("formatVersion", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DecodeError(f"status.formatVersion is {version!r}: it must be an integer from 1")
    return version


def _from_1(raw: Json) -> Json:
    """Format 2 has ``draining`` for ``leaving``, and the state of the statistical tests as one opaque string."""
    status = dict(raw)
    if draining := status.pop("leaving", None):
        status["draining"] = draining
    candidate = status.get("candidate") or {}
    if evidence := candidate.get("evidence"):
        status["candidate"] = {**candidate, "evidence": _evidence_from_1(evidence)}
    return {**status, "formatVersion": 2}


def _evidence_from_1(evidence: Json) -> Json:
    state = {
        "ledger": evidence.get("ledger", {}),
        "counted": _counts_from_1(evidence.get("counted", {})),
        "routed": _sides_from_1(evidence.get("routed", ())),
        "routedBeforeStep": _sides_from_1(evidence.get("stepRouted", ())),
        "excused": evidence.get("excused", 0),
        "pods": {name: _counts_from_1(counts) for name, counts in evidence.get("pods", {}).items()},
        "routers": {name: _sides_from_1(numbers) for name, numbers in evidence.get("routers", {}).items()},
    }
    kept = {key: evidence[key] for key in ("against", "certifiedPercent", "at") if key in evidence}
    sides = {side: _counts_from_1(evidence.get(side, {})) for side in ("candidate", "stable")}
    return {**kept, **sides, "state": json.dumps(state)}


def _counts_from_1(counts: Json) -> Json:
    """Format 1 called failures ``failed`` in totals and ``serverErrors`` in the counters of a pod."""
    return {
        "requests": counts.get("requests", 0),
        "rejected": counts.get("clientErrors", 0),
        "failed": counts.get("failed", counts.get("serverErrors", 0)),
    }


def _sides_from_1(numbers: Sequence[int]) -> Json:
    """Format 1 listed requests of the candidate, requests of stable and, where known, failures of the candidate."""
    candidate, stable, failed = (*numbers, 0, 0, 0)[:3]
    return {"candidate": {"requests": candidate, "failed": failed}, "stable": {"requests": stable}}
