"""Read TensorFlow's checkpoints (``variables.index`` and ``variables.data-…``) from bytes.

TensorFlow's own reader takes paths and allocates what the file declares. This one never leaves the given files, and
every tensor is exactly as large as its bytes in them.

The index is a table of LevelDB: https://github.com/google/leveldb/blob/main/doc/table_format.md. Its values are the
messages of ``tensor_bundle.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmodel_server.errors import Unreadable
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import Array

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
_TRAILER = 5  # one byte for the compression, four of a checksum


@dataclass(frozen=True)
class Bundle:
    """The tensors of a checkpoint by name, read when they are needed."""

    entries: Mapping[str, Any]
    shards: int
    prefix: str
    files: Mapping[str, bytes]

    def tensor(self, name: str) -> Array:
        """Return the tensor. Raise :class:`ValueError` if it does not exist or is not completely in the files."""
        entry = self.entries.get(name)
        if entry is None:
            raise Unreadable("it has a variable that has no value in the checkpoint")
        if len(entry.slices):
            raise Unreadable("it has a variable that is in slices: build the model without a partitioner")
        shape = shape_of(entry.shape)
        data = self._bytes(entry)
        dtype = library("tensorflow").dtypes.as_dtype(entry.dtype)
        count = int(np.prod(shape, dtype=object))
        if dtype.name == "string":
            return np.array(_texts(data, count), object).reshape(shape)
        if dtype.name not in NUMBERS or len(data) != count * dtype.size:
            raise Unreadable("it has a variable that has another size than its type and shape")
        return np.frombuffer(data, dtype.as_numpy_dtype).reshape(shape)

    def _bytes(self, entry: Any) -> bytes:
        data = self.files.get(f"{self.prefix}.data-{entry.shard_id:05d}-of-{self.shards:05d}", b"")
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > len(data):
            raise Unreadable("it has a variable that is not completely in its file")
        return data[entry.offset : entry.offset + entry.size]


NUMBERS = frozenset(
    ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
     "uint64", "bool", "complex64", "complex128")
)  # fmt: skip
"""Types whose tensors contain only numbers: no handles and no other objects."""


def read(files: Mapping[str, bytes], prefix: str) -> Bundle:
    """Return the checkpoint ``prefix`` in ``files``; empty if it does not exist. Raise :class:`ValueError` if it is
    damaged."""
    index = files.get(f"{prefix}.index")
    if index is None:
        return Bundle({}, 1, prefix, files)
    messages = library("tensorflow.core.protobuf.tensor_bundle_pb2")
    entries: dict[str, Any] = {}
    shards = 1
    for key, value in _table(index):
        if key == b"":
            header = messages.BundleHeaderProto.FromString(value)
            if header.endianness != 0 or not 0 < header.num_shards < 100_000:
                raise Unreadable("its checkpoint has another byte order or an impossible number of files")
            shards = header.num_shards
        else:
            entries[key.decode("utf-8", "replace")] = messages.BundleEntryProto.FromString(value)
    return Bundle(entries, shards, prefix, files)


def shape_of(shape: Any) -> tuple[int, ...]:
    """Return the sizes of a ``TensorShapeProto``. Raise :class:`ValueError` if one is unknown."""
    sizes = tuple(int(dim.size) for dim in shape.dim)
    if shape.unknown_rank or len(sizes) > 254 or any(size < 0 for size in sizes):
        raise Unreadable("it has a tensor that has an unknown shape")
    return sizes


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < _FOOTER or not data.endswith(_MAGIC):
        raise Unreadable("it has an index of the checkpoint that is damaged")
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0)
    (offset, size), _ = _handle(footer, position)
    for _, value in _block(data, offset, size):
        handle, _ = _handle(value, 0)
        yield from _block(data, *handle)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block = data[offset : offset + size + _TRAILER]
    if len(block) != size + _TRAILER or size < 4 or block[size] != 0:
        raise Unreadable("it has an index of the checkpoint that is compressed or damaged")
    restarts = int.from_bytes(block[size - 4 : size], "little")
    end = size - 4 - 4 * restarts
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or position + own + length > end:
            raise Unreadable("it has an index of the checkpoint that is damaged")
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise Unreadable("its checkpoint is damaged")


def _texts(data: bytes, count: int) -> list[bytes]:
    """Return ``count`` texts: their lengths, a checksum, their bytes."""
    if count > len(data):
        raise Unreadable("it has a variable that has another size than its type and shape")
    lengths, position = [], 0
    for _ in range(count):
        length, position = _varint(data, position)
        lengths.append(length)
    position += 4
    if position + sum(lengths) != len(data) and count:
        raise Unreadable("it has a variable that has another size than its type and shape")
    texts = []
    for length in lengths:
        texts.append(data[position : position + length])
        position += length
    return texts
