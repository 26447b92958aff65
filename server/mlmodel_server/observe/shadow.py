"""Shadow: sends copies of some answered requests to another version, and compares its responses with ours.

One thread per worker sends the copies, without effect on the requests. Copies beyond its capacity are dropped and
counted.
"""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np
from prometheus_client import Metric

from mlmodel_server.errors import RequestError, UsageError
from mlmodel_server.observe.background import Background
from mlmodel_server.observe.cells import Cells, Identity
from mlmodel_server.observe.families import Buckets, counter, histogram
from mlmodel_server.protocol.binary import from_raw, to_raw
from mlmodel_server.tensors import DTYPES, Array, Tensor, elements

WAITING = 64
"""Maximum number of copies that wait in a worker."""

MAX_RESPONSE = 64 << 20
"""Maximum size of a response in bytes; a comparable response is not larger."""

JSON_LENGTH = "inference-header-content-length"

MARK = b"x-mlmodel-shadow"
"""The header that marks a copy. A server does not copy a copy."""

PASSED_ON = (b"traceparent", b"tracestate")
"""Headers that the copy has from the request; credentials are not among them."""

OUTCOMES = ("compared", "dropped", "unreachable", "timeout", "refused", "unreadable", "different")
"""Outcomes of a copy. ``dropped``: queue full; ``unreachable``: no connection; ``timeout``: no response in time;
``refused``: a status other than 200; ``unreadable``: not a v2 response; ``different``: other outputs or shapes."""

DIFFERENCES = (0, 1e-9, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10, 100, 1000)
"""Bounds of the absolute difference, in the unit of the output."""

_DIFFERENCE = Buckets(*DIFFERENCES)
_CELL = {outcome: place for place, outcome in enumerate(OUTCOMES)}
_SAME = len(OUTCOMES)  # rows whose labels agree, then rows whose labels do not
_DIFFERENCES = slice(_SAME + 2, _SAME + 2 + _DIFFERENCE.cells)


class _Copy(NamedTuple):
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    headers: dict[str, str]


class _Output(msgspec.Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Response(msgspec.Struct):
    outputs: list[_Output]


_decoder = msgspec.json.Decoder(_Response)


class Shadow:
    """Sends copies to one other version. Create it before the fork; :meth:`start` it in each worker."""

    def __init__(
        self, identity: Identity, url: str, percent: float, slots: int = 1, *, timeout: float = 5.0, seed: int = 0
    ) -> None:
        """``url`` is ``http://HOST[:PORT]`` of another server of this protocol, optionally with the path of its model.
        ``percent`` of the requests are copied, drawn by a generator with ``seed`` plus the slot. Each step of a copy
        may take ``timeout`` seconds. Raise :class:`UsageError` for a wrong value."""
        parts = urlsplit(url)
        try:
            self._host, self._port = parts.hostname or "", parts.port or 80
        except ValueError:
            self._host = ""
        if parts.scheme != "http" or not self._host or parts.username or parts.query:
            raise UsageError("the address of the shadow must be like http://NAME.NAMESPACE.svc:8080")
        if not 0 < percent <= 100:
            raise UsageError(f"the percentage of the shadow must be above 0 and at most 100, not {percent:g}")
        self._identity, self._labels = identity, [*identity, parts.netloc]
        self._path = parts.path.rstrip("/") or f"/v2/models/{identity.model}/infer"
        self._share, self._timeout, self._seed = percent / 100, timeout, seed
        self._cells = Cells(slots, _DIFFERENCES.stop)
        self._background = Background("shadow", self._send, WAITING, end=self._close)
        self._connection: http.client.HTTPConnection | None = None

    def start(self, slot: int = 0) -> None:
        """Count in this slot, and start the thread of this process."""
        self._row = self._cells.row(slot)
        self._random = random.Random(self._seed + slot).random  # noqa: S311  # draws a sample, guards nothing
        self._background.start()

    def stop(self) -> None:
        """Discard the queue. The thread stops after the response to the current copy, or its timeout."""
        self._background.stop(discard=True)

    def offer(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], headers: Mapping[bytes, bytes]) -> None:
        """Copy an answered request, if it is drawn: its tensors, those of the response, and its headers by lower-case
        name. Do not write to the tensors any more."""
        if self._random() >= self._share or MARK in headers:
            return
        passed_on = {name.decode(): headers[name].decode("latin-1") for name in PASSED_ON if name in headers}
        if not self._background.offer(_Copy(inputs, outputs, passed_on)):
            self._row[_CELL["dropped"]] += 1

    def _send(self, copy: _Copy) -> None:
        self._row[_CELL[self._compared(copy)]] += 1

    def _compared(self, copy: _Copy) -> str:
        """Send the copy and count the differences; return the outcome."""
        if any(tensor.array.dtype == object and None in tensor.array.ravel().tolist() for tensor in copy.inputs):
            return "dropped"  # the protocol of the copies has no missing text
        try:
            status, body, json_length = self._request(*_encoded(copy))
        except (OSError, http.client.HTTPException) as error:
            self._close()
            return "timeout" if isinstance(error, TimeoutError) else "unreachable"
        if status != 200:
            return "refused"
        try:
            theirs = _outputs(body, json_length)
        except (msgspec.DecodeError, RequestError, ValueError, TypeError, KeyError, OverflowError):
            return "unreadable"
        if any(tensor.name not in theirs or theirs[tensor.name].shape != tensor.array.shape for tensor in copy.outputs):
            return "different"
        self._count([(_values(tensor), theirs[tensor.name]) for tensor in copy.outputs])
        return "compared"

    def _request(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes, int | None]:
        """Return status, body, and the length of its JSON if that is not all of it. The other side may have closed the
        idle connection: then retry once on a new one."""
        kept = self._connection
        if kept:
            try:
                return _post(kept, self._path, headers, body)
            except ConnectionError:
                kept.close()
        self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return _post(self._connection, self._path, headers, body)

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _count(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        labels = [
            (ours == theirs).reshape(len(ours), -1).all(axis=1) for ours, theirs in pairs if ours.dtype.kind != "f"
        ]
        if labels:
            same = int(np.logical_and.reduce(labels).sum())
            self._row[_SAME : _SAME + 2] += same, len(labels[0]) - same
        for ours, theirs in pairs:
            if ours.dtype.kind == "f" and len(ours):
                gap = np.abs(ours.astype(np.float64) - theirs).reshape(len(ours), -1).max(axis=1, initial=0.0)
                _DIFFERENCE.observe(self._row[_DIFFERENCES], np.nan_to_num(gap, nan=np.inf, posinf=np.inf))

    def collect(self) -> Iterator[Metric]:
        """Yield the outcomes of the copies and the differences of the responses."""
        total = self._cells.total()
        requests = counter(
            "mlmodel_shadow_requests_total", f"Copies of requests, by outcome: {', '.join(OUTCOMES)}.", "to", "outcome"
        )
        for outcome, cell in _CELL.items():
            requests.add_metric([*self._labels, outcome], total[cell])
        yield requests
        rows = counter(
            "mlmodel_shadow_rows_total", "Rows of copies, by whether all labels are the same.", "to", "agree"
        )
        rows.add_metric([*self._labels, "true"], total[_SAME])
        rows.add_metric([*self._labels, "false"], total[_SAME + 1])
        yield rows
        difference = histogram(
            "mlmodel_shadow_difference",
            "Largest absolute difference of a row, for each output of floating-point numbers, in the unit of the "
            "output.",
            "to",
        )
        yield _DIFFERENCE.add(difference, self._labels, total[_DIFFERENCES])


def _encoded(copy: _Copy) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a v2 request with binary data, which can also hold NaN."""
    raws = [to_raw(tensor) for tensor in copy.inputs]
    head = msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": tensor.name,
                    "shape": tensor.array.shape,
                    "datatype": tensor.datatype,
                    "parameters": {"binary_data_size": len(raw)},
                }
                for tensor, raw in zip(copy.inputs, raws, strict=True)
            ],
            "outputs": [{"name": tensor.name, "parameters": {"binary_data": True}} for tensor in copy.outputs],
        }
    )
    headers = {
        "content-type": "application/octet-stream",
        JSON_LENGTH: str(len(head)),
        MARK.decode(): "true",
        **copy.headers,
    }
    return headers, b"".join((head, *raws))


def _post(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, bytes, int | None]:
    connection.request("POST", path, body, headers)
    with connection.getresponse() as response:
        answer = response.read(MAX_RESPONSE + 1)
        if len(answer) > MAX_RESPONSE:
            connection.close()  # the rest is not read
        length = response.getheader(JSON_LENGTH)
        return response.status, answer, int(length) if length and length.isdecimal() else None


def _outputs(body: bytes, json_length: int | None) -> dict[str, Array]:
    """Return the outputs of a v2 response by name. Raise one of several errors when it is not a v2 response."""
    head = len(body) if json_length is None else json_length
    outputs, start = {}, head
    for output in _decoder.decode(body[:head]).outputs:
        size = output.parameters.get("binary_data_size")
        if size is None:
            array = np.array(output.data, DTYPES[output.datatype]).reshape(output.shape)
        else:
            array = from_raw(output.name, output.datatype, output.shape, memoryview(body)[start : start + size])
            start += size
        outputs[output.name] = array
    return outputs


def _values(tensor: Tensor) -> Array:
    """Return the array as decoded from a response: texts as str, for any type that the model uses."""
    if tensor.datatype != "BYTES":
        return tensor.array
    texts: Array = np.array(elements(tensor.array), object)
    return texts.reshape(tensor.array.shape)
