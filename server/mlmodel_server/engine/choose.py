"""Which of the two serves: the model as it was saved, or what it was compiled to."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ..errors import MLModelError
from ..formats.opened import Opened
from ..loading.load import Loaded
from ..manifest import Manifest, Signature
from ..protocol import v2
from ..protocol.tensors import Array
from . import selftest
from .compile import OnnxFunctions, Verdict, compile_in_child, timing
from .model import Model, model_of

PLATFORM = "onnxruntime_onnx"
TIMING_SECONDS = 0.2

START_SECONDS = 30.0
"""For compiling what nobody has compiled before; whoever wants to try longer does it when the model is packaged."""

log = logging.getLogger("mlmodel")


@dataclass(frozen=True)
class Choice:
    """What serves. ``verdict`` says in a sentence what came of compiling; "" when nobody asked for it."""

    model: Model
    platform: str
    verdict: str = ""


def choose(loaded: Loaded, compile: str = "auto", threads: int = 1) -> Choice:
    """The model, self-tested on the golden examples of its package.

    ``compile`` "off" takes the model as it was saved. Else a package whose compiled form won by far is served without
    opening the artefact, nor importing its library; one where it won narrowly is timed again on this CPU; and what
    nobody has tried to compile is compiled now, in another process. Raises :class:`~..errors.RefusedModel`.
    """
    described = loaded.manifest
    tried = described.compiled if described else None
    if compile == "auto" and described and tried and loaded.compiled and tried.decisive:
        onnx = _onnx(loaded.compiled, described.signature, threads)
        if onnx and _passes(model := Model(onnx, described.signature), described):
            said = f"compiled to ONNX when it was packaged: {tried.reason}, {tried.rows:,} rows answered alike"
            return _chosen(Choice(model, PLATFORM, said))
    opened = loaded.opened
    original = model_of(opened, described)
    if described:
        selftest.run(original, described.golden)
    if compile == "off":
        return Choice(original, opened.platform)
    if tried and not tried.file:
        return _chosen(Choice(original, opened.platform, f"not compiled: {tried.reason}"))
    signature = described.signature if described else opened.signature
    table = _rows(original, described)
    if signature is None or table is None:  # only tables of numbers and text are compiled
        return Choice(original, opened.platform)
    if tried and loaded.compiled:
        verdict, form = _timed(opened, loaded.compiled, signature, table, tried.rows), loaded.compiled
    elif opened.estimator is not None:
        verdict, compiled = compile_in_child(
            opened.estimator, signature, table, functions=opened.functions, limit=START_SECONDS
        )
        form = compiled or b""
    else:
        return Choice(original, opened.platform)
    if verdict.chosen == "onnx" and (onnx := _onnx(form, signature, threads)):
        model = model_of(replace(opened, functions=onnx), described)
        if described is None or _passes(model, described):
            return _chosen(Choice(model, PLATFORM, verdict.sentence()))
    return _chosen(Choice(original, opened.platform, verdict.sentence()))


def _chosen(choice: Choice) -> Choice:
    log.info("%s", choice.verdict)
    return choice


def _onnx(onnx: bytes, signature: Signature, threads: int) -> OnnxFunctions | None:
    try:
        return OnnxFunctions(onnx, signature, threads)
    except Exception as error:  # another ONNX Runtime than the one that it was compiled for
        log.warning("the compiled form cannot be loaded here (%s): the model itself serves", type(error).__name__)
        return None


def _passes(model: Model, described: Manifest) -> bool:
    try:
        selftest.run(model, described.golden)
    except MLModelError as error:
        log.warning("the compiled form does not serve: %s", error)
        return False
    return True


def _rows(model: Model, described: Manifest | None) -> Array | None:
    """Rows to compare and to time on: the golden examples of a package, else one of zeros."""
    if model.signature.layout == "tensors":
        return None
    body = selftest.request_body(described.golden) if described else selftest.blank_body(model)
    table = model.table(v2.decode(body).inputs)
    return table if isinstance(table, np.ndarray) else None


def _timed(opened: Opened, compiled: bytes, signature: Signature, table: Array, rows: int) -> Verdict:
    original_us, onnx_us = timing.measure(opened.functions, OnnxFunctions(compiled, signature), table, TIMING_SECONDS)
    chosen = timing.faster(original_us, onnx_us)
    reason = "faster, here too" if chosen else "ONNX is not faster on this CPU"
    return Verdict("onnx" if chosen else "original", reason, onnx_us, original_us, rows)
