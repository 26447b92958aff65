"""Prediction ids that say by themselves what was predicted, when and by whom: any pod can score them, none stores them.

    format (1 byte), lengths of version and revision (2 bytes each), both texts, nanoseconds since 1970 (8), a random
    number of the worker (2), per row 4 bytes of the hash of the class, or 8 of the number, checksum (8): base64url

A class is a hash of its text and no index, because a pod of another revision may know other classes, or the same ones
in another order: it can still tell right from wrong.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mlmodel_server.errors import RequestError
from mlmodel_server.observe.bins import spellings
from mlmodel_server.observe.cells import Identity
from mlmodel_server.tensors import Array

MAX_ROWS = 64
"""Rows of a request that gets an id; a longer one would not fit into a header any more."""

_CLASSES, _NUMBERS = 1, 2
_HEAD = struct.Struct(">BHH")
_MADE = struct.Struct(">QH")
_MAC = 8
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN = bytes.maketrans(b"-_", b"+/")


def key_of(model: str, secret: bytes = b"") -> bytes:
    """The key of the checksum, 64 bytes. Without a ``secret`` it follows from the model's name alone: then a checksum
    finds ids that were cut or mixed up, and stops nobody who forges one."""
    return hashlib.blake2b(model.encode(), key=hashlib.blake2b(secret).digest()).digest()


def class_hash(text: str) -> bytes:
    """What stands for a class in an id, 4 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=4).digest()


@dataclass(frozen=True)
class Prediction:
    """What an id says: who predicted, when (seconds since 1970), and of each row the hash of its class, or its number.
    ``mac`` tells it from any other."""

    version: str
    revision: str
    time: float
    rows: tuple[bytes | float, ...]
    mac: bytes


class PredictionIds:
    """Makes and reads the ids of one model. :meth:`start` it in each worker."""

    def __init__(self, key: bytes, identity: Identity, task: str, classes: Sequence[str] = ()) -> None:
        """``task`` is "classification", which needs ``classes``, or "regression"; no other has ids."""
        version, revision = identity.version.encode(), identity.revision.encode()
        self._model = identity.model
        self._format = _NUMBERS if task == "regression" else _CLASSES if task == "classification" and classes else 0
        self._prefix = _HEAD.pack(self._format, len(version), len(revision)) + version + revision
        self._hashes = {spelling: class_hash(text) for text in classes for spelling in spellings(text)}
        self._keyed = hashlib.blake2b(key=key, digest_size=_MAC)
        self._salt = 0

    def start(self) -> None:
        """Tell this worker's ids from those that another one makes in the same nanosecond."""
        self._salt = int.from_bytes(os.urandom(2))

    def make(self, predictions: Array | None) -> str | None:
        """The id of one request from its predictions [rows]; None when it gets none: more than 64 rows, more than one
        answer for a row, or a task without labels."""
        if not self._format or predictions is None or predictions.ndim != 1 or not 0 < len(predictions) <= MAX_ROWS:
            return None
        if self._format == _NUMBERS:
            rows = predictions.astype(">f8").tobytes()
        else:
            try:
                rows = b"".join(map(self._hashes.__getitem__, predictions.tolist()))
            except KeyError:
                return None
        content = self._prefix + _MADE.pack(time.time_ns(), self._salt) + rows
        raw = content + self._mac(content)
        return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()

    def read(self, text: str) -> Prediction:
        """What an id says; :class:`RequestError` when it is not whole, or none of this model's."""
        try:
            padded = text.encode("ascii").translate(_PLAIN) + b"=" * (-len(text) % 4)
            raw = binascii.a2b_base64(padded, strict_mode=True)
        except (UnicodeEncodeError, binascii.Error):
            raise RequestError("prediction_id is not whole: send it exactly as it was answered") from None
        content, mac = raw[:-_MAC], raw[-_MAC:]
        if not hmac.compare_digest(self._mac(content), mac):
            raise RequestError(
                f"prediction_id was changed, or is none of model {self._model}: send it exactly as it was answered"
            )
        form, version, revision = _HEAD.unpack_from(content)
        if form != self._format:
            raise RequestError("prediction_id is of a revision with another task: only its own pods can score it")
        middle, end = _HEAD.size + version, _HEAD.size + version + revision
        made, _ = _MADE.unpack_from(content, end)
        rows = content[end + _MADE.size :]
        return Prediction(
            content[_HEAD.size : middle].decode(),
            content[middle:end].decode(),
            made / 1e9,
            struct.unpack(f">{len(rows) // 8}d", rows)
            if form == _NUMBERS
            else tuple(rows[at : at + 4] for at in range(0, len(rows), 4)),
            mac,
        )

    def _mac(self, content: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(content)
        return keyed.digest()
