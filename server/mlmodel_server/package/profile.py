"""The reference profile: what each feature looked like, in a few numbers, so that drift can be seen later."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ..protocol.tensors import Array, Tensor
from .table import missing

MAX_FEATURES = 200
MAX_VALUES = 20
MAX_TEXT = 64


def profile(tensors: list[Tensor]) -> dict[str, Any]:
    """Per feature: rows, missing, and for numbers mean, std, min, max and the nine inner deciles; for text the counts
    of the commonest values. At most 200 features, 20 values each."""
    features: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.array.ndim == 2:
            for index in range(min(tensor.array.shape[1], MAX_FEATURES)):
                features[f"{tensor.name}[{index}]"] = _feature(tensor.array[:, index])
        elif len(features) < MAX_FEATURES:
            features[tensor.name] = _feature(tensor.array)
    return features


def _feature(values: Array) -> dict[str, Any]:
    present = values[~missing(values)]
    counts: dict[str, Any] = {"rows": len(values), "missing": len(values) - len(present)}
    if values.dtype.kind in "fiu":
        finite = present[np.isfinite(present)].astype(np.float64)
        if len(finite):
            counts |= {
                "mean": float(finite.mean()),
                "std": float(finite.std()),
                "min": float(finite.min()),
                "max": float(finite.max()),
                "deciles": [float(edge) for edge in np.quantile(finite, np.arange(1, 10) / 10)],
            }
        return counts
    found = Counter(str(value)[:MAX_TEXT] for value in present)
    common = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MAX_VALUES]
    return counts | {"values": dict(common), "others": len(present) - sum(count for _, count in common)}
