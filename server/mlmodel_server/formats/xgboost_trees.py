"""Read an XGBoost model, check it, and write it anew: XGBoost does not check indices and could crash.

XGBoost gets only the fields that were read here, in the encoding of the file. Numbers in JSON keep their digits,
because XGBoost rounds them to float32 and Python to float64.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import ubjson, xgboost_categories
from mlmodel_server.formats.trees import (
    MAX_FEATURES,
    MAX_GROUPS,
    OUT_OF_RANGE,
    Damaged,
    check_branches,
    check_depth,
    check_indices,
    check_lengths,
    integers,
    whole,
)
from mlmodel_server.tensors import Array

MAX_CATEGORIES = 1 << 24
"""XGBoost reads categories from float32, which has no greater whole numbers one by one."""

MAX_CATEGORY_BITS = 1 << 30
"""Maximum bits of all sets of categories in a model: XGBoost allocates them up to the greatest category."""

MAX_THREADS = 1024

_FLOAT, _INT, _LONG, _BYTE = "f4", "i4", "i8", "u1"
_COLUMNS = {
    "base_weights": _FLOAT, "default_left": _BYTE, "left_children": _INT, "loss_changes": _FLOAT, "parents": _INT,
    "right_children": _INT, "split_conditions": _FLOAT, "split_indices": _INT, "split_type": _BYTE,
    "sum_hessian": _FLOAT,
}  # fmt: skip
_CATEGORIES = {
    "categories": _INT, "categories_nodes": _INT, "categories_segments": _LONG, "categories_sizes": _LONG,
}  # fmt: skip
_NUMBER = r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,4})?"
_SCORES = re.compile(rf"{_NUMBER}|\[{_NUMBER}(?:,{_NUMBER})*+\]")
_NAME = re.compile(r"[a-z_]{1,40}(?::[a-z_]{1,40})?")
_NO_PARENT = (2147483647, -1)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Token(str):
    """A number in JSON that is not an integer, as it is spelled."""

    __slots__ = ()


def rewritten(data: bytes) -> bytes:
    """Return the model in ``data``, JSON or UBJSON, as it was read and checked. Raise ValueError if it is not sound."""
    if data.lstrip()[1:2] in (b'"', b"\n", b"\r", b"\t", b" ", b"}"):
        return _json_of(_explained(_json(data))).encode("utf-8")
    return ubjson.encode(_explained(ubjson.decode(data)))


def rewritten_pickled(data: bytes) -> bytes:
    """Return the content of a pickled booster, its model and its configuration, as it was read and checked."""
    content = ubjson.decode(data)
    if not isinstance(content, dict) or set(content) != {"Config", "Model"}:
        raise Damaged("it has a booster of an old version")
    model = _explained(content["Model"])
    try:
        _check_config(content["Config"]["learner"], model["learner"])
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"it lacks a part of a configuration ({type(error).__name__})") from None
    return ubjson.encode({"Config": content["Config"], "Model": model})


def _json(data: bytes) -> Any:
    return json.loads(
        data.decode("utf-8"), object_pairs_hook=_with_unique_keys, parse_float=Token, parse_constant=Token
    )


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise Damaged("it has a key twice")  # XGBoost may use the value that was not checked
    return unique


def _json_of(value: Any) -> str:
    """Return ``value`` in JSON."""
    if isinstance(value, Token):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json_of(name)}:{_json_of(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        if all(type(item) in (Token, int) for item in value):
            return "[" + ",".join(map(str, value)) + "]"
        return "[" + ",".join(map(_json_of, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _explained(model: Any) -> dict[str, Any]:
    try:
        return _checked(model)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Damaged(f"it lacks a part of a model ({type(error).__name__})") from None


def _checked(model: Any) -> dict[str, Any]:
    """Return the parts of a sound ``model`` that XGBoost gets."""
    learner = model["learner"]
    params, width, groups = _checked_params(learner["learner_model_param"])
    attributes = _texts(learner.get("attributes", {}))
    written: dict[str, Any] = {"attributes": attributes}
    for name in ("feature_names", "feature_types"):
        names = learner.get(name, [])
        if len(names) not in (0, width) or not all(map(_is_text, names)):
            raise Damaged("it has a number of feature names or types that is not the number of features")
        written[name] = [str(text) for text in names]
    written["gradient_booster"] = _checked_booster(
        learner["gradient_booster"], width, groups, whole(attributes.get("best_iteration", "0"))
    )
    written["learner_model_param"] = params
    written["objective"] = _checked_objective(learner["objective"], params)
    version = [whole(part, 0, 1000) for part in model["version"]]
    check_lengths(3, version)
    return {"learner": written, "version": version}


def _checked_params(params: Any) -> tuple[dict[str, str], int, int]:
    """Return the parameters of a model, the number of its features, and that of its scores for a row."""
    width = whole(params["num_feature"], 0, MAX_FEATURES)
    classes, targets = (
        whole(params.get("num_class", 0), 0, MAX_GROUPS),
        whole(params.get("num_target", 1), 0, MAX_GROUPS),
    )
    groups = max(1, classes) * max(1, targets)
    if groups > MAX_GROUPS:
        raise Damaged(f"it has more than {MAX_GROUPS:,} classes and targets")
    score = str(params["base_score"])
    if not _SCORES.fullmatch(score) or (score[0] == "[" and score.count(",") + 1 not in (1, groups)):
        raise Damaged("it has a base score that is not a number for each class or target")
    written = {"base_score": score, "num_class": str(classes), "num_feature": str(width), "num_target": str(targets)}
    if "boost_from_average" in params:
        written["boost_from_average"] = str(whole(params["boost_from_average"], 0, 1))
    return written, width, groups


def _checked_objective(objective: Any, params: Mapping[str, str]) -> dict[str, Any]:
    name = objective["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Damaged("it has an objective that XGBoost does not write")
    written: dict[str, Any] = {"name": name}
    for part in objective:
        if part != "name" and not (isinstance(part, str) and part.endswith("_param") and _NAME.fullmatch(part)):
            raise Damaged("it has an objective that XGBoost does not write")
        if part != "name":
            written[part] = _texts(objective[part])
    if name.startswith("multi:"):
        classes = whole(objective["softmax_multiclass_param"]["num_class"], 1, MAX_GROUPS)
        if classes != int(params["num_class"]) or int(params["num_target"]) > 1:
            raise Damaged("it has an objective for another number of classes")
    return written


def _checked_booster(booster: Any, width: int, groups: int, best: int) -> dict[str, Any]:
    if booster["name"] == "gblinear":
        weights = _column(booster["model"], "weights", _FLOAT, (width + 1) * groups)
        rounds = whole(booster["model"].get("boosted_rounds", 0))
        return {"model": {"boosted_rounds": rounds, "weights": weights}, "name": "gblinear"}
    if booster["name"] == "dart":
        inner = booster["gbtree"]
        drop = _column(booster, "weight_drop", _FLOAT, len(inner["model"]["trees"]))
        return {"gbtree": _checked_booster(inner, width, groups, best), "name": "dart", "weight_drop": drop}
    if booster["name"] != "gbtree":
        raise Damaged("it has a booster that XGBoost does not write")
    return {"model": _checked_ensemble(booster["model"], width, groups, best), "name": "gbtree"}


def _checked_ensemble(model: Any, width: int, groups: int, best: int) -> dict[str, Any]:
    trees, params = model["trees"], model["gbtree_model_param"]
    parallel = whole(params.get("num_parallel_tree", 1), 1)
    check_lengths(whole(params["num_trees"]), trees, model["tree_info"])
    check_indices(integers(model["tree_info"]), groups)
    rounds = integers(model.get("iteration_indptr", [0, len(trees)]))
    if len(rounds) and (rounds[0] != 0 or rounds[-1] != len(trees) or (np.diff(rounds) < 0).any()):
        raise Damaged("it has boosting rounds that do not fit its trees")
    if "iteration_indptr" in model and best >= max(1, len(rounds) - 1):
        raise Damaged("it has a best round that does not exist")
    if sum(_category_bits(tree) for tree in trees) > MAX_CATEGORY_BITS:
        raise Damaged("it has too many categories")
    written: dict[str, Any] = {"cats": xgboost_categories.checked(model["cats"], width)} if "cats" in model else {}
    written |= {
        "gbtree_model_param": {"num_parallel_tree": str(parallel), "num_trees": str(len(trees))},
        "tree_info": integers(model["tree_info"]).tolist(),
        "trees": [_checked_tree(tree, index, width) for index, tree in enumerate(trees)],
    }
    if "iteration_indptr" in model:
        written["iteration_indptr"] = rounds.tolist()
    return written


def _checked_tree(tree: Any, index: int, width: int) -> dict[str, Any]:
    params = tree["tree_param"]
    nodes, vector = whole(params["num_nodes"], 1), whole(params.get("size_leaf_vector", 0))
    if vector > 1:
        raise RefusedModel(
            "the model has several outputs in one tree, which is not served: train it with "
            "multi_strategy='one_output_per_tree'"
        )
    if whole(tree["id"]) != index or whole(params["num_feature"]) != width:
        raise Damaged("it has a tree in the wrong place")
    defaults = {"split_type": [0] * nodes} if "split_type" not in tree else {}
    written = {name: _column({**tree, **defaults}, name, kind, nodes) for name, kind in _COLUMNS.items()}
    written |= {name: _column(tree, name, kind) if name in tree else [] for name, kind in _CATEGORIES.items()}
    left, right, kinds = (integers(written[name]) for name in ("left_children", "right_children", "split_type"))
    inner = left != -1
    if ((right != -1) != inner).any():
        raise Damaged(OUT_OF_RANGE)
    check_branches(np.concatenate((left[inner], right[inner])), nodes)
    check_depth(left, right)
    check_indices(integers(written["split_indices"])[inner], width)
    check_indices(kinds, 2)
    check_indices(integers(written["default_left"]), 2)
    parents, numbers = integers(written["parents"]), np.flatnonzero(inner)
    check_indices(parents[1:], nodes)
    if parents[0] not in _NO_PARENT or any((parents[side[inner]] != numbers).any() for side in (left, right)):
        raise Damaged(OUT_OF_RANGE)
    _check_categories(written, np.flatnonzero(inner & (kinds == 1)), nodes)
    texts = {"num_deleted": str(whole(params.get("num_deleted", 0), 0, nodes)), "num_feature": str(width)}
    return {**written, "id": index, "tree_param": {**texts, "num_nodes": str(nodes), "size_leaf_vector": str(vector)}}


def _check_categories(tree: Mapping[str, Any], categorical: Array, nodes: int) -> None:
    starts, sizes = integers(tree["categories_segments"]), integers(tree["categories_sizes"])
    owners, categories = integers(tree["categories_nodes"]), integers(tree["categories"])
    check_lengths(len(starts), sizes, owners)
    check_indices(owners, nodes)
    check_indices(categories, MAX_CATEGORIES)
    if (np.diff(owners) <= 0).any() or not np.isin(categorical, owners).all():
        raise Damaged(OUT_OF_RANGE)
    check_indices(starts, len(categories))
    if len(starts) and (sizes.min() < 1 or (sizes > len(categories) - starts).any()):
        raise Damaged(OUT_OF_RANGE)


def _category_bits(tree: Any) -> int:
    """Return how many bits the sets of categories of a tree take at most."""
    categories = integers(tree.get("categories", []))
    return (int(categories.max()) + 1) * len(tree.get("categories_nodes", [])) if len(categories) else 0


def _column(fields: Any, name: str, kind: str, count: int | None = None) -> Any:
    """Return a column of numbers: in UBJSON an array of ``kind``, or a list; in JSON a list of numbers."""
    values = fields[name]
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype != kind:
            raise Damaged("it has an array of the wrong type")
    elif not isinstance(values, list):
        raise Damaged("it has a number instead of an array")
    elif kind == _FLOAT:
        if not all(type(value) in (Token, float, int) for value in values):
            raise Damaged("it has text instead of a number")
    else:
        values = integers(values).tolist()
    if count is not None:
        check_lengths(count, values)
    return values


def _is_text(value: Any) -> bool:
    return type(value) is str and not _CONTROL.search(value)


def _texts(fields: Any) -> dict[str, str]:
    if not isinstance(fields, dict) or not all(_is_text(text) for pair in fields.items() for text in pair):
        raise Damaged("it has a parameter that is not text")
    return dict(fields)


def _check_config(config: Any, learner: Mapping[str, Any]) -> None:
    """Raise :class:`Damaged` unless the configuration of a pickled booster is that of its model, ``learner``."""
    booster, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
    if config["gradient_booster"]["name"] != booster or config["learner_train_param"]["booster"] != booster:
        raise Damaged("it has the configuration of another booster")
    if config["learner_train_param"]["objective"] != objective:
        raise Damaged("it has the configuration of another objective")
    if _checked_objective(config["objective"], learner["learner_model_param"])["name"] != objective:
        raise Damaged("it has the configuration of another objective")
    for name in ("nthread", "n_jobs"):
        whole(config["generic_param"].get(name, 0), -1, MAX_THREADS)
