"""The reference profile: a summary of each feature and of the predictions, to detect drift later."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mlmodel_server.observe.bins import MAX_TEXT, MAX_VALUES, edges_of, number_bins
from mlmodel_server.package.table import missing
from mlmodel_server.tensors import Array, Tensor

MAX_FEATURES = 200


def profile(tensors: list[Tensor]) -> dict[str, Any]:
    """Return for each feature: rows and missing values; of numbers mean, std, min, max, the nine inner deciles and the
    rows in each bin, where the distinct values of min, deciles and max are the edges; of text the counts of the most
    frequent values. At most 200 features and 20 values each."""
    features: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.array.ndim == 2:
            for index in range(min(tensor.array.shape[1], MAX_FEATURES)):
                features[f"{tensor.name}[{index}]"] = _numbers(tensor.array[:, index])
        elif len(features) < MAX_FEATURES:
            numeric = tensor.datatype not in ("BYTES", "BOOL")
            features[tensor.name] = _numbers(tensor.array) if numeric else _values(tensor.array)
    return features


def predictions(task: str, predicted: Array) -> dict[str, Any]:
    """Return the same for the predictions [rows]: as numbers for a regressor, else the counts of the most frequent
    classes. Empty if the model returns more than one value for a row."""
    if predicted.ndim != 1:
        return {}
    return _numbers(predicted) if task == "regression" else _values(predicted)


def _numbers(values: Array) -> dict[str, Any]:
    present = values[~missing(values)].astype(np.float64)
    counts: dict[str, Any] = {"rows": len(values), "missing": len(values) - len(present)}
    finite = present[np.isfinite(present)]
    if not len(finite):
        return counts
    deciles = [float(edge) for edge in np.quantile(finite, np.arange(1, 10) / 10)]
    edges = edges_of(finite.min(), deciles, finite.max())
    rows = np.bincount(number_bins(finite[:, None], edges[None]).ravel(), minlength=len(edges))
    return counts | {
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "min": float(finite.min()),
        "max": float(finite.max()),
        "deciles": deciles,
        "counts": rows[1 : np.isfinite(edges).sum()].tolist(),
    }


def _values(values: Array) -> dict[str, Any]:
    present = values[~missing(values)]
    counts = Counter(str(value)[:MAX_TEXT] for value in present)
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_VALUES]
    return {
        "rows": len(values),
        "missing": len(values) - len(present),
        "values": dict(common),
        "others": len(present) - sum(count for _, count in common),
    }
