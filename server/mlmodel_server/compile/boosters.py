"""Convert boosters of LightGBM and XGBoost, and their wrappers for scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from mlmodel_server.compile.graph import DOUBLE, Columns, Graph, Prediction, argmax, converts, either, pair, sigmoid
from mlmodel_server.compile.trees import Forest, Tree, for_target
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.formats import lightgbm, xgboost
from mlmodel_server.formats.boosters import Boosted
from mlmodel_server.tensors import Array

FLOAT = int(TensorProto.FLOAT)


def _prediction(graph: Graph, link: str, raw: str, model: Boosted) -> Prediction:
    """Turn the sums over the trees, [rows, targets], into the prediction. ``link`` is one of those below."""
    if model.kind == "margins":
        return argmax(graph, _classes(model), raw, proba=graph.add("Softmax", raw, axis=1))
    values = _values(graph, link, raw)
    if model.kind == "number":
        return Prediction(values)
    if model.kind == "probability":
        return either(graph, _classes(model), graph.add("Greater", values, 0.5), proba=pair(graph, values))
    if model.kind == "probabilities":
        return argmax(graph, _classes(model), values, proba=values)
    raise Unsupported("a classifier of several targets is not converted")


def _classes(model: Boosted) -> Array:
    if model.labels is None:
        raise Unsupported("a classifier without classes is not converted")
    return model.labels


def _values(graph: Graph, link: str, raw: str) -> str:
    if link == "exponential":
        return graph.add("Exp", raw)
    if link in ("sigmoid", "sigmoids"):
        return sigmoid(graph, raw)
    if link == "softmax":
        return graph.add("Softmax", raw, axis=1)
    if link == "greatest":
        return graph.add("Cast", graph.add("ArgMax", raw, axis=1, keepdims=1), to=DOUBLE)
    return raw


@converts("mlmodel_server.Boosted")
def _boosted(graph: Graph, model: Boosted, table: Columns) -> Prediction:
    if model.categories is not None:
        raise Unsupported("a booster on categories of a DataFrame is not converted")
    return _lightgbm(graph, model, table) if model.library == "lightgbm" else _xgboost(graph, model, table)


@converts("lightgbm.LGBMModel")
def _lightgbm_wrapper(graph: Graph, wrapper: Any, table: Columns) -> Prediction:
    return _boosted(graph, lightgbm.boosted(wrapper), table)


@converts("xgboost.XGBModel")
def _xgboost_wrapper(graph: Graph, wrapper: Any, table: Columns) -> Prediction:
    return _boosted(graph, xgboost.boosted(wrapper), table)


_LIGHTGBM = {
    "binary": "sigmoid",
    "multiclass": "softmax",
    "multiclassova": "sigmoids",
    "poisson": "exponential",
    "gamma": "exponential",
    "tweedie": "exponential",
    **dict.fromkeys(("regression", "regression_l1", "huber", "fair", "quantile", "mape"), "number"),
}


def _lightgbm(graph: Graph, boosted: Boosted, table: Columns) -> Prediction:
    model = boosted.booster.dump_model()
    objective, *options = model.get("objective", "").split(" ")
    scale = next((float(option[8:]) for option in options if option.startswith("sigmoid:")), 1.0)
    if objective not in _LIGHTGBM or "sqrt" in options:
        raise Unsupported(f"LightGBM's objective {objective or 'custom'!r} is not converted")
    if boosted.options.get("pred_early_stop"):
        raise Unsupported("LightGBM with pred_early_stop is not converted")
    targets = model["num_tree_per_iteration"]
    forest = Forest(targets)
    for index, tree in enumerate(model["tree_info"]):
        forest.add(_lightgbm_tree(tree["tree_structure"], index % targets, targets))
    raw = forest.sum(graph, table)
    if model["average_output"]:
        raw = graph.add("Div", raw, len(model["tree_info"]) / targets)
    return _prediction(graph, _LIGHTGBM[objective], graph.add("Mul", raw, scale) if scale != 1 else raw, boosted)


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
    "multi:softmax": "greatest",
    "count:poisson": "exponential",
    "reg:gamma": "exponential",
    "reg:tweedie": "exponential",
    **dict.fromkeys(
        ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror", "binary:logitraw"),
        "number",
    ),
}


def _xgboost(graph: Graph, boosted: Boosted, table: Columns) -> Prediction:
    learner = json.loads(boosted.booster.save_raw("json"))["learner"]
    objective, gradient = learner["objective"]["name"], learner["gradient_booster"]
    if objective not in _XGBOOST or gradient["name"] != "gbtree":
        raise Unsupported(f"XGBoost's {gradient['name']} with objective {objective!r} is not converted")
    model, parameters = gradient["model"], learner["learner_model_param"]
    targets = max(1, int(parameters["num_class"]), int(parameters["num_target"]))
    end = boosted.iterations[1]
    count = model["iteration_indptr"][end] if end else len(model["trees"])
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 or any(tree["split_type"]) for tree in model["trees"]):
        raise Unsupported("XGBoost with several targets, or with splits by category, is not converted")
    forest = Forest(targets)
    link = _XGBOOST[objective]
    forest.add_constant(_margin(parameters["base_score"], link, targets))
    for tree, target in zip(model["trees"][:count], model["tree_info"][:count], strict=True):
        forest.add(_xgboost_tree(tree, target, targets))
    if not np.isnan(boosted.missing):
        table = _with_missing(graph, table, boosted.missing)
    return _prediction(graph, link, forest.sum_single(graph, table), boosted)


def _with_missing(graph: Graph, table: Columns, missing: float) -> Columns:
    """Replace ``missing`` by NaN; XGBoost compares both in float32."""
    matrix = table.matrix(graph)
    single = graph.add("Cast", graph.add("Cast", matrix, to=FLOAT), to=DOUBLE)
    absent = graph.add("Equal", single, float(np.float32(missing)))
    return Columns.of(graph.add("Where", absent, np.float64(np.nan), matrix), len(table.places))


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


def splits(model: Boosted) -> Iterator[tuple[int, float]]:
    """Yield feature and threshold of each split by a number."""
    if model.library == "xgboost":
        learner = json.loads(model.booster.save_raw("json"))["learner"]["gradient_booster"]
        for tree in learner.get("gbtree", learner).get("model", {}).get("trees", []):
            parts = zip(tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True)
            yield from ((feature, condition) for left, feature, condition in parts if left >= 0)
        return
    for tree in model.booster.dump_model()["tree_info"]:
        nodes = [tree["tree_structure"]]
        for node in nodes:  # the loop appends to it
            if node.get("decision_type") == "<=":
                yield node["split_feature"], node["threshold"]
            nodes += [node[side] for side in ("left_child", "right_child") if side in node]
