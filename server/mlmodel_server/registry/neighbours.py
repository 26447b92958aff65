"""Models that search for neighbours: compiled code follows the nodes of a ball tree or k-d tree."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_indices
from mlmodel_server.registry.entry import of, state


def check_tree(tree: Any) -> None:
    """Check the nodes of a ball tree or k-d tree: children are at fixed places, and each node has a range of rows."""
    data, indices, nodes, bounds = (np.asarray(array) for array in tree.__getstate__()[:4])
    check_indices(indices, len(data))
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    starts, ends = nodes["idx_start"], nodes["idx_end"]
    inside = len(indices) == len(data) and starts.min() >= 0 and (starts <= ends).all() and ends.max() <= len(data)
    branches = not len(inner) or 2 * inner.max() + 2 < len(nodes)
    if not inside or not branches or bounds.shape[1:] != (len(nodes), data.shape[1]):
        raise Damaged(OUT_OF_RANGE)


ENTRIES = (
    *of("sklearn.neighbors._ball_tree", "BallTree BallTree32 BallTree64", check_tree, contents=state),
    *of("sklearn.neighbors._classification", "KNeighborsClassifier RadiusNeighborsClassifier"),
    *of("sklearn.neighbors._graph", "KNeighborsTransformer RadiusNeighborsTransformer"),
    *of("sklearn.neighbors._kd_tree", "KDTree KDTree32 KDTree64", check_tree, contents=state),
    *of("sklearn.neighbors._kde", "KernelDensity"),
    *of("sklearn.neighbors._lof", "LocalOutlierFactor"),
    *of("sklearn.neighbors._nca", "NeighborhoodComponentsAnalysis"),
    *of("sklearn.neighbors._nearest_centroid", "NearestCentroid"),
    *of("sklearn.neighbors._regression", "KNeighborsRegressor RadiusNeighborsRegressor"),
    *of("sklearn.neighbors._unsupervised", "NearestNeighbors"),
)
