"""Makes a fitted estimator fit for serving: on plain arrays, without pandas, and on one thread.

The serving image has no pandas (30 MB of memory for nothing but labels), so what was learnt from a DataFrame by name is
turned into positions here. ``package.save`` compares the answers before and after, so a model for which that would
change anything is never saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer


def prepare(model: Any) -> Any:
    """``model`` itself, changed in place; returns its best estimator when it is a fitted search."""
    model = getattr(model, "best_estimator_", model)
    parts = list(_parts(model, set()))
    for part in parts:
        if isinstance(part, ColumnTransformer) and "feature_names_in_" in vars(part):
            _select_by_position(part)
    for part in parts:
        # Names only serve to warn that arrays have none, once per call and part.
        vars(part).pop("feature_names_in_", None)
        vars(part).pop("_sklearn_output_config", None)  # set_output("pandas")
        if vars(part).get("n_jobs", 1) != 1:
            part.n_jobs = 1  # for a few rows, starting threads takes longer than predicting
        if vars(part).get("verbose"):
            part.verbose = 0
    return model


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen:
        return
    if isinstance(value, BaseEstimator):
        seen.add(id(value))
        yield value
        for inner in list(vars(value).values()):
            yield from _parts(inner, seen)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _parts(inner, seen)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _parts(inner, seen)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:  # the trees of a boosting ensemble
        for inner in value.ravel():
            yield from _parts(inner, seen)


def _select_by_position(transformer: Any) -> None:
    position = {name: index for index, name in enumerate(transformer.feature_names_in_)}

    def positions(columns: Any) -> Any:
        if isinstance(columns, str):
            return position[columns]
        if isinstance(columns, slice):
            start, stop = position.get(columns.start, columns.start), columns.stop
            return slice(
                start, position[stop] + 1 if stop in position else stop, columns.step
            )  # labels include the end
        if isinstance(columns, (list, tuple)) or hasattr(columns, "tolist"):
            return [position.get(column, column) if isinstance(column, str) else column for column in list(columns)]
        return columns

    transformer.transformers_ = [(name, part, positions(columns)) for name, part, columns in transformer.transformers_]
