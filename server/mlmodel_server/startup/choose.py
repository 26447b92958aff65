"""Which of the two serves: the model as it was saved, or what it was compiled to."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from mlmodel_server.compile import OnnxFunctions, Verdict, compile_in_child, timing
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import MLModelError
from mlmodel_server.formats import onnx as onnx_format
from mlmodel_server.formats.opened import Artefact, Opened
from mlmodel_server.loading.load import Loaded
from mlmodel_server.manifest import COMPILED, Manifest, Signature
from mlmodel_server.protocol import v2
from mlmodel_server.tensors import Array

PLATFORM = "onnxruntime_onnx"
TIMING_SECONDS = 0.2

START_SECONDS = 30.0
"""For compiling what nobody has compiled before; whoever wants to try longer does it when the model is packaged."""

logger = logging.getLogger(__name__)


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
    nobody has tried to compile is compiled now, in another process. Raises :class:`RefusedModel`.
    """
    described = loaded.manifest
    tried = described.compiled if described and compile == "auto" else None
    packaged = _packaged(loaded, threads) if tried else None
    if described and tried and packaged and tried.decisive:
        said = f"compiled to ONNX when it was packaged: {tried.reason}, {tried.rows:,} rows answered alike"
        return _chosen(Choice(Model(packaged, described.signature), PLATFORM, said))
    opened = loaded.opened
    original = model_of(opened, described)
    if described:
        selftest.run(original, described.golden)
    if compile == "off":
        return Choice(original, opened.platform)
    signature = described.signature if described else opened.signature
    source = opened.estimator if opened.booster is None else opened.booster
    table = _rows(original, described)
    if tried and not packaged:
        reason = "its compiled form does not work here" if tried.file else tried.reason
        return _chosen(Choice(original, opened.platform, f"not compiled: {reason}"))
    if signature is None or table is None or source is None:  # only tables of numbers and text are compiled
        return Choice(original, opened.platform)
    if tried and packaged:
        functions: OnnxFunctions | None = packaged
        verdict = _timed(opened, packaged, table, tried.rows)
    else:
        verdict, onnx = compile_in_child(source, signature, table, functions=opened.functions, limit=START_SECONDS)
        functions = _loadable(onnx, signature, threads, described) if onnx else None
    if verdict.chosen == "original" or functions is None:
        return _chosen(Choice(original, opened.platform, verdict.sentence()))
    return _chosen(Choice(model_of(replace(opened, functions=functions), described), PLATFORM, verdict.sentence()))


def _chosen(choice: Choice) -> Choice:
    logger.info("model chosen", extra={"platform": choice.platform, "verdict": choice.verdict})
    return choice


def _packaged(loaded: Loaded, threads: int) -> OnnxFunctions | None:
    """The compiled form that the package brings, if it has one that answers right here."""
    if loaded.manifest is None or loaded.compiled is None:
        return None
    return _loadable(loaded.compiled, loaded.manifest.signature, threads, loaded.manifest)


def _loadable(onnx: bytes, signature: Signature, threads: int, described: Manifest | None) -> OnnxFunctions | None:
    try:
        onnx_format.check(Artefact(COMPILED, {COMPILED: onnx}))  # it came with the package, and is believed as little
        functions = OnnxFunctions(onnx, signature, threads)
    except Exception as error:  # another ONNX Runtime than the one that it was compiled for
        logger.warning("compiled form not loaded", extra={"error": type(error).__name__})
        return None
    if described:
        try:
            selftest.run(Model(functions, signature), described.golden)
        except MLModelError as error:
            logger.warning("compiled form rejected", extra={"error": error})
            return None
    return functions


def _rows(model: Model, described: Manifest | None) -> Array | None:
    """Rows to compare and to time on: the golden examples of a package, else one of zeros."""
    if model.signature.layout == "tensors":
        return None
    body = selftest.request_body(described.golden) if described else selftest.blank_body(model)
    table = model.table(v2.decode(body).inputs)
    return table if isinstance(table, np.ndarray) else None


def _timed(opened: Opened, compiled: OnnxFunctions, table: Array, rows: int) -> Verdict:
    original_us, onnx_us = timing.measure(opened.functions, compiled, table, TIMING_SECONDS)
    chosen = timing.faster(original_us, onnx_us)
    reason = "faster, here too" if chosen else "ONNX is not faster on this CPU"
    return Verdict("onnx" if chosen else "original", reason, onnx_us, original_us, rows)
