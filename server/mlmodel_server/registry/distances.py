"""Distance metrics: compiled code reads as many weights as a row has columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged
from mlmodel_server.registry.entry import Forbidden, compiled_state, of
from mlmodel_server.registry.rules import dense, number

MODULE = "sklearn.metrics._dist_metrics"


def check_state(state: Any) -> None:
    """Check the power, the vector and the matrix of a metric."""
    if type(state) is not tuple or len(state) != 3 or not isinstance(state[0], (int, float)):
        raise Damaged("it has a distance of an unknown kind")
    dense(state[1], None)
    dense(state[2], None, None)


def check_metric(metric: Any) -> None:
    """Reject a metric that calls a function, and arrays that are not numbers."""
    if type(metric).__name__.startswith("PyFunc"):
        raise Forbidden(f"a distance that calls a function ({MODULE}.{type(metric).__name__})")
    power, vector, matrix = metric.__getstate__()[:3]
    if not isinstance(power, float) or power != power:
        raise Damaged("it has a distance without a power")
    dense(vector, None)
    dense(matrix, None, None)


def check_metric_width(metric: Any, width: int) -> None:
    """Check that the metric has a weight for each of ``width`` columns."""
    check_metric(metric)
    name = type(metric).__name__.removesuffix("64").removesuffix("32")
    _, vector, matrix = metric.__getstate__()[:3]
    sound = (
        type(metric).__module__ == MODULE
        and (name != "SEuclideanDistance" or len(vector) == width)
        and (name != "MinkowskiDistance" or len(vector) in (0, width))
        and (name != "MahalanobisDistance" or matrix.shape == (width, width))
        and (name != "HaversineDistance" or width == 2)
    )
    if not sound:
        raise Damaged("it has a distance for another number of columns")


def check_options(options: Any, width: int) -> None:
    """Check the parameters from which a metric is made at each prediction: weights, variances, or a matrix."""
    if options is None:
        return
    if type(options) is not dict or not options.keys() <= {"p", "w", "V", "VI"}:
        raise Damaged("it has a distance with an unknown parameter: use p, w, V or VI")
    for name, value in options.items():
        if value is None and name == "w":
            continue
        if name == "p":
            if value != float("inf"):
                number(value)
        else:
            dense(np.asarray(value), *((width, width) if name == "VI" else (width,)), kinds="fiu")


ENTRIES = (
    *of(
        MODULE,
        "BrayCurtisDistance32 BrayCurtisDistance64 CanberraDistance32 CanberraDistance64 ChebyshevDistance32 "
        "ChebyshevDistance64 DiceDistance32 DiceDistance64 EuclideanDistance32 EuclideanDistance64 "
        "HammingDistance32 HammingDistance64 HaversineDistance32 HaversineDistance64 JaccardDistance32 "
        "JaccardDistance64 KulsinskiDistance32 KulsinskiDistance64 MahalanobisDistance32 MahalanobisDistance64 "
        "ManhattanDistance32 ManhattanDistance64 MatchingDistance32 MatchingDistance64 MinkowskiDistance32 "
        "MinkowskiDistance64 PyFuncDistance32 PyFuncDistance64 RogersTanimotoDistance32 RogersTanimotoDistance64 "
        "RussellRaoDistance32 RussellRaoDistance64 SEuclideanDistance32 SEuclideanDistance64 "
        "SokalMichenerDistance32 SokalMichenerDistance64 SokalSneathDistance32 SokalSneathDistance64",
        check_metric,
        state=check_state,
        contents=compiled_state,
    ),
)
