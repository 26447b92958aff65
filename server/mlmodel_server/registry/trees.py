"""Trees and the ensembles of trees: compiled code follows their nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_branches, check_indices, check_lengths
from mlmodel_server.registry.entry import of, opaque


def check_tree(tree: Any) -> None:
    """Check the nodes of one tree."""
    nodes = tree.__getstate__()["nodes"]
    inner = nodes["left_child"] != -1
    check_branches(np.concatenate((nodes["left_child"][inner], nodes["right_child"][inner])), len(nodes))
    check_indices(nodes["feature"][inner], tree.n_features)


def check_width(part: Any) -> None:
    """Check that each tree reads no column that its ensemble lacks: only the ensemble checks the width of a table."""
    width = getattr(part, "n_features_in_", 0)
    trees = [part] if hasattr(part, "tree_") else list(np.ravel(getattr(part, "estimators_", ())))
    subsets = getattr(part, "estimators_features_", [None] * len(trees))
    for tree, columns in zip(trees, subsets, strict=False):
        if hasattr(tree, "tree_") and tree.tree_.n_features != (width if columns is None else len(columns)):
            raise Damaged(OUT_OF_RANGE)
        if columns is not None:
            check_indices(np.asarray(columns), width)


def check_boosting(part: Any) -> None:
    """Check the columns of trees too: each adds to a column of the initial prediction."""
    check_width(part)
    if hasattr(part, "n_trees_per_iteration_"):
        classes = getattr(part.init_, "classes_", None) if part.init_ != "zero" else None
        columns = part.n_trees_per_iteration_ if classes is None else len(classes) if len(classes) > 2 else 1
        check_lengths(min(columns, part.n_trees_per_iteration_), np.asarray(part.estimators_).T)


ENTRIES = (
    *of("sklearn.ensemble._bagging", "BaggingClassifier BaggingRegressor", check_width),
    *of(
        "sklearn.ensemble._forest",
        "ExtraTreesClassifier ExtraTreesRegressor RandomForestClassifier RandomForestRegressor RandomTreesEmbedding",
        check_width,
    ),
    *of("sklearn.ensemble._gb", "GradientBoostingClassifier GradientBoostingRegressor", check_boosting),
    *of("sklearn.ensemble._iforest", "IsolationForest", check_width),
    *of("sklearn.ensemble._stacking", "StackingClassifier StackingRegressor"),
    *of("sklearn.ensemble._voting", "VotingClassifier VotingRegressor"),
    *of("sklearn.ensemble._weight_boosting", "AdaBoostClassifier AdaBoostRegressor", check_width),
    *of(
        "sklearn.tree._classes",
        "DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor",
        check_width,
    ),
    *of("sklearn.tree._tree", "Tree", check_tree, contents=opaque),
)
