"""Load a model as a server does, and ask it as a client does, in this process.

The code is that of the transports: :func:`load` and :func:`choose` as in ``startup/assemble.py``, then
:func:`v2.decode`, :meth:`Model.infer` and :func:`v2.answer` as in ``serving/``, with bytes at both ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hack.census.tables import Array
from mlmodel_server.compile import timing
from mlmodel_server.compile.verdict import Times
from mlmodel_server.engine.model import Model
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Local
from mlmodel_server.protocol import binary, v2
from mlmodel_server.startup.choose import PLATFORM, Choice, choose
from mlmodel_server.tensors import DTYPES, Tensor, TensorSpec, datatype_of


class Server:
    """A model that is ready. ``verdict`` is the sentence about compiling, "" if it was not tried."""

    def __init__(self, path: Path, compile: bool) -> None:
        """Raise :class:`~mlmodel_server.errors.RefusedModel` as the server does at start."""
        self._choice: Choice = choose(load(Local(path)), "auto" if compile else "off")
        self.model: Model = self._choice.model

    @property
    def is_compiled(self) -> bool:
        """Whether the compiled model serves."""
        return self._choice.platform == PLATFORM and bool(self._choice.verdict)

    @property
    def is_single(self) -> bool:
        """Whether the rows are float32: a package and a signature say so, a file does not."""
        return all(spec.datatype == "FP32" for spec in self.model.signature.inputs)

    @property
    def verdict(self) -> str:
        """Why the model is compiled or not."""
        return self._choice.verdict

    @property
    def outputs(self) -> list[str]:
        """The outputs in the metadata."""
        return [spec.name for spec in self.model.signature.outputs]

    def example(self) -> bytes:
        """Return the request of ``/example``."""
        return self._choice.example

    def ask(self, body: bytes, length: int | None = None) -> dict[str, Array]:
        """Answer one request of bytes; raise as the server does."""
        request = v2.decode(body, length)
        response = self.model.infer(request)
        return _decoded(*v2.answer(request, response, "census", "1"))

    def answers(self, rows: Any, outputs: list[str], binary: bool = False) -> dict[str, Array]:
        """Ask for outputs of ``rows``, which are in the library's own type; ``binary``: as binary data."""
        return self.ask(*request_of(self.model, rows, outputs, binary))


def request_of(model: Model, rows: Any, outputs: list[str], as_binary: bool = False) -> tuple[bytes, int | None]:
    """Return a request with ``rows``, in the declared types where nothing is lost: as JSON, or with binary tensors if a
    number is not finite, which JSON cannot hold."""
    tensors = _tensors(model, rows)
    wanted: list[dict[str, Any]] = [{"name": name} for name in outputs]
    finite = all(t.array.dtype.kind != "f" or bool(np.isfinite(t.array).all()) for t in tensors)
    if finite and not as_binary:
        return json.dumps({"inputs": [v2.tensor_json(t) for t in tensors], "outputs": wanted}).encode(), None
    raws = [binary.to_raw(tensor) for tensor in tensors]
    inputs = [
        {"name": t.name, "datatype": t.datatype, "shape": t.array.shape, "parameters": {"binary_data_size": len(raw)}}
        for t, raw in zip(tensors, raws, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "outputs": wanted, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(raws), len(head)


def _tensors(model: Model, rows: Any) -> list[Tensor]:
    signature = model.signature
    if isinstance(rows, list):
        return _of_documents(signature.inputs, rows)
    columns = (
        [np.asarray(rows.iloc[:, index]) for index in range(rows.shape[1])]
        if isinstance(rows, pd.DataFrame)
        else list(rows.T)
    )
    if len(signature.inputs) == 1 and len(signature.inputs[0].shape) == 2:
        table = np.asarray(rows) if not isinstance(rows, pd.DataFrame) else np.column_stack(columns)
        return [_tensor(signature.inputs[0], table)]
    names = list(rows.columns) if isinstance(rows, pd.DataFrame) else []
    by_name = dict(zip(names, columns, strict=True)) if names else {}
    return [
        _tensor(spec, by_name.get(spec.name, columns[index] if index < len(columns) else columns[0]))
        for index, spec in enumerate(signature.inputs)
    ]


def _of_documents(inputs: tuple[TensorSpec, ...], rows: list[Any]) -> list[Tensor]:
    """Return texts, or dictionaries as columns: a key that one lacks is a missing text, or 0."""
    if not isinstance(rows[0], dict):
        return [Tensor(inputs[0].name, "BYTES", np.array(rows, object))]
    blank = {"BYTES": None}
    return [
        Tensor(
            spec.name,
            spec.datatype,
            np.array([row.get(spec.name, blank.get(spec.datatype, 0.0)) for row in rows], DTYPES[spec.datatype]),
        )
        for spec in inputs
    ]


def _tensor(spec: TensorSpec, array: Array) -> Tensor:
    """Return the values in the declared type if that loses nothing, else in their own."""
    if array.dtype == object and spec.datatype != "BYTES":
        numbers = all(isinstance(value, (int, float, np.number)) for value in array.ravel())
        array = array.astype(np.float64) if numbers else array
    own = datatype_of(array.dtype)
    if own != spec.datatype and array.dtype.kind in "bif" and spec.datatype not in ("BYTES", "BOOL"):
        cast = array.astype(DTYPES[spec.datatype])
        if np.array_equal(cast.astype(np.float64), array.astype(np.float64), equal_nan=True) or spec.datatype == "FP32":
            return Tensor(spec.name, spec.datatype, cast)
    return Tensor(spec.name, own, array.astype(object) if own == "BYTES" else array)


def _decoded(body: bytes, length: int | None) -> dict[str, Array]:
    """Read a response as a client does."""
    head = json.loads(body if length is None else body[:length])
    answers, start = {}, length or 0
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            array: Array = np.array(output["data"], DTYPES[output["datatype"]]).reshape(output["shape"])
        else:
            raw = memoryview(body)[start : start + size]
            array = binary.from_raw(output["name"], output["datatype"], tuple(output["shape"]), raw)
            start += size
        answers[output["name"]] = array
    return answers


@contextmanager
def any_speed() -> Iterator[None]:
    """Serve a compiled model that is the same even if it is not faster: the census asks what it answers, and a verdict
    must not depend on the load of the machine."""
    original = timing.measure, timing.faster
    fast = Times(1000.0, 1000.0), Times(1.0, 1.0)
    timing.measure, timing.faster = (lambda *_: fast), (lambda *_: True)
    try:
        yield
    finally:
        timing.measure, timing.faster = original
