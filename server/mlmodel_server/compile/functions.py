"""Serve a compiled model. Imports neither scikit-learn nor onnx, so a server can start without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from mlmodel_server.compile.domain import SAFE, Check, Domain
from mlmodel_server.compile.own import OwnSteps
from mlmodel_server.compile.plain import Plain, plain
from mlmodel_server.formats.methods import methods_behind
from mlmodel_server.formats.onnx import session
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA, Functions, Table
from mlmodel_server.formats.prepare import parts
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, missing_texts

NUMBERS, TEXT = "numbers", "text"
"""Names of the inputs."""

GUARD = "guard"
"""Name of an output of some models of several steps: the squares of the numbers between them add up to it."""

MISSING_TEXT = "\x1f-"
"""Stands for a missing text in a compiled model, whose texts cannot be missing. A model that knows a text with the same
first character is not compiled."""

_SENT = "\x1f-sent"
"""Stands for this text itself, which any client can send."""

DOMAIN = "domain"
"""Name of the metadata with the :class:`Domain` of the model."""

_DOUBLE = np.dtype(np.float64)

NONE: Mapping[str, Array] = MappingProxyType({})

COMPILED_OUTPUTS = (PREDICT, PREDICT_PROBA)
"""Outputs that can be compiled."""

_USUAL = (PREDICT,)

CHUNK = 512
"""Maximum rows of one run: they stay in the cache, and memory does not grow with the largest request."""


def compilable(signature: Signature) -> Signature | None:
    """Return the signature with only those outputs that can be compiled; None if a request that names no output gets
    others."""
    outputs = tuple(spec for spec in signature.outputs if spec.name in COMPILED_OUTPUTS)
    if not {PREDICT, *signature.default} <= {spec.name for spec in outputs}:
        return None
    return msgspec.structs.replace(signature, outputs=outputs)


def left_out(signature: Signature) -> tuple[str, ...]:
    """Return the outputs of a model that its compiled model alone does not have."""
    known = compilable(signature)
    served = {spec.name for spec in known.outputs} if known else set()
    return tuple(spec.name for spec in signature.outputs if spec.name not in served)


def how_to_get(outputs: Sequence[str]) -> str:
    """Return how a server gets outputs that the compiled model does not have."""
    named = methods_behind(outputs)
    return (
        f"for {', '.join(outputs)}, package the model with outputs={named!r} (--outputs {','.join(named)}), "
        "or serve it with --compile off"
    )


class Routed:
    """A compiled model beside the one that it was made from. A request whose outputs are all compiled gets them from
    the compiled model; any other gets all of them from the original, so that they belong together.

    ``again``: what the compiled model does not answer, the original answers, or says why not.
    """

    def __init__(
        self, compiled: Functions, original: Functions, outputs: Iterable[str], *, again: bool = False
    ) -> None:
        """``outputs`` are those of ``compiled``."""
        self._compiled, self._original, self._outputs = compiled, original, frozenset(outputs)
        self._again = again

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :class:`~mlmodel_server.formats.opened.Functions`."""
        if outputs == _USUAL or self._outputs.issuperset(outputs):
            try:
                return self._compiled(table, outputs)
            except Exception:
                if not self._again:
                    raise
        return self._original(table, outputs)


def loaded(onnx: bytes, signature: Signature, threads: int = 1, estimator: Any = None) -> Functions:
    """Return the functions of a compiled model for the table of the model that it was made from, which is the prepared
    ``estimator`` if some of its steps are not in the graph.

    Raise ValueError, or what ONNX Runtime raises, if it cannot be loaded.
    """
    if not signature.frame:
        return OnnxFunctions(onnx, signature, threads)
    made, functions = Plain(signature.inputs), OnnxFunctions(onnx, plain(signature), threads)
    if not functions.own:

        def on_plain(table: Table, outputs: Sequence[str], /) -> list[Array]:
            assert isinstance(table, np.ndarray)
            return functions(made(table), outputs)

        return on_plain
    own = OwnSteps(functions.own, parts(estimator), signature.inputs)

    def beside_own(table: Table, outputs: Sequence[str], /) -> list[Array]:
        assert isinstance(table, np.ndarray)
        return functions(made(table), outputs, own(table))

    return beside_own


def _marked(table: Array) -> Array:
    """Return the table with a text in place of each missing one."""
    values = table.ravel().tolist()
    if MISSING_TEXT in values:
        table = np.where(np.equal(table, MISSING_TEXT), _SENT, table)
    if None not in values:
        return table
    return np.where(missing_texts(table), MISSING_TEXT, table)


class OnnxFunctions:
    """The prediction functions of a compiled model, which :class:`Model` uses instead of the estimator's methods.

    Safe to call from several threads and, with one thread, in processes that are forked later. Several threads help
    with hundreds of rows; sums may then round differently in the last bit than was verified.
    """

    def __init__(self, onnx: bytes, signature: Signature, threads: int = 1) -> None:
        running = session(onnx, threads)
        # The public method checks names again and formats help: half the time of a small model.
        self._session, self._run = running, running._sess.run
        self._dimensions = {spec.name: len(spec.shape) for spec in signature.outputs}
        self._guarded = GUARD in {node.name for node in running.get_outputs()}
        inputs = {node.name for node in running.get_inputs()}
        self._needs_numbers, self._needs_text = NUMBERS in inputs, TEXT in inputs
        text = np.array([spec.datatype == "BYTES" for spec in signature.inputs])
        self._numbers, self._text = np.flatnonzero(~text), np.flatnonzero(text)
        self._mixed = bool(text.any())
        domain = msgspec.json.decode(running.get_modelmeta().custom_metadata_map[DOMAIN], type=Domain)
        self._check, self._steps, self.own = Check(domain), domain.steps, domain.own

    def __call__(self, table: Table, outputs: Sequence[str], own: Mapping[str, Array] = NONE) -> list[Array]:
        """Return the ``outputs`` for [rows, columns], all from the same run of the graph; ``own`` are the answers of
        the steps that are not in the graph.

        Raise ValueError if the table contains what the estimator rejects: a missing or infinite number, or an unknown
        category.
        """
        assert isinstance(table, np.ndarray)  # no estimator has the layout "tensors"
        if len(table) > CHUNK:
            chunks = [slice(start, start + CHUNK) for start in range(0, len(table), CHUNK)]
            parts = [self(table[c], outputs, {name: array[c] for name, array in own.items()}) for c in chunks]
            return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        feeds = dict(own)
        if self._mixed:
            table = _marked(table)
            numbers = table.take(self._numbers, axis=1).astype(np.float64)
            if self._needs_text:
                feeds[TEXT] = table.take(self._text, axis=1)
        else:
            numbers = table if table.dtype is _DOUBLE else table.astype(np.float64)
        if self._needs_numbers:
            feeds[NUMBERS] = numbers
        flat = numbers.ravel()
        safe = flat.dot(flat) < SAFE
        if not safe:
            self._check.numbers(numbers)
        if self._check.known:
            self._check.categories(table)
        arrays = self._safe(feeds, outputs) if safe or not self._steps else self._checked(feeds, outputs)
        for index, array in enumerate(arrays):
            if array.ndim != self._dimensions[outputs[index]]:
                arrays[index] = array.ravel()  # a single column
        return arrays

    def _safe(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Return the outputs for rows whose own numbers are complete and not great."""
        if not self._guarded:
            return list(self._run(outputs, feeds, None))
        *arrays, guard = self._run([*outputs, GUARD], feeds, None)
        return arrays if guard < SAFE else self._checked(feeds, outputs)

    def _checked(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Return the outputs after the numbers between the steps are compared with what the next step accepts."""
        found: list[Array] = self._run([*outputs, *self._steps], feeds, None)
        for numbers, limits in zip(found[len(outputs) :], self._steps.values(), strict=True):
            if any(limit.rejects(numbers) for limit in limits):
                raise ValueError("a step of the model does not accept what the step before it makes of such a number")
        return found[: len(outputs)]
