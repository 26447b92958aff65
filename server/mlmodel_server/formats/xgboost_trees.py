"""Check an XGBoost model before XGBoost parses it: XGBoost does not check indices and could crash."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import ubjson, xgboost_categories
from mlmodel_server.formats.trees import (
    OUT_OF_RANGE,
    Damaged,
    check_branches,
    check_indices,
    check_lengths,
    integers,
    whole,
)

MAX_FEATURES = 10_000_000
MAX_GROUPS = 100_000
_COLUMNS = ("left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left")


def check_file(data: bytes) -> None:
    """Raise ValueError unless ``data`` is a sound model, in JSON or UBJSON."""
    text = data.lstrip()[1:2] in (b'"', b"\n", b"\r", b"\t", b" ", b"}")
    _check(_json(data) if text else ubjson.decode(data))


def check_pickled(data: bytes) -> None:
    """Raise ValueError unless ``data`` is that of a pickled booster: a sound model, and its configuration."""
    content = ubjson.decode(data)
    if not isinstance(content, dict) or set(content) != {"Config", "Model"}:
        raise Damaged("it has a booster of an old version")
    _check(content["Model"])


def _json(data: bytes) -> Any:
    return json.loads(data, object_pairs_hook=_with_unique_keys)


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise Damaged("it has a key twice")  # XGBoost may use the value that was not checked
    return unique


def _check(model: Any) -> None:
    try:
        learner = model["learner"]
        params = learner["learner_model_param"]
        width = whole(params["num_feature"], 0, MAX_FEATURES)
        groups = max(1, whole(params.get("num_class", 0), 0, MAX_GROUPS))
        groups *= max(1, whole(params.get("num_target", 1), 0, MAX_GROUPS))
        if groups > MAX_GROUPS:
            raise Damaged(f"it has more than {MAX_GROUPS:,} classes and targets")
        for names in (learner.get("feature_names", []), learner.get("feature_types", [])):
            if len(names) not in (0, width):
                raise Damaged("it has a number of feature names or types that is not the number of features")
        best = learner.get("attributes", {}).get("best_iteration", 0)
        booster = learner["gradient_booster"]
        if booster["name"] == "gblinear":
            check_lengths((width + 1) * groups, booster["model"]["weights"])
            return
        if booster["name"] == "dart":
            check_lengths(len(booster["gbtree"]["model"]["trees"]), booster["weight_drop"])
            booster = booster["gbtree"]
        _check_ensemble(booster["model"], width, groups, whole(best))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Damaged(f"it lacks a part of a model ({type(error).__name__})") from None


def _check_ensemble(model: Any, width: int, groups: int, best: int) -> None:
    trees = model["trees"]
    check_lengths(whole(model["gbtree_model_param"]["num_trees"]), trees, model["tree_info"])
    check_indices(integers(model["tree_info"]), groups)
    rounds = integers(model.get("iteration_indptr", [0, len(trees)]))
    if len(rounds) and (rounds[0] != 0 or rounds[-1] != len(trees) or (np.diff(rounds) < 0).any()):
        raise Damaged("it has boosting rounds that do not fit its trees")
    if "iteration_indptr" in model and best >= max(1, len(rounds) - 1):
        raise Damaged("it has a best round that does not exist")
    xgboost_categories.check(model.get("cats", {}), width)
    for tree in trees:
        _check_tree(tree, width)


def _check_tree(tree: Any, width: int) -> None:
    nodes = whole(tree["tree_param"]["num_nodes"], 1)
    if whole(tree["tree_param"].get("size_leaf_vector", 0)) > 1:
        raise RefusedModel(
            "the model has several outputs in one tree, which is not served: train it with "
            "multi_strategy='one_output_per_tree'"
        )
    check_lengths(nodes, *(tree[name] for name in _COLUMNS), tree["base_weights"], tree.get("split_type", range(nodes)))
    left, right = integers(tree["left_children"]), integers(tree["right_children"])
    inner = left != -1
    check_branches(np.concatenate((left[inner], right[inner])), nodes)
    check_indices(integers(tree["split_indices"])[inner], width)
    starts, sizes = integers(tree.get("categories_segments", [])), integers(tree.get("categories_sizes", []))
    check_lengths(len(starts), sizes, tree.get("categories_nodes", []))
    check_indices(integers(tree.get("categories_nodes", [])), nodes)
    categories = integers(tree.get("categories", []))
    check_indices(categories, MAX_FEATURES)
    if len(starts) and (starts.min() < 0 or sizes.min() < 0 or (starts + sizes).max() > len(categories)):
        raise Damaged(OUT_OF_RANGE)
    categorical = np.flatnonzero(inner & (np.asarray(tree.get("split_type", np.zeros(nodes))) != 0))
    if not np.isin(categorical, integers(tree.get("categories_nodes", []))).all():
        raise Damaged(OUT_OF_RANGE)
