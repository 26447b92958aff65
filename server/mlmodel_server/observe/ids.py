"""Prediction ids. An id contains the predictions, their time and version: any pod can score it, and none stores it.

    format (1 byte), lengths of version and revision (2 bytes each), both texts, nanoseconds since 1970 (8), a mark of
    the rollout (2), per row 4 bytes of the hash of the class, or 8 of the number, checksum (8): base64url

The time has a resolution of 1024 ns: its last 10 bits are a random number of the worker. The mark is that of
:mod:`.rollout`, 0 if the prediction does not count there. In an id of an older release it is a random number.

A class is a hash of its text, not an index: a pod of another revision, with other classes or another order of them, can
still compare it with a label.
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
from mlmodel_server.observe.rollout import mark_of
from mlmodel_server.tensors import Array

MAX_ROWS = 64
"""Maximum number of rows of a request that gets an id; a longer id would not fit into a header."""

MIN_SECRET = 32
"""Minimum number of bytes of a secret: as many as no one can guess."""

MAX_ID = 8192
"""Maximum number of characters of an id that is read: no header is longer."""

_CLASSES, _NUMBERS = 1, 2
_HEAD = struct.Struct(">BHH")
_MADE = struct.Struct(">QH")
_MAC = 8
_SALTS = 1 << 10
_MADE_MASK = -_SALTS
_MOST_MARKS = 64
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN = bytes.maketrans(b"-_", b"+/")
_MALFORMED = "prediction_id is malformed: send it exactly as in the response"


def key_of(model: str, secret: bytes = b"") -> bytes:
    """Return the key of the checksum, 64 bytes. Without a ``secret`` it depends on the model's name alone: then the
    checksum detects ids that were cut or mixed up, but not forged ones."""
    return hashlib.blake2b(model.encode(), key=hashlib.blake2b(secret).digest()).digest()


def class_hash(text: str) -> bytes:
    """Return the hash of a class in an id, 4 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=4).digest()


@dataclass(frozen=True)
class Prediction:
    """The content of an id: version and revision that predicted, time (seconds since 1970), and for each row the hash
    of its class or its number. ``mark`` says whether it counts in a rollout; ``mac`` is unique to the id."""

    version: str
    revision: str
    time: float
    rows: tuple[bytes | float, ...]
    mark: int
    mac: bytes


class PredictionIds:
    """Creates and reads the ids of one model. Call :meth:`start` in each worker."""

    def __init__(self, key: bytes, identity: Identity, task: str, classes: Sequence[str] = ()) -> None:
        """``task`` is "classification", which requires ``classes``, or "regression"; other tasks have no ids."""
        version, revision = identity.version.encode(), identity.revision.encode()
        self._model, self._revision = identity.model, identity.revision
        self._format = _NUMBERS if task == "regression" else _CLASSES if task == "classification" and classes else 0
        self._prefix = _HEAD.pack(self._format, len(version), len(revision)) + version + revision
        self._hashes = {spelling: class_hash(text) for text in classes for spelling in spellings(text)}
        self._keyed = hashlib.blake2b(key=key, digest_size=_MAC)
        self._salt, self._last = 0, 0
        self._marks: dict[bytes, int] = {}

    def start(self) -> None:
        """Draw the salt that keeps ids of this worker apart from those of another in the same microsecond."""
        self._salt = int.from_bytes(os.urandom(2)) % _SALTS

    def mark(self, drawn: bytes) -> int:
        """Return the mark of a request with this header :data:`.rollout.DRAWN`: few values occur, each often."""
        mark = self._marks.get(drawn)
        if mark is None:
            if len(self._marks) >= _MOST_MARKS:
                self._marks.clear()
            mark = self._marks[drawn] = mark_of(drawn, self._revision)
        return mark

    def make(self, predictions: Array | None, mark: int = 0) -> str | None:
        """Return the id of one request from its predictions [rows]. None for more than 64 rows, several predictions per
        row, or a task without labels."""
        if not self._format or predictions is None or predictions.ndim != 1 or not 0 < len(predictions) <= MAX_ROWS:
            return None
        if self._format == _NUMBERS:
            rows = predictions.astype(">f8").tobytes()
        else:
            try:
                rows = b"".join(map(self._hashes.__getitem__, predictions.tolist()))
            except KeyError:
                return None
        made = time.time_ns() & _MADE_MASK
        if made <= self._last:  # no two ids of a worker are the same
            made = self._last + _SALTS
        self._last = made
        content = self._prefix + _MADE.pack(made | self._salt, mark) + rows
        raw = content + self._mac(content)
        return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()

    def read(self, text: str) -> Prediction:
        """Return the content of an id; raise :class:`RequestError` if it is malformed, changed or of another model.

        Without a secret anyone can give any content a checksum, so the content is checked too.
        """
        try:
            if len(text) > MAX_ID:
                raise binascii.Error
            padded = text.encode("ascii").translate(_PLAIN) + b"=" * (-len(text) % 4)
            raw = binascii.a2b_base64(padded, strict_mode=True)
        except (UnicodeEncodeError, binascii.Error):
            raise RequestError(_MALFORMED) from None
        content, mac = raw[:-_MAC], raw[-_MAC:]
        if not hmac.compare_digest(self._mac(content), mac):
            raise RequestError(
                f"prediction_id was changed, or is not of model {self._model} with its present feedback key: send it "
                "exactly as in the response"
            )
        try:
            return self._parsed(content, mac)
        except (struct.error, UnicodeDecodeError):
            raise RequestError(_MALFORMED) from None

    def _parsed(self, content: bytes, mac: bytes) -> Prediction:
        form, version, revision = _HEAD.unpack_from(content)
        if form != self._format:
            raise RequestError(
                "prediction_id is of a revision with another task: only pods of that revision can score it"
            )
        middle, end = _HEAD.size + version, _HEAD.size + version + revision
        made, mark = _MADE.unpack_from(content, end)
        rows = content[end + _MADE.size :]
        count, rest = divmod(len(rows), 8 if form == _NUMBERS else 4)
        names = content[_HEAD.size : middle].decode(), content[middle:end].decode()
        if rest or not 0 < count <= MAX_ROWS or not all(map(str.isprintable, names)):
            raise RequestError(_MALFORMED)
        return Prediction(
            *names,
            made / 1e9,
            struct.unpack(f">{count}d", rows)
            if form == _NUMBERS
            else tuple(rows[at : at + 4] for at in range(0, len(rows), 4)),
            mark,
            mac,
        )

    def _mac(self, content: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(content)
        return keyed.digest()
