"""The numbers that a step accepts from the step before it, found by trial with the library's own check."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlmodel_server.compile.domain import SINGLE, Limit
from mlmodel_server.compile.verdict import Unsupported


class Trial(NamedTuple):
    """How a fitted step treats the numbers of a table."""

    limit: Limit | None
    """None if it accepts every number."""

    single: bool
    """It is a transformer, and its result is float32."""


def trial(estimator: Any, width: int, single: bool) -> Trial:
    """Return how a step treats a table of ``width`` columns, which is float32 if ``single``.

    A step checks all its columns alike, so a single row per kind of number suffices: missing, infinite, and the
    greatest number that float32 holds against the next one that it does not.
    """
    row = _accepted_row(estimator, width, np.float32 if single else np.float64)
    try:
        result = _result(estimator, row)
    except Exception as error:  # an estimator may raise anything
        raise Unsupported(f"what {type(estimator).__name__} accepts from the step before it is not known") from error

    def accepts(value: float) -> bool:
        try:
            _result(estimator, np.full_like(row, value))
        except Exception:  # as above
            return False
        return True

    infinite, missing = accepts(np.inf) and accepts(-np.inf), accepts(np.nan)
    # A table that is float32 already is infinite where float32 cannot hold a number.
    rounds = single or (not accepts(SINGLE) and accepts(np.nextafter(SINGLE, 0.0)))
    is_single = not hasattr(estimator, "predict") and getattr(result, "dtype", None) == np.float32
    return Trial(None if infinite and missing else Limit(missing, infinite, rounds), is_single)


def _accepted_row(estimator: Any, width: int, dtype: Any) -> Any:
    """Return zeros, or the first category of each column if the step is an encoder."""
    row = np.zeros((1, width), dtype=dtype)
    categories = getattr(estimator, "categories_", None)
    if isinstance(categories, list) and len(categories) == width:
        row[0] = [known[0] for known in categories]
    return row


def _result(estimator: Any, row: Any) -> Any:
    return estimator.predict(row) if hasattr(estimator, "predict") else estimator.transform(row)
