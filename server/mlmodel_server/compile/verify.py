"""Convert, compare, time, and keep what is faster and the same."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from mlmodel_server.compile import timing
from mlmodel_server.compile.explore import answers, explore
from mlmodel_server.compile.functions import OnnxFunctions
from mlmodel_server.compile.parity import Comparison, Different
from mlmodel_server.compile.rows import Freedom, boundary, odd, revealing
from mlmodel_server.compile.verdict import Unsupported, Verdict
from mlmodel_server.formats.opened import Functions
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
    """The verdict on a prepared estimator, and the ONNX model when that won; never raises.

    ``table``: golden and reference rows as :meth:`Model.table` makes them, [rows, columns], at least one; the
    more they are like real requests, the more the comparison is worth. Timing takes ``seconds``. ``functions`` are what
    serves the model now, where that is something else than the estimator's own methods.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    # One thread, as in a worker of the server. In a forked process there are no more: OpenMP would wait for ever.
    with warnings.catch_warnings(), np.errstate(all="ignore"), threadpool_limits(1):
        warnings.simplefilter("ignore")
        try:
            return _compiled(estimator, signature, table, seconds, functions or _methods(estimator))
        except (Unsupported, Different) as reason:
            return Verdict("original", str(reason)), None
        except Exception as error:  # a converter met an estimator of another version, or ONNX Runtime refuses the graph
            return Verdict("original", f"{type(estimator).__name__} does not convert ({type(error).__name__})"), None


def _methods(estimator: Any) -> Functions:
    from mlmodel_server.formats.sklearn import EstimatorFunctions  # imports scikit-learn

    return EstimatorFunctions(estimator)


def _compiled(
    estimator: Any, signature: Signature, table: Array, seconds: float, original: Functions
) -> tuple[Verdict, bytes | None]:
    from mlmodel_server.compile.convert import convert  # 40 MB of protobuf and its schemas

    if signature.layout == "tensors":
        raise Unsupported("its input is no table")
    row = next((row for row in np.array_split(table, len(table)) if answers(original, row)), None)
    if row is None:
        raise Unsupported("it answers none of the example rows")
    domain = explore(original, estimator, signature, row)
    onnx, ops = convert(estimator, signature, domain)
    compiled = OnnxFunctions(onnx, signature)

    freedom = Freedom(signature, domain)
    comparison = Comparison(original, compiled, signature, getattr(estimator, "classes_", None), freedom.open)
    for rows in revealing(estimator, table, freedom):
        comparison.same(rows)
    comparison.same(boundary(original, comparison.answered(), freedom))
    for rows in odd(row, freedom):
        comparison.same(rows)

    original_us, onnx_us = timing.measure(original, compiled, comparison.answered(), seconds)
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
