"""Convert trees and ensembles of trees, each to one TreeEnsemble operation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, numpy_helper

from mlmodel_server.compile.columns import looked_up
from mlmodel_server.compile.graph import (
    DOUBLE,
    ML,
    Columns,
    Graph,
    Prediction,
    argmax,
    converts,
    either,
    pair,
    side_by_side,
    sigmoid,
)
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.tensors import Array

MAX_NODES = 1_000_000
"""Maximum nodes of one model; ONNX Runtime takes about 320 bytes for each."""

_AT_MOST, _LESS = 0, 1


class Tree(NamedTuple):
    """A binary tree as arrays over its nodes; the root is node 0. A row goes left if ``x[feature] <= threshold``, and
    if the number is missing and ``missing_left`` is true."""

    left: Array
    right: Array
    feature: Array
    threshold: Array
    missing_left: Array
    leaf: Array
    value: Array
    """[nodes, targets]: what a leaf adds to each target."""


class Forest:
    """Trees whose leaves add up, from the first tree to the last: the order decides the last bit."""

    def __init__(self, targets: int) -> None:
        self._targets = targets
        self._nodes: list[
            tuple[Array, ...]
        ] = []  # feature, threshold, missing_left, true, true_leaf, false, false_leaf
        self._leaves: list[tuple[Array, Array]] = []  # target, weight
        self._roots: list[int] = []
        self._node_count = self._leaf_count = 0

    def add_constant(self, values: Array) -> None:
        """Add the same ``values`` ([targets]) to every row, as a tree of one leaf."""
        zero = np.zeros(1, dtype=np.int64)
        self.add(
            Tree(zero, zero, zero, zero.astype(float), zero, np.ones(1, bool), np.asarray(values, float).reshape(1, -1))
        )

    def add(self, tree: Tree) -> None:
        """Add a tree. A leaf of TreeEnsemble has one target, so a tree is added as often as one of its leaves has
        targets; further copies only have the branches that lead to such leaves."""
        filled = tree.value != 0
        rank = np.cumsum(filled, axis=1) * filled
        for layer in range(1, max(1, int(filled[tree.leaf].sum(axis=1).max())) + 1):
            chosen = rank == layer
            target = chosen.argmax(axis=1)
            weight = np.where(chosen, tree.value, 0.0).sum(axis=1)
            self._add_layer(tree, tree.leaf & chosen.any(axis=1), target, weight)

    def _add_layer(self, tree: Tree, live: Array, target: Array, weight: Array) -> None:
        inner = ~tree.leaf & _leads_to(tree, live)
        if not inner[0]:  # a root cannot be a leaf: both its branches lead to the leaf
            branches = np.zeros(1, dtype=np.int64)
            ends = branches[:, None].repeat(2, axis=1)
        else:
            branches = np.flatnonzero(inner)
            ends = np.stack([tree.left[branches], tree.right[branches]], axis=1)
        is_leaf = ~inner[ends]
        position = np.zeros(len(inner), dtype=np.int64)
        position[branches] = self._node_count + np.arange(len(branches))
        to = np.where(is_leaf, self._leaf_count + np.cumsum(is_leaf).reshape(is_leaf.shape) - 1, position[ends])
        self._roots.append(self._node_count)
        self._nodes.append(
            (
                tree.feature[branches],
                tree.threshold[branches],
                tree.missing_left[branches],
                to[:, 0],
                is_leaf[:, 0],
                to[:, 1],
                is_leaf[:, 1],
            )
        )
        leaves = ends[is_leaf]
        self._leaves.append((target[leaves], np.where(live, weight, 0.0)[leaves]))
        self._node_count += len(branches)
        self._leaf_count += len(leaves)
        if self._node_count > MAX_NODES:
            raise Unsupported(f"its trees have more than {MAX_NODES:,} nodes")

    def sum(self, graph: Graph, table: Columns) -> str:
        """Return the sums, [rows, targets], in float64."""
        return self._node(graph, table.matrix(graph), np.dtype(np.float64), _AT_MOST)

    def sum_single(self, graph: Graph, table: Columns) -> str:
        """Return the sums as XGBoost does: in float32, and a row goes left if ``x[feature] < threshold``."""
        single = graph.add("Cast", table.matrix(graph), to=int(TensorProto.FLOAT))
        return graph.add("Cast", self._node(graph, single, np.dtype(np.float32), _LESS), to=DOUBLE)

    def _node(self, graph: Graph, matrix: str, dtype: np.dtype[Any], mode: int) -> str:
        feature, threshold, missing_left, true, true_leaf, false, false_leaf = map(
            np.concatenate, zip(*self._nodes, strict=True)
        )
        target, weight = map(np.concatenate, zip(*self._leaves, strict=True))
        integers = {
            "nodes_featureids": feature,
            "nodes_truenodeids": true,
            "nodes_trueleafs": true_leaf,
            "nodes_falsenodeids": false,
            "nodes_falseleafs": false_leaf,
            "nodes_missing_value_tracks_true": missing_left,
            "leaf_targetids": target,
        }
        return graph.add(
            "TreeEnsemble",
            matrix,
            domain=ML,
            n_targets=self._targets,
            tree_roots=self._roots,
            nodes_modes=numpy_helper.from_array(np.full(self._node_count, mode, dtype=np.uint8)),
            nodes_splits=numpy_helper.from_array(threshold.astype(dtype)),
            leaf_weights=numpy_helper.from_array(weight.astype(dtype)),
            **{name: values.astype(np.int64).tolist() for name, values in integers.items()},
        )


def _leads_to(tree: Tree, live: Array) -> Array:
    """Return which nodes lead to a live leaf."""
    levels = [np.array([0])]
    while len(branches := levels[-1][~tree.leaf[levels[-1]]]):
        levels.append(np.concatenate([tree.left[branches], tree.right[branches]]))
    leads = live.copy()
    for level in reversed(levels):
        branches = level[~tree.leaf[level]]
        leads[branches] = leads[tree.left[branches]] | leads[tree.right[branches]]
    return leads


def as_double(threshold: Array) -> Array:
    """Return thresholds for float64 inputs that decide as scikit-learn does, which rounds inputs to float32 first.

    float32(x) <= threshold is true up to the greatest float64 that rounds to the greatest float32 <= threshold.
    """
    low = threshold.astype(np.float32)
    low = np.where(low > threshold, np.nextafter(low, np.float32(-np.inf)), low)
    high = np.nextafter(low, np.float32(np.inf))
    middle = (low.astype(np.float64) + high.astype(np.float64)) / 2
    return np.where(middle.astype(np.float32) == low, middle, np.nextafter(middle, -np.inf))


def _tree(estimator: Any, value: Array, features: Array | None = None) -> Tree:
    """Return a fitted DecisionTree or ExtraTree with other values; ``features``: the positions of its columns in the
    table."""
    tree = estimator.tree_
    feature = np.maximum(tree.feature, 0)
    return Tree(
        tree.children_left,
        tree.children_right,
        feature if features is None else np.asarray(features)[feature],
        as_double(tree.threshold),
        tree.missing_go_to_left,
        tree.children_left < 0,
        value,
    )


def _single_target(estimator: Any) -> None:
    if estimator.n_outputs_ != 1:
        raise Unsupported(f"{type(estimator).__name__} with several targets is not converted")


@converts("sklearn.DecisionTreeClassifier")
def _tree_classifier(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    _single_target(estimator)
    forest = Forest(len(estimator.classes_))
    forest.add(_tree(estimator, estimator.tree_.value[:, 0, :]))
    proba = forest.sum(graph, table)
    return argmax(graph, estimator.classes_, proba, proba=proba)


@converts("sklearn.DecisionTreeRegressor")
def _tree_regressor(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    forest = Forest(estimator.n_outputs_)
    forest.add(_tree(estimator, estimator.tree_.value[:, :, 0]))
    return Prediction(forest.sum(graph, table))


@converts("sklearn.ForestClassifier")
def _forest_classifier(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    _single_target(estimator)
    forest = Forest(len(estimator.classes_))
    for tree in estimator.estimators_:
        forest.add(_tree(tree, tree.tree_.value[:, 0, :]))
    proba = graph.add("Div", forest.sum(graph, table), float(len(estimator.estimators_)))
    return argmax(graph, estimator.classes_, proba, proba=proba)


@converts("sklearn.ForestRegressor")
def _forest_regressor(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    forest = Forest(estimator.n_outputs_)
    for tree in estimator.estimators_:
        forest.add(_tree(tree, tree.tree_.value[:, :, 0]))
    return Prediction(graph.add("Div", forest.sum(graph, table), float(len(estimator.estimators_))))


@converts("sklearn.BaseGradientBoosting")
def _gradient_boosting(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    stages = estimator.estimators_
    if estimator.init_ != "zero" and not type(estimator.init_).__name__.startswith("Dummy"):
        raise Unsupported(f"{type(estimator).__name__} with another model as init is not converted")
    forest = Forest(stages.shape[1])
    forest.add_constant(estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32)))
    for trees in stages:
        for target, tree in enumerate(trees):
            forest.add(
                _tree(tree, for_target(target, stages.shape[1], estimator.learning_rate * tree.tree_.value[:, 0, 0]))
            )
    raw = forest.sum(graph, table)
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return Prediction(raw)
    if stages.shape[1] > 1:
        return argmax(graph, classes, raw, proba=graph.add("Softmax", raw, axis=1), scores=raw)
    slope = graph.add("Mul", raw, 2.0) if estimator.loss == "exponential" else raw
    proba = pair(graph, sigmoid(graph, slope))
    return either(graph, classes, graph.add("GreaterOrEqual", raw, 0.0), proba=proba, scores=raw)


@converts("sklearn.BaseHistGradientBoosting")
def _hist_gradient_boosting(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    stages = estimator._predictors
    targets = len(stages[0])
    forest = Forest(targets)
    forest.add_constant(estimator._baseline_prediction)
    splits = _CategorySplits(estimator._preprocessor) if estimator._preprocessor else None
    for trees in stages:
        for target, tree in enumerate(trees):
            forest.add(_hist_tree(tree, for_target(target, targets, tree.nodes["value"]), splits))
    raw = forest.sum(graph, splits.columns(graph, table) if splits else table)
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        logarithmic = type(estimator._loss.link).__name__ == "LogLink"
        return Prediction(graph.add("Exp", raw) if logarithmic else raw)
    if targets > 1:
        return argmax(graph, classes, raw, proba=graph.add("Softmax", raw, axis=1), scores=raw)
    proba = pair(graph, sigmoid(graph, raw))
    return either(graph, classes, graph.add("Greater", raw, 0.0), proba=proba, scores=raw)


def _hist_tree(predictor: Any, value: Array, splits: _CategorySplits | None) -> Tree:
    nodes = predictor.nodes
    feature, threshold = nodes["feature_idx"].astype(np.int64), nodes["num_threshold"].copy()  # compared as float64
    if splits:
        splits.replace(predictor, feature, threshold)
    return Tree(
        nodes["left"].astype(np.int64),
        nodes["right"].astype(np.int64),
        feature,
        threshold,
        nodes["missing_go_to_left"],
        nodes["is_leaf"].astype(bool),
        value,
    )


class _CategorySplits:
    """Splits by a set of categories, each as one more column: 0 in a row that goes left, 1 in a row that goes right."""

    def __init__(self, preprocessor: Any) -> None:
        positions = preprocessor._transformer_to_input_indices
        self._categorical, self._numerical = list(positions["encoder"]), list(positions["numerical"])
        self._categories = preprocessor.named_transformers_["encoder"].categories_
        self._splits: dict[tuple[int, bytes], int] = {}

    def replace(self, predictor: Any, feature: Array, threshold: Array) -> None:
        """Change these arrays over the nodes of a tree, so that each split is by a number."""
        nodes = predictor.nodes
        numerical = nodes["is_categorical"] == 0
        feature[numerical] -= len(self._categorical)  # the encoded columns come first
        for node in np.flatnonzero(~numerical):
            index = int(feature[node])
            codes = np.arange(len(self._categories[index]))
            bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
            right = (bits[codes // 32] >> (codes % 32).astype(np.uint32) & 1) == 0
            unknown = not nodes["missing_go_to_left"][node]
            split = (index, np.append(right, unknown).tobytes())
            feature[node] = len(self._numerical) + self._splits.setdefault(split, len(self._splits))
            threshold[node] = 0.5

    def columns(self, graph: Graph, table: Columns) -> Columns:
        """Return the columns of numbers, then one for each split."""
        parts = [table.pick(self._numerical)] if self._numerical else []
        order: list[int] = []
        for index, position in enumerate(self._categorical):
            mine = {column: sides for (of, sides), column in self._splits.items() if of == index}
            if mine:
                right = np.array([np.frombuffer(sides, dtype=bool) for sides in mine.values()]).T.astype(np.float64)
                column, known = table.pick([position]), self._categories[index]
                values = looked_up(graph, column, known, right[:-1], right[-1:])
                parts.append(Columns.of(values, len(mine)))
                order += mine
        first = len(self._numerical)
        numbered = np.argsort([*range(first), *(first + column for column in order)])
        return side_by_side(graph, parts).pick(numbered)


def for_target(target: int, targets: int, values: Array) -> Array:
    """Return ``values`` ([nodes]) of one target as [nodes, targets], with zeros for the others."""
    result = np.zeros((len(values), targets))
    result[:, target] = values
    return result


@converts("sklearn.IsolationForest")
def _isolation_forest(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    from sklearn.ensemble._iforest import _average_path_length

    forest = Forest(1)
    for tree, features, depth, beyond in zip(
        estimator.estimators_,
        estimator.estimators_features_,
        estimator._decision_path_lengths,
        estimator._average_path_length_per_tree,
        strict=True,
    ):
        forest.add(_tree(tree, (depth + beyond - 1.0).reshape(-1, 1), features))
    longest = len(estimator.estimators_) * _average_path_length([estimator._max_samples])
    share = graph.add("Div", graph.add("Neg", forest.sum(graph, table)), longest)
    scores = graph.add("Sub", graph.add("Neg", graph.add("Pow", 2.0, share)), estimator.offset_)
    outlier = graph.add("Less", scores, 0.0)
    return Prediction(graph.add("Where", outlier, np.array(-1), np.array(1)), scores=scores)


@converts("sklearn.AdaBoostClassifier")
def _ada_boost(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    count = len(estimator.classes_)
    forest = Forest(count)
    for tree, weight in zip(estimator.estimators_, estimator.estimator_weights_, strict=False):
        if type(tree).__name__ != "DecisionTreeClassifier":
            raise Unsupported("AdaBoostClassifier on other models than trees is not converted")
        votes = tree.classes_[tree.tree_.value[:, 0, :].argmax(axis=1)][:, None] == estimator.classes_
        forest.add(_tree(tree, np.where(votes, weight, -1 / (count - 1) * weight)))
    scores = graph.add("Div", forest.sum(graph, table), float(estimator.estimator_weights_.sum()))
    if count > 2:
        proba = graph.add("Softmax", graph.add("Div", scores, count - 1.0), axis=1)
        return argmax(graph, estimator.classes_, scores, proba=proba, scores=scores)
    # As scikit-learn does: the first column changes its sign, then both are added.
    score = graph.over_columns("ReduceSum", graph.add("Mul", scores, np.array([[-1.0, 1.0]])))
    halves = graph.add("Div", graph.concat([graph.add("Neg", score), score]), 2.0)
    proba = graph.add("Softmax", halves, axis=1)
    return either(graph, estimator.classes_, graph.add("Greater", score, 0.0), proba=proba, scores=score)
