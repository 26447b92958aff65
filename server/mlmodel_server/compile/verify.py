"""Convert a model, compare and time both, and keep the compiled model if it is faster and the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlmodel_server.compile import timing
from mlmodel_server.compile.explore import accepts, detect_domain
from mlmodel_server.compile.functions import compilable, loaded
from mlmodel_server.compile.parity import Comparison, Different
from mlmodel_server.compile.plain import Plain, plain
from mlmodel_server.compile.rows import ColumnKinds, boundary, probes, unusual, varied
from mlmodel_server.compile.verdict import Unsupported, Verdict
from mlmodel_server.formats.opened import Functions, Table
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array


def compile_model(
    estimator: Any,
    signature: Signature,
    table: Array,
    *,
    seconds: float = 0.3,
    functions: Functions | None = None,
) -> tuple[Verdict, bytes | None]:
    """Return the verdict on a prepared estimator, and the ONNX model if it won; never raise.

    ``table``: golden and reference rows as :meth:`Model.table` makes them, [rows, columns], at least one; the closer
    they are to real requests, the more the comparison is worth. The outputs are ``predict`` and ``predict_proba``, if
    ``signature`` has them. Timing takes ``seconds``. ``functions`` are the
    original's prediction functions, if they are not the estimator's methods.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    # One thread, as in a worker of the server. A forked process has no other threads: OpenMP would wait for ever.
    with warnings.catch_warnings(), np.errstate(all="ignore"), threadpool_limits(1):
        warnings.simplefilter("ignore")
        try:
            return _compiled(estimator, signature, table, seconds, functions or _methods(estimator))
        except (Unsupported, Different) as reason:
            return Verdict("original", str(reason)), None
        except Exception as error:  # an estimator of another version, or a graph that ONNX Runtime rejects
            return Verdict("original", f"{type(estimator).__name__} does not convert ({type(error).__name__})"), None


def _methods(estimator: Any) -> Functions:
    from mlmodel_server.formats.sklearn import EstimatorFunctions  # imports scikit-learn

    return EstimatorFunctions(estimator)


def _on_frames(functions: Functions, made: Plain) -> Functions:
    """Return functions for the table of a model with a DataFrame, for rows in their compiled form."""

    def answers(table: Table, outputs: Sequence[str], /) -> list[Array]:
        assert isinstance(table, np.ndarray)
        return functions(made.back(table), outputs)

    return answers


def _compiled(
    estimator: Any, signature: Signature, table: Array, seconds: float, original: Functions
) -> tuple[Verdict, bytes | None]:
    from mlmodel_server.compile.convert import convert  # takes 40 MB, for protobuf and its schemas

    if signature.layout == "tensors":
        raise Unsupported("its input is not a table")
    known = compilable(signature)
    if known is None:
        raise Unsupported("it returns something other than classes, numbers and probabilities")
    signature = known
    served, made = original, Plain(signature.inputs)
    if signature.frame:  # from here on, rows have their compiled form
        try:
            table, signature = made(table), plain(signature)
        except ValueError as error:
            raise Unsupported(f"its rows have {error}") from error
        original = _on_frames(served, made)
    row = next((row for row in np.array_split(table, len(table)) if accepts(original, row)), None)
    if row is None:
        raise Unsupported("it rejects all example rows")
    domain = detect_domain(original, estimator, signature, row)
    onnx, ops = convert(estimator, signature, domain, made.back(row) if signature.frame else None, known.inputs)
    faster = loaded(onnx, known, estimator=estimator)
    compiled = _on_frames(faster, made) if signature.frame else faster

    kinds = ColumnKinds(signature, domain)
    comparison = Comparison(original, compiled, signature, getattr(estimator, "classes_", None), kinds.open)
    for rows in varied(estimator, table, kinds):
        comparison.compare(rows)
    for rows in probes(estimator, table, kinds):
        comparison.compare(rows)
    comparison.compare(boundary(original, comparison.same(), kinds))
    for rows in unusual(row, kinds):
        comparison.compare(rows)

    usual = made.back(comparison.same()) if signature.frame else comparison.same()
    original_us, onnx_us = timing.measure(served, faster, usual, seconds)
    chosen = timing.faster(original_us, onnx_us)
    verdict = Verdict(
        "onnx" if chosen else "original",
        "faster" if chosen else "ONNX is not faster",
        onnx_us,
        original_us,
        comparison.rows,
        float(f"{comparison.deviation:.1e}"),
        ops,
    )
    return verdict, onnx if chosen else None
