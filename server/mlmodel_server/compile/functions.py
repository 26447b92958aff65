"""A compiled model in service. Imports neither scikit-learn nor onnx, so a server can start without them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from mlmodel_server.compile.domain import Check, Domain
from mlmodel_server.formats.opened import Table
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

NUMBERS, TEXT = "numbers", "text"
"""Names of the inputs."""

GUARD = "guard"
"""Name of the output that is zero unless a step of the model raises on its rows; most models have none."""

DOMAIN = "domain"
"""Name of the metadata that holds what the model refuses beforehand."""

_DOUBLE = np.dtype(np.float64)

SAFE = 1e30
"""A table whose squares add up to less has no number that any model refuses for being no number, or too great."""

CHUNK = 512
"""Rows in one run: so many stay in the cache, and memory does not grow with the greatest request."""


class OnnxFunctions:
    """The prediction functions of a compiled model, for :class:`Model` in place of the estimator's methods.

    Safe to call from several threads and, with one thread, in processes that were forked off later. More than one
    thread is for rows by the hundred; sums may then round differently in the last bit than was verified.
    """

    def __init__(self, onnx: bytes, signature: Signature, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what matters is raised
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        # The Python method around this one checks names again and formats help: half the time of a small model.
        self._session, self._run = session, session._sess.run
        self._dimensions = {spec.name: len(spec.shape) for spec in signature.outputs}
        self._guarded = GUARD in {given.name for given in session.get_outputs()}
        inputs = {given.name for given in session.get_inputs()}
        self._needs_numbers, self._needs_text = NUMBERS in inputs, TEXT in inputs
        text = np.array([spec.datatype == "BYTES" for spec in signature.inputs])
        self._numbers, self._text = np.flatnonzero(~text), np.flatnonzero(text)
        self._mixed = bool(text.any())
        domain = msgspec.json.decode(session.get_modelmeta().custom_metadata_map[DOMAIN], type=Domain)
        self._check = Check(domain)

    def __call__(self, table: Table, wanted: Sequence[str]) -> list[Array]:
        """The wanted outputs for [rows, columns]; all of them from the same run of the graph.

        ValueError when the table holds what the estimator would not have taken: a missing or infinite number, or a
        category that it never saw.
        """
        assert isinstance(table, np.ndarray)  # no estimator has the layout "tensors"
        if len(table) > CHUNK:
            parts = [self(table[begin : begin + CHUNK], wanted) for begin in range(0, len(table), CHUNK)]
            return [np.concatenate(answers) for answers in zip(*parts, strict=True)]
        feeds = {}
        if self._mixed:
            numbers = table.take(self._numbers, axis=1).astype(np.float64)
            if self._needs_text:
                feeds[TEXT] = table.take(self._text, axis=1)
        else:
            numbers = table if table.dtype is _DOUBLE else table.astype(np.float64)
        if self._needs_numbers:
            feeds[NUMBERS] = numbers
        flat = numbers.ravel()
        if not flat.dot(flat) < SAFE:
            self._check.numbers(numbers)
        if self._check.known:
            self._check.categories(table)
        answers: list[Array]
        if self._guarded:
            *answers, guard = self._run([*wanted, GUARD], feeds, None)
            if guard[0] != 0.0:
                raise ValueError("a step of the model takes no such number")
        else:
            answers = self._run(wanted, feeds, None)
        for index, answer in enumerate(answers):
            if answer.ndim != self._dimensions[wanted[index]]:
                answers[index] = answer.ravel()  # a column of one
        return answers
