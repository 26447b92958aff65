"""Convert boosters of LightGBM and XGBoost, and their wrappers for scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mlmodel_server.compile.graph import Columns, Graph, Prediction, argmax, converts, either, pair, sigmoid
from mlmodel_server.compile.trees import Forest, Tree, for_target
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.tensors import Array


def _prediction(graph: Graph, kind: str, raw: str, targets: int, labels: Array | None) -> Prediction:
    """Turn the sums over the trees, [rows, targets], into the prediction. ``kind`` is one of those below."""
    if kind == "number":
        return Prediction(raw)
    if kind == "exponential":
        return Prediction(graph.add("Exp", raw))
    classes = np.arange(max(2, targets)) if labels is None else np.asarray(labels)
    if kind == "sigmoid":
        proba = sigmoid(graph, raw)
        return either(graph, classes, graph.add("Greater", proba, 0.5), proba=pair(graph, proba))
    proba = sigmoid(graph, raw) if kind == "sigmoids" else graph.add("Softmax", raw, axis=1)
    return argmax(graph, classes, proba, proba=proba)


_LIGHTGBM = {
    "binary": "sigmoid",
    "multiclass": "softmax",
    "multiclassova": "sigmoids",
    "poisson": "exponential",
    "gamma": "exponential",
    "tweedie": "exponential",
    **dict.fromkeys(("regression", "regression_l1", "huber", "fair", "quantile", "mape"), "number"),
}


@converts("lightgbm.LGBMModel")
def _lightgbm_wrapper(graph: Graph, wrapper: Any, table: Columns) -> Prediction:
    return _lightgbm(graph, wrapper.booster_, table, getattr(wrapper, "classes_", None))


@converts("lightgbm.Booster")
def _lightgbm(graph: Graph, booster: Any, table: Columns, labels: Array | None = None) -> Prediction:
    model = booster.dump_model()
    objective, *options = model.get("objective", "").split(" ")
    scale = next((float(option[8:]) for option in options if option.startswith("sigmoid:")), 1.0)
    if objective not in _LIGHTGBM or "sqrt" in options:
        raise Unsupported(f"LightGBM's objective {objective or 'custom'!r} is not converted")
    targets = model["num_tree_per_iteration"]
    forest = Forest(targets)
    for index, tree in enumerate(model["tree_info"]):
        forest.add(_lightgbm_tree(tree["tree_structure"], index % targets, targets))
    raw = forest.sum(graph, table)
    if model["average_output"]:
        raw = graph.add("Div", raw, len(model["tree_info"]) / targets)
    return _prediction(
        graph, _LIGHTGBM[objective], graph.add("Mul", raw, scale) if scale != 1 else raw, targets, labels
    )


def _lightgbm_tree(root: dict[str, Any], target: int, targets: int) -> Tree:
    nodes, children = [root], []
    for node in nodes:  # the loop appends to it
        if "split_feature" not in node:
            children.append((0, 0))
            continue
        if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
            raise Unsupported("LightGBM with splits by category, or with zero as missing, is not converted")
        children.append((len(nodes), len(nodes) + 1))
        nodes += [node["left_child"], node["right_child"]]
    if any("leaf_coeff" in node for node in nodes):
        raise Unsupported("LightGBM with linear trees is not converted")
    threshold = np.array([node.get("threshold", 0.0) for node in nodes], dtype=np.float64)
    threshold[threshold >= 1e300] = np.inf  # JSON has no infinity
    takes_missing = np.array([node.get("missing_type") == "NaN" for node in nodes])
    default_left = np.array([node.get("default_left", False) for node in nodes])
    left, right = np.array(children).T
    return Tree(
        left,
        right,
        np.array([node.get("split_feature", 0) for node in nodes]),
        threshold,
        np.where(takes_missing, default_left, threshold >= 0),  # missing is zero if no training row had it
        np.array(["split_feature" not in node for node in nodes]),
        for_target(target, targets, np.array([node.get("leaf_value", 0.0) for node in nodes])),
    )


_XGBOOST = {
    "binary:logistic": "sigmoid",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
    "count:poisson": "exponential",
    "reg:gamma": "exponential",
    "reg:tweedie": "exponential",
    **dict.fromkeys(("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "binary:logitraw"), "number"),
}


@converts("xgboost.XGBModel")
def _xgboost_wrapper(graph: Graph, wrapper: Any, table: Columns) -> Prediction:
    return _xgboost(graph, wrapper.get_booster(), table, getattr(wrapper, "classes_", None))


@converts("xgboost.Booster")
def _xgboost(graph: Graph, booster: Any, table: Columns, labels: Array | None = None) -> Prediction:
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective, boosted = learner["objective"]["name"], learner["gradient_booster"]
    if objective not in _XGBOOST or boosted["name"] != "gbtree":
        raise Unsupported(f"XGBoost's {boosted['name']} with objective {objective!r} is not converted")
    model, parameters = boosted["model"], learner["learner_model_param"]
    targets = max(1, int(parameters["num_class"]))
    best = learner["attributes"].get("best_iteration")
    count = model["iteration_indptr"][int(best) + 1] if best else len(model["trees"])
    if int(parameters["num_target"]) > 1 or any(any(tree["split_type"]) for tree in model["trees"]):
        raise Unsupported("XGBoost with several targets, or with splits by category, is not converted")
    forest = Forest(targets)
    forest.add_constant(_margin(parameters["base_score"], _XGBOOST[objective], targets))
    for tree, target in zip(model["trees"][:count], model["tree_info"][:count], strict=True):
        forest.add(_xgboost_tree(tree, target, targets))
    return _prediction(graph, _XGBOOST[objective], forest.sum_single(graph, table), targets, labels)


def _margin(base_score: str, kind: str, targets: int) -> Array:
    """Return the constant of each sum from XGBoost's text: ``5E-1`` or ``[1E0,2E0]``."""
    base: Array = np.broadcast_to(np.array(json.loads(base_score), dtype=np.float32), targets)
    if kind == "sigmoid":
        return np.asarray(-np.log(np.float32(1) / base - np.float32(1)))
    return np.asarray(np.log(base)) if kind == "exponential" else base


def _xgboost_tree(tree: dict[str, Any], target: int, targets: int) -> Tree:
    left = np.array(tree["left_children"])
    condition = np.array(tree["split_conditions"], dtype=np.float32)  # in a leaf, its value
    return Tree(
        left,
        np.array(tree["right_children"]),
        np.array(tree["split_indices"]),
        condition,
        np.array(tree["default_left"]),
        left < 0,
        for_target(target, targets, np.where(left < 0, condition, 0)),
    )
