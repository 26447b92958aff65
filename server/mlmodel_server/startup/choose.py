"""The choice between the model as it was saved and the compiled model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from mlmodel_server.compile import Routed, Verdict, compilable, compile_in_child, how_to_get, left_out, timing
from mlmodel_server.compile import loaded as load_compiled
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import MLModelError
from mlmodel_server.formats import onnx as onnx_format
from mlmodel_server.formats.opened import Artefact, Functions, Opened
from mlmodel_server.loading.load import Loaded
from mlmodel_server.manifest import COMPILED, Manifest, Signature
from mlmodel_server.protocol import v2
from mlmodel_server.tensors import Array

PLATFORM = "onnxruntime_onnx"
TIMING_SECONDS = 0.2
"""Seconds for timing both models at the start."""

START_SECONDS = 30.0
"""Maximum seconds for compiling at the start, for a model without a verdict in its package."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The model to serve. ``example`` is a request that it answers. ``verdict`` is the result of compiling in one
    sentence; "" if it was not tried."""

    model: Model
    platform: str
    example: bytes
    verdict: str = ""


def choose(loaded: Loaded, compile: str = "auto", threads: int = 1) -> Choice:
    """Return the model to serve, self-tested on the golden examples of its package.

    ``compile`` "off" chooses the model as it was saved. Else, if the package has a compiled model that is decisively
    faster, choose that without opening the artefact or importing its library. If it is only slightly faster, time both
    on this CPU. If the package has no verdict, compile now, in another process. Raise :class:`RefusedModel`.
    """
    manifest = loaded.manifest
    tried = manifest.compiled if manifest and compile == "auto" else None
    packaged = _packaged(loaded, threads) if tried else None
    if manifest and tried and packaged and tried.decisive and not manifest.signature.frame:
        verdict = f"compiled to ONNX when it was packaged: {tried.reason}, same predictions for {tried.rows:,} rows"
        return _logged(Choice(_compiled_alone(packaged, manifest.signature), PLATFORM, _golden(manifest), verdict))
    opened = loaded.opened
    original = model_of(opened, manifest)
    if manifest:
        selftest.run(original, manifest.golden, manifest.libraries)
    example = _golden(manifest) if manifest else selftest.example(original, opened.example, opened.saved_with)
    if compile == "off":
        return Choice(original, opened.platform, example)
    described = manifest.signature if manifest else opened.signature
    signature = compilable(described) if described else None
    source = opened.estimator if opened.booster is None else opened.booster
    table = _rows(original, selftest.request_body(manifest.golden) if manifest else example)
    if tried and not packaged:
        reason = "the compiled model of the package does not work here" if tried.file else tried.reason
        return _logged(Choice(original, opened.platform, example, f"not compiled: {reason}"))
    if (
        described is None or signature is None or table is None or source is None
    ):  # only tables of numbers and text are compiled
        return Choice(original, opened.platform, example)
    if tried and packaged:
        functions: Functions | None = packaged
        result = _timed(opened, packaged, table, tried.rows)
    else:
        result, onnx = compile_in_child(source, signature, table, functions=opened.functions, limit=START_SECONDS)
        functions = _loadable(onnx, signature, threads, manifest, opened.estimator) if onnx else None
    if result.chosen == "original" or functions is None:
        return _logged(Choice(original, opened.platform, example, result.sentence()))
    return _logged(
        Choice(model_of(opened, manifest, _routed(functions, opened, described)), PLATFORM, example, result.sentence())
    )


def _compiled_alone(compiled: Functions, signature: Signature) -> Model:
    """Return the compiled model with the outputs that it has: for others the server would have to open the artefact."""
    known = compilable(signature)
    assert known is not None, "it was compiled"
    others = left_out(signature)
    return Model(compiled, known, how_to_get(others) if others else "")


def _routed(compiled: Functions, opened: Opened, signature: Signature) -> Functions:
    """Return the functions of a compiled model; the model as it was saved has the other outputs of ``signature``, and
    answers what the compiled form of a model with a DataFrame does not."""
    known = compilable(signature)
    if opened.estimator is None or known is None or (known == signature and not signature.frame):
        return compiled
    return Routed(compiled, opened.functions, (spec.name for spec in known.outputs), again=signature.frame)


def _logged(choice: Choice) -> Choice:
    logger.info("model chosen", extra={"platform": choice.platform, "verdict": choice.verdict})
    return choice


def _packaged(loaded: Loaded, threads: int) -> Functions | None:
    """Return the compiled model of the package, if it has one that loads and passes its self-test."""
    signature = compilable(loaded.manifest.signature) if loaded.manifest else None
    if loaded.manifest is None or loaded.compiled is None or signature is None:
        return None
    estimator = loaded.opened.estimator if signature.frame else None  # others are not opened for their compiled form
    return _loadable(loaded.compiled, signature, threads, loaded.manifest, estimator)


def _loadable(
    onnx: bytes, signature: Signature, threads: int, manifest: Manifest | None, estimator: Any
) -> Functions | None:
    try:
        checked = onnx_format.check(Artefact(COMPILED, {COMPILED: onnx}))  # the package is not trusted, nor is this
        functions = load_compiled(checked.data, signature, threads, estimator)
    except Exception as error:  # such as another version of ONNX Runtime
        logger.warning("compiled model not loaded", extra={"error": type(error).__name__})
        return None
    if manifest:
        try:
            names = [spec.name for spec in signature.outputs]
            golden = tuple(output for output in manifest.golden.outputs if output["name"] in names)
            selftest.run(Model(functions, signature), msgspec.structs.replace(manifest.golden, outputs=golden))
        except MLModelError as error:
            logger.warning("compiled model failed its self-test", extra={"error": error})
            return None
    return functions


def _golden(manifest: Manifest) -> bytes:
    return selftest.request_body(manifest.golden, rows=1)


def _rows(model: Model, body: bytes) -> Array | None:
    """Return the rows of a request, to compare and to time; None if the model has no table."""
    table = model.table(v2.decode(body).inputs)
    return table if isinstance(table, np.ndarray) else None


def _timed(opened: Opened, compiled: Functions, table: Array, rows: int) -> Verdict:
    original_us, onnx_us = timing.measure(opened.functions, compiled, table, TIMING_SECONDS)
    chosen = timing.faster(original_us, onnx_us)
    reason = "faster on this CPU too" if chosen else "ONNX is not faster on this CPU"
    return Verdict("onnx" if chosen else "original", reason, onnx_us, original_us, rows)
