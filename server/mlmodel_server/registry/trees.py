"""Trees and the ensembles of trees: compiled code follows their nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_branches, check_indices, check_lengths
from mlmodel_server.registry.entry import of, opaque
from mlmodel_server.registry.rules import dense, only, whole_number

_TREE = "sklearn.tree._tree.Tree"
_CLASSES = tuple(
    f"sklearn.tree._classes.{name}"
    for name in ("DecisionTreeRegressor", "DecisionTreeClassifier", "ExtraTreeRegressor", "ExtraTreeClassifier")
)


def check_state(state: Any) -> None:
    """Check the kinds and lengths of the nodes and values."""
    if type(state) is not dict:
        raise Damaged("it has a tree of an unknown kind")
    nodes = dense(state["nodes"], None, kinds="V")
    dense(state["values"], len(nodes), None, None)
    whole_number(state["node_count"], len(nodes), len(nodes))
    whole_number(state["max_depth"], 0, max(0, len(nodes) - 1))


def check_tree(tree: Any) -> None:
    """Check the nodes of one tree."""
    if not 1 <= tree.node_count == tree.capacity:  # first: to read the nodes would read behind them
        raise Damaged(OUT_OF_RANGE)
    nodes = tree.__getstate__()["nodes"]
    inner = nodes["left_child"] != -1
    check_branches(np.concatenate((nodes["left_child"][inner], nodes["right_child"][inner])), len(nodes))
    check_indices(nodes["feature"][inner], tree.n_features)


def check_estimator(part: Any) -> None:
    """Check that the tree reads no column that the estimator lacks: only the estimator checks the width of a table."""
    if "tree_" in vars(part) and only(part.tree_, _TREE).n_features != part.n_features_in_:
        raise Damaged(OUT_OF_RANGE)


def check_ensemble(part: Any) -> None:
    """Check that each tree reads no column that its ensemble lacks: only the ensemble checks the width of a table."""
    known = vars(part)
    width = known.get("n_features_in_", 0)
    parts = _parts(part)
    subsets = known.get("estimators_features_", [None] * len(parts))
    check_lengths(len(parts), subsets)
    for tree, columns in zip(parts, subsets, strict=True):
        if columns is not None:
            check_indices(dense(np.asarray(columns), None, kinds="i"), width)
        expected = width if columns is None else len(columns)
        if expected > width or ("tree_" in vars(tree) and only(tree.tree_, _TREE).n_features != expected):
            raise Damaged(OUT_OF_RANGE)


def _parts(ensemble: Any) -> list[Any]:
    """Return the estimators of an ensemble. A list of them is not made an array: a pipeline has a length and items, so
    numpy would take its steps."""
    parts = vars(ensemble).get("estimators_", ())
    return parts.ravel().tolist() if isinstance(parts, np.ndarray) else list(parts)


def check_forest(part: Any) -> None:
    """Check that a forest consists of trees: it calls their compiled parts."""
    for tree in _parts(part):
        only(tree, *_CLASSES)
    check_ensemble(part)


def check_boosting(part: Any) -> None:
    """Check that the ensemble is a table of trees: compiled code uses their memory."""
    if "estimators_" not in vars(part):
        return
    dense(part.estimators_, None, whole_number(part.n_trees_per_iteration_, 1, 1 << 20), kinds="O")
    if not part.estimators_.size or any("tree_" not in vars(tree) for tree in part.estimators_.ravel()):
        raise Damaged(OUT_OF_RANGE)
    check_forest(part)


def probe_boosting(part: Any) -> None:
    """Check that the first prediction has a column for each column of trees: compiled code adds to it."""
    if "estimators_" not in vars(part):
        return
    for rows in (1, 3):
        table = np.zeros((rows, part.n_features_in_), np.float32)
        if np.shape(part._raw_predict_init(table)) != (rows, part.n_trees_per_iteration_):
            raise Damaged("it has an array of the wrong length")


ENTRIES = (
    *of("sklearn.ensemble._bagging", "BaggingClassifier BaggingRegressor", check_ensemble),
    *of(
        "sklearn.ensemble._forest",
        "ExtraTreesClassifier ExtraTreesRegressor RandomForestClassifier RandomForestRegressor RandomTreesEmbedding",
        check_forest,
    ),
    *of(
        "sklearn.ensemble._gb",
        "GradientBoostingClassifier GradientBoostingRegressor",
        check_boosting,
        probe=probe_boosting,
    ),
    *of("sklearn.ensemble._iforest", "IsolationForest", check_ensemble),
    *of("sklearn.ensemble._stacking", "StackingClassifier StackingRegressor"),
    *of("sklearn.ensemble._voting", "VotingClassifier VotingRegressor"),
    *of("sklearn.ensemble._weight_boosting", "AdaBoostClassifier AdaBoostRegressor", check_ensemble),
    *of(
        "sklearn.tree._classes",
        "DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor",
        check_estimator,
    ),
    *of("sklearn.tree._tree", "Tree", check_tree, state=check_state, contents=opaque),
)
