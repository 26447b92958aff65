"""Models that search for neighbours: compiled code follows the nodes of a ball tree or k-d tree, or labels by row."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_indices
from mlmodel_server.registry import distances, rules
from mlmodel_server.registry.entry import Forbidden, compiled_state, of
from mlmodel_server.registry.rules import dense, whole_number

_TREES = ("BallTree", "BallTree64", "BallTree32", "KDTree", "KDTree64", "KDTree32")
_PARTS = 13
_SPARSE = ("csr_matrix", "csr_array")


def check_state(state: Any) -> None:
    """Check the kinds of the parts of a ball tree or k-d tree."""
    if type(state) is not tuple or len(state) != _PARTS:
        raise Damaged("it has a search tree of an unknown kind")
    data, indices, nodes, bounds, *numbers, _, weights = state
    dense(data, None, None)
    dense(indices, None, kinds="i")
    dense(nodes, None, kinds="V")
    dense(bounds, None, None, None)
    for count in numbers:
        whole_number(count, 0, 1 << 48)
    if weights is not None:
        dense(weights, len(data))


def check_tree(tree: Any) -> None:
    """Check the nodes of a ball tree or k-d tree: children are at fixed places, and each node has a range of rows."""
    data, indices, nodes, bounds, leaf, levels, count = tree.__getstate__()[:7]
    metric, weights = tree.__getstate__()[11:13]
    rows, width = np.shape(data)
    dense(np.asarray(data), None, None)
    check_indices(dense(np.asarray(indices), rows, kinds="i"), rows)
    nodes, planes = np.asarray(nodes), 2 if type(tree).__name__.startswith("KD") else 1
    if nodes.dtype.names != ("idx_start", "idx_end", "is_leaf", "radius") or not rows or not width:
        raise Damaged("it has a search tree of an unknown kind")
    dense(np.asarray(bounds), planes, len(nodes), width)
    starts, ends, leaves = nodes["idx_start"], nodes["idx_end"], nodes["is_leaf"]
    inner = np.flatnonzero(leaves == 0)
    sound = (
        count == len(nodes) == (1 << whole_number(levels, 1, 48)) - 1
        and leaf >= 1
        and starts.min() >= 0
        and (starts <= ends).all()
        and ends.max() <= rows
        and (not len(inner) or 2 * inner.max() + 2 < len(nodes))
    )
    if not sound:
        raise Damaged(OUT_OF_RANGE)
    if weights is not None:
        dense(np.asarray(weights), rows)
    if metric is None:
        raise Damaged("it has a search tree without a distance")
    distances.check_metric_width(metric, width)


def check_search(model: Any) -> None:
    """Check that the tree or table, the distance and the number of rows fit together."""
    known = vars(model)
    if "_fit_X" not in known and "_tree" not in known:
        return
    table, tree, rows = known.get("_fit_X"), known.get("_tree"), whole_number(known["n_samples_fit_"], 1, 1 << 48)
    width = known["n_features_in_"]
    if known.get("_fit_method") not in ("brute", "ball_tree", "kd_tree"):
        raise Damaged("it searches for neighbours by an unknown method")
    metric = known.get("effective_metric_")
    if not isinstance(metric, str):
        raise Forbidden("a distance that is not the name of a distance")
    if type(table).__name__ not in _SPARSE:
        dense(table, None, None, kinds="fiub")
    if table.shape != (rows, width):
        raise Damaged("it has a table of neighbours of the wrong size")
    if known["_fit_method"] != "brute" and (type(tree).__name__ not in _TREES or np.shape(tree.data) != (rows, width)):
        raise Damaged("it has a search tree of the wrong size")
    if metric == "haversine" and width != 2:
        raise Damaged("it has a distance for another number of columns")
    for options in (known.get("effective_metric_params_"), known.get("metric_params")):
        distances.check_options(options, width)


def check_classifier(model: Any) -> None:
    """Check the labels of the rows too: compiled code counts the classes of neighbours."""
    check_search(model)
    known = vars(model)
    if "_y" not in known:
        return
    labels, several = known["_y"], known["outputs_2d_"]
    classes = known["classes_"] if several else [known["classes_"]]
    dense(labels, known["n_samples_fit_"], *((len(classes),) if several else ()), kinds="i")
    for column, names in zip(labels.reshape(len(labels), -1).T, classes, strict=True):
        rules.check_indices(column, len(names))


def check_regressor(model: Any) -> None:
    """Check that each row has a target."""
    check_search(model)
    if "_y" in vars(model):
        dense(model._y, model.n_samples_fit_, *[None] * (np.ndim(model._y) - 1), kinds="fiub")


def check_density(model: Any) -> None:
    """Check that the density has a tree as wide as a row."""
    tree = vars(model).get("tree_")
    if tree is not None and (type(tree).__name__ not in _TREES or np.shape(tree.data)[1] != model.n_features_in_):
        raise Damaged("it has a search tree of the wrong size")
    distances.check_options(vars(model).get("metric_params"), vars(model).get("n_features_in_", 0))


_trees = functools.partial(of, check=check_tree, state=check_state, contents=compiled_state)
ENTRIES = (
    *of(
        "sklearn.neighbors._ball_tree",
        "BallTree BallTree32 BallTree64",
        check_tree,
        state=check_state,
        contents=compiled_state,
    ),
    *of("sklearn.neighbors._classification", "KNeighborsClassifier RadiusNeighborsClassifier", check_classifier),
    *of("sklearn.neighbors._graph", "KNeighborsTransformer RadiusNeighborsTransformer", check_search),
    *of(
        "sklearn.neighbors._kd_tree", "KDTree KDTree32 KDTree64", check_tree, state=check_state, contents=compiled_state
    ),
    *of("sklearn.neighbors._kde", "KernelDensity", check_density),
    *of("sklearn.neighbors._lof", "LocalOutlierFactor", check_search),
    *of("sklearn.neighbors._nca", "NeighborhoodComponentsAnalysis"),
    *of("sklearn.neighbors._nearest_centroid", "NearestCentroid"),
    *of("sklearn.neighbors._regression", "KNeighborsRegressor RadiusNeighborsRegressor", check_regressor),
    *of("sklearn.neighbors._unsupervised", "NearestNeighbors", check_search),
)
