"""A sample of the requests of a pod, in anonymous shared memory: workers write, the process of the rehearsal reads.

Each worker has a region: a header, an index with a record for each entry, and a ring of bytes. An entry is complete
when its record is written; the oldest make room. The checksum of a record covers its place and its bytes, with a key
that no client knows, so a reader detects an entry that was overwritten while it was read, and a worker that takes over
from one that crashed detects what was half written. No lock is needed, and no order of writes is relied on.

A worker keeps equal requests once: one that is sent again and again would take the place of all others.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Container, Mapping
from hashlib import blake2b
from itertools import accumulate, pairwise
from random import Random
from typing import NamedTuple

from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.authentic import Content

CLIENT = b"x-mlmodel-client"
"""Header with the client's address, which the router sets. The sample has only Python's hash of it, whose key is random
and the same for all workers, which are forked."""

TOTAL_BYTES = 16 << 20
"""Memory for the samples of all workers of a pod."""

LARGEST = 16
"""A body may take at most this fraction of the region of a worker."""

MAX_AGE = 24 * 3600.0
"""Seconds after which a request is no longer kept."""

PER_SECOND = 1.0
"""Average number of requests that are kept in a second, once the region is full."""

FAIR_PER_SECOND = 10
"""Further requests that are kept in a second, of clients that hold less than their share."""

TICKS = 10
"""Calls of :meth:`Sample.tick` in a second."""

REPEATS = 20
"""Equal requests of a peer that are looked at between two ticks; of each client one."""

_WORD = 8
_FIRST, _LAST, _END, _HIGHEST, _SEEN, _FULL = range(6)  # words of the header
_HEADER = 8
_SEQUENCE, _AT, _OFFSET, _LENGTH, _CLIENT, _DIGEST, _COST, _CHECKSUM = range(8)  # words of a record
_RECORD = 8
_PLACE = struct.Struct("=8q")
_LENGTHS = struct.Struct("=4H")
_MAX_HEADER = 8 << 10
_MOST_MICROSECONDS = 3600 * 10**6


class Place(NamedTuple):
    """Where a request is kept: its worker, and its number there. Equal requests of all workers of the pod have the same
    ``digest``, which no client can compute. ``microseconds`` is what stable took for it when a client sent it."""

    slot: int
    sequence: int
    digest: int
    microseconds: int


class Entry(NamedTuple):
    """A kept request: its worker, its number there, and when it was answered, in seconds since 1970."""

    slot: int
    sequence: int
    at: float
    content: Content


class _Region:
    """The memory of one worker. Its words are numbers of 64 bits; its ring is the rest, in bytes.

    Offsets in the ring only grow; the place in memory is the offset modulo the size. An entry is contiguous.
    """

    def __init__(self, memory: memoryview, slot: int, capacity: int, key: bytes) -> None:
        index = (_HEADER + capacity * _RECORD) * _WORD
        self.slot, self.capacity, self._key = slot, capacity, key
        self.words = memory[:index].cast("q")
        self.ring = memory[index:]
        self.size = len(self.ring)
        self.largest = len(memory) // LARGEST

    def sequences(self) -> range:
        """Return the numbers of the entries that may be in the region, oldest first."""
        first, last = self.words[_FIRST], self.words[_LAST]
        return range(max(first, last - self.capacity + 1), last + 1) if first else range(0)

    def read(self, sequence: int) -> tuple[list[int], bytes] | None:
        """Return the record of an entry and its bytes; None if it was overwritten, also during this call."""
        start = self._record(sequence)
        record = self.words[start : start + _RECORD].tolist()
        offset, length = record[_OFFSET], record[_LENGTH]
        place = offset % self.size
        if record[_SEQUENCE] != sequence or not 0 < length <= self.size - place:
            return None
        raw = bytes(self.ring[place : place + length])
        return (record, raw) if self._checksum(record, raw) == record[_CHECKSUM] else None

    def place(self, sequence: int) -> Place | None:
        """Return the place of an entry, without a look at its bytes; None if it was overwritten."""
        start = self._record(sequence)
        record = self.words[start : start + _RECORD].tolist()
        return Place(self.slot, sequence, record[_DIGEST], record[_COST]) if record[_SEQUENCE] == sequence else None

    def digest_of(self, raw: bytes) -> int:
        """Return a hash of the bytes of an entry, with a key that no client knows."""
        return int.from_bytes(blake2b(raw, digest_size=8, key=self._key).digest(), "little", signed=True)

    def write(self, offset: int, at: int, client: int, digest: int, cost: int, raw: bytes) -> None:
        """Write an entry at an offset of :meth:`offset_for`, where no other one is."""
        words = self.words
        sequence = words[_LAST] + 1
        words[_LAST] = sequence  # first of all: no other entry gets this number, even if this process crashes here
        words[_FIRST] = words[_FIRST] or sequence
        words[_END] = offset + len(raw)
        place = offset % self.size
        words[_HIGHEST] = max(words[_HIGHEST], place + len(raw))
        self.ring[place : place + len(raw)] = raw
        record = [sequence, at, offset, len(raw), client, digest, cost, 0]
        record[_CHECKSUM] = self._checksum(record, raw)
        for word, value in enumerate(record, self._record(sequence)):
            words[word] = value

    def offset_for(self, length: int) -> int:
        """Return where the next entry of this length begins: behind the last one, or at the start of the ring, if it
        does not fit there or as much is free before the oldest entry. So small entries do not use the whole ring."""
        end: int = self.words[_END]
        place = end % self.size
        first = self.first_record()[0] if self.sequences() else end
        used = end - first
        is_free = used <= place and place - used >= used + length
        return end + self.size - place if is_free or length > self.size - place else end

    def remove_first(self) -> tuple[int, int, int]:
        """Remove the oldest entry, with zeros in its place, and return its client, length and digest."""
        sequence = self.sequences()[0]
        start = self._record(sequence)
        record = self.words[start : start + _RECORD].tolist()
        for word in range(start, start + _RECORD):
            self.words[word] = 0
        place, length = record[_OFFSET] % self.size, record[_LENGTH]
        self.ring[place : place + length] = bytes(length)
        self.words[_FIRST] = sequence + 1
        return record[_CLIENT], length, record[_DIGEST]

    def first_record(self) -> tuple[int, int]:
        """Return offset and time of the oldest entry."""
        start = self._record(self.sequences()[0])
        return self.words[start + _OFFSET], self.words[start + _AT]

    def wipe(self) -> None:
        """Fill all that was ever written with zeros. Pages that were never used stay unused."""
        used = self.words[_HIGHEST]
        records = min(self.words[_LAST] + 1, self.capacity)  # the first has number 1
        for word in range(_HEADER, _HEADER + records * _RECORD):
            self.words[word] = 0
        self.ring[:used] = bytes(used)
        self.words[_FIRST] = self.words[_LAST] + 1

    def _record(self, sequence: int) -> int:
        return _HEADER + sequence % self.capacity * _RECORD

    def _checksum(self, record: list[int], raw: bytes) -> int:
        keyed = blake2b(_PLACE.pack(*record[:_CHECKSUM], self.slot), digest_size=8, key=self._key)
        keyed.update(raw)
        return int.from_bytes(keyed.digest(), "little", signed=True)


class _Everyone:
    def __contains__(self, _: object) -> bool:
        return True


_EVERYONE = _Everyone()


class Sample:
    """The samples of all workers. Create it before the fork; each worker calls :meth:`start`, then writes in its event
    loop. Any process may read."""

    def __init__(self, requests: int, workers: int = 1, total: int = TOTAL_BYTES) -> None:
        """Keep at most this many ``requests``, in at most ``total`` bytes; both are divided by the workers."""
        self._memory = mmap.mmap(-1, total)
        if hasattr(mmap, "MADV_DONTDUMP"):
            self._memory.madvise(mmap.MADV_DONTDUMP)  # a core dump has no request in it
        key, view = os.urandom(16), memoryview(self._memory)
        size = total // workers // _WORD * _WORD
        self._regions = [
            _Region(view[slot * size : (slot + 1) * size], slot, requests // workers + (slot < requests % workers), key)
            for slot in range(workers)
        ]
        self._open = False
        self._seen = 0
        self._refused: Container[int] = _EVERYONE

    @property
    def seen(self) -> int:
        """Predictions that were offered to the sample since the start, by all workers."""
        return sum(region.words[_SEEN] for region in self._regions)

    @property
    def kept(self) -> int:
        """Number of requests in the sample."""
        return sum(len(region.sequences()) for region in self._regions)

    def places(self) -> list[Place]:
        """Return the place of each kept request, oldest first in each slot. No body is read."""
        found = (region.place(sequence) for region in self._regions for sequence in region.sequences())
        return [place for place in found if place]

    def read(self, slot: int, sequence: int) -> Entry | None:
        """Return a kept request; None if it was overwritten, wiped, half written, or is too old."""
        region = self._regions[slot]
        found = region.read(sequence) if sequence in region.sequences() else None
        if found is None or time.time_ns() - found[0][_AT] > MAX_AGE * 1e9:
            return None
        return Entry(slot, sequence, found[0][_AT] / 1e9, _unpacked(found[1]))

    def start(self, slot: int) -> None:
        """Write as the worker of ``slot``, from now on. It takes over what a worker that crashed has kept there."""
        self._region = region = self._regions[slot]
        self._held: dict[int, int] = {}
        self._digests: set[int] = set()
        self._weight = 0
        self._peers: dict[int, int] = {}
        self._peer_of: dict[int, int] = {}
        self._repeating: set[int] = set()
        self._repeats: dict[int, int] = {}
        records = [found[0] for sequence in region.sequences() if (found := region.read(sequence))]
        if len(records) < len(region.sequences()):  # it crashed while it wrote
            region.wipe()
            records = []
        for record in records:
            self._hold(record[_CLIENT], record[_LENGTH], record[_DIGEST])
        self._seen = region.words[_SEEN]
        self._open = region.capacity > 0
        self._draw = Random().random  # noqa: S311  # draws a sample, guards nothing
        self._due, self._fair, self._ticks = False, FAIR_PER_SECOND, 0
        self._update()

    def tick(self) -> None:
        """Publish the count, and draw whether the next request is kept. Call this ten times a second."""
        self._region.words[_SEEN] = self._seen
        if not self._open:
            return
        self._due = self._due or self._draw() < PER_SECOND / TICKS
        self._fair = min(FAIR_PER_SECOND, self._fair + FAIR_PER_SECOND // TICKS)
        self._ticks += 1
        self._repeats.clear()
        self._repeating.clear()
        if self._ticks % (10 * TICKS) == 0:
            self._expire()
        self._refuse()

    def wants(self, headers: Mapping[bytes, bytes]) -> bool:
        """Count a prediction, and return whether to :meth:`keep` it. For most, this is all that happens."""
        self._seen += 1
        return hash(headers.get(CLIENT)) not in self._refused

    def keep(self, content: Content, headers: Mapping[bytes, bytes], seconds: float = 0.0, peer: str = "") -> None:
        """Write a request that is wanted, and took ``seconds``, unless it is too large, a copy, or kept already.

        ``peer`` is the address of the connection: a router, or a client that reaches the pod directly.
        """
        region = self._region
        if not self._open or authentic.MARK in headers or len(content.body) > region.largest:
            return
        source = hash(peer)  # the address itself is not stored
        if self._repeats.get(source, 0) >= REPEATS or self._owns_half(source):
            return
        raw = _packed(content)
        if raw is None or len(raw) > region.size:
            return
        client, digest = hash(headers.get(CLIENT)), region.digest_of(raw)
        if digest in self._digests:
            # Nothing more of this client until the next tick: a repeated request must not cost the others anything.
            self._repeats[source] = self._repeats.get(source, 0) + 1
            self._repeating.add(client)
            self._refuse()
            return
        if not self._is_filling:
            if client not in self._satisfied and self._fair:
                self._fair -= 1
            else:
                self._due = False
                if self._is_crowding(client, len(raw)):
                    self._refuse()
                    return
        cost = min(max(int(seconds * 1e6), 0), _MOST_MICROSECONDS)
        region.write(self._make_room(len(raw)), time.time_ns(), client, digest, cost, raw)
        self._hold(client, len(raw), digest)
        self._peers[source] = self._peers.get(source, 0) + 1
        self._peer_of[region.words[_LAST]] = source
        self._update()

    def wipe(self) -> None:
        """Fill this worker's part with zeros, and keep nothing from now on."""
        if self._open:
            self._open, self._refused = False, _EVERYONE
            self._region.wipe()

    def _owns_half(self, peer: int) -> bool:
        """Whether one of several peers has half of a full sample. A client that reaches the pod directly can name any
        address as that of its client, and so get the shares of many: beside a router, it has this one limit."""
        return (
            not self._is_filling
            and len(self._peers) > 1
            and 2 * self._peers.get(peer, 0) >= len(self._region.sequences())
        )

    def _is_crowding(self, client: int, length: int) -> bool:
        """Whether a large request would give its client more than half of the sample, beside others. It is kept only
        if its client has less than its share."""
        weight = self._weight_of(length)
        alone = len(self._held) == (client in self._held)
        return weight > 1 and not alone and self._held.get(client, 0) + weight > self._region.capacity / 2

    def _make_room(self, length: int) -> int:
        """Forget the oldest entries, until one more of this length has room; return its offset."""
        region = self._region
        while len(region.sequences()) >= region.capacity:
            self._forget()
        offset = region.offset_for(length)
        while region.sequences() and region.first_record()[0] + region.size < offset + length:
            region.words[_FULL] = 1
            self._forget()
        return offset

    def _expire(self) -> None:
        oldest = time.time_ns() - int(MAX_AGE * 1e9)
        while self._region.sequences() and self._region.first_record()[1] < oldest:
            self._forget()
        self._update()

    def _forget(self) -> None:
        peer = self._peer_of.pop(self._region.sequences()[0], None)
        if peer is not None:  # else a worker that crashed has kept it
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
        client, length, digest = self._region.remove_first()
        self._digests.discard(digest)
        weight = self._weight_of(length)
        self._weight -= weight
        self._held[client] -= weight
        if not self._held[client]:
            del self._held[client]

    def _hold(self, client: int, length: int, digest: int) -> None:
        weight = self._weight_of(length)
        self._digests.add(digest)
        self._weight += weight
        self._held[client] = self._held.get(client, 0) + weight

    def _weight_of(self, length: int) -> int:
        """Return how many entries of the usual size a request takes the place of."""
        return max(1, -(-length * self._region.capacity // self._region.size))

    def _update(self) -> None:
        region, held = self._region, self._held
        if len(region.sequences()) == region.capacity:
            region.words[_FULL] = 1
        share = self._weight / max(1, len(held))
        self._satisfied = {client for client, weight in held.items() if weight >= share}
        self._refuse()

    @property
    def _is_filling(self) -> bool:
        return not self._region.words[_FULL]

    def _refuse(self) -> None:
        """Decide whose requests are not wanted now."""
        if not self._open:
            self._refused = _EVERYONE
        elif self._due or self._is_filling:
            self._refused = self._repeating
        else:
            self._refused = self._satisfied | self._repeating if self._fair else _EVERYONE


def _packed(content: Content) -> bytes | None:
    """Return a request as the bytes of an entry; None if its headers are too long."""
    if sum(map(len, content[:4])) > _MAX_HEADER:
        return None
    return b"".join((_LENGTHS.pack(*map(len, content[:4])), *content))


def _unpacked(raw: bytes) -> Content:
    ends = list(accumulate(_LENGTHS.unpack_from(raw), initial=_LENGTHS.size))
    target, content_type, json_length, encoding = (raw[start:end] for start, end in pairwise(ends))
    return Content(target, content_type, json_length, encoding, raw[ends[-1] :])
