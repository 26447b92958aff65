"""The identity of one rehearsal. A retry of the same revision has another start, and one that was held another number:
each counts from zero."""

from __future__ import annotations

import hashlib

from mlmodel_operator.api.codec import format_time
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.api.types import Owner


def nonce_of(owner: Owner, candidate: Candidate) -> str:
    """Return the nonce in the file of the rehearsal: 64 hexadecimal digits, a part of the key of all copies."""
    session = f"{owner.uid}:{candidate.revision}:{format_time(candidate.started_at)}:{candidate.holds}"
    return hashlib.sha256(session.encode()).hexdigest()


def shown(nonce: str) -> str:
    """Return what the page of a pod shows of a nonce (``Target.session`` of the server): not the key."""
    return hashlib.sha256(b"session\n" + nonce.encode()).hexdigest()[:16]
