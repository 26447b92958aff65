"""XGBoost: the library gets only the fields that were read and checked, in JSON and in UBJSON."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import xgboost

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import ubjson
from mlmodel_server.formats.xgboost_trees import rewritten, rewritten_pickled
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from tests.unit.server.models import SEED

_random = np.random.default_rng(SEED)
X = _random.random((200, 3))
X[:, 1] = _random.integers(0, 40, 200)
Y = X[:, 0] + X[:, 1] % 3
OPTIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "number": ({}, Y),
    "two classes": ({"objective": "binary:logistic"}, Y > 1),
    "three classes": ({"objective": "multi:softprob", "num_class": 3, "num_parallel_tree": 2}, Y.astype(int)),
    "dart": ({"booster": "dart", "rate_drop": 0.5}, Y),
    "linear": ({"booster": "gblinear"}, Y),
    "quantiles": ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}, Y),
    "ranks": ({"objective": "rank:ndcg"}, Y.astype(int)),
    "poisson": ({"objective": "count:poisson"}, Y),
    "pruned": ({"gamma": 3, "max_depth": 5, "tree_method": "exact"}, Y),
    "two targets": ({}, np.c_[Y, -Y]),
}


def matrix(name: str) -> Any:
    types = None if name in ("linear", "pruned") else ["q", "c", "q"]
    return xgboost.DMatrix(X, OPTIONS[name][1], feature_types=types, enable_categorical=types is not None, nthread=1)


@cache
def booster(name: str = "number") -> Any:
    settings: dict[str, Any] = {"nthread": 1, "max_depth": 3, "max_cat_to_onehot": 1, "verbosity": 0}
    return xgboost.train(settings | OPTIONS[name][0], matrix(name), 3)


def content(name: str = "number") -> Any:
    return json.loads(bytes(booster(name).save_raw("json")))


@pytest.mark.parametrize("form", ["json", "ubj"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_model_predicts_the_same_after_it_was_written_anew(name: str, form: str) -> None:
    data = bytes(booster(name).save_raw(form))
    first, second = (xgboost.Booster(model_file=bytearray(model)) for model in (data, rewritten(data)))
    for options in ({}, {"output_margin": True}, {"pred_contribs": True}):
        expected, found = (model.predict(matrix(name), **options) for model in (first, second))
        np.testing.assert_array_equal(found, expected)
    assert second.attributes() == first.attributes()
    assert bytes(second.save_raw("json")) == bytes(first.save_raw("json"))
    assert rewritten(rewritten(data)) == rewritten(data)


def test_numbers_in_json_keep_their_digits() -> None:
    data = bytes(booster().save_raw("json")).replace(b'"base_weights":[', b'"base_weights":[1.00000005960464477540,', 1)
    value = json.loads(data)
    del value["learner"]["gradient_booster"]["model"]["trees"][0]["base_weights"][1]
    text = json.dumps(value).replace("1.0000000596046448", "1.00000005960464477540").encode()
    assert b"1.00000005960464477540" in rewritten(text)


@pytest.mark.attack(held=True)
def test_unknown_fields_do_not_reach_the_library() -> None:
    value = content()
    value["extra"] = value["learner"]["extra"] = value["learner"]["gradient_booster"]["model"]["trees"][0]["extra"] = 1
    assert b"extra" not in rewritten(json.dumps(value).encode())


def tree(value: Any, index: int = 0) -> Any:
    return value["learner"]["gradient_booster"]["model"]["trees"][index]


def model(value: Any) -> Any:
    return value["learner"]["gradient_booster"]["model"]


def put(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for part in path[:-1]:
            value = value[part]
        value[path[-1]] = to

    return change


_TREE, _PARAM = ("learner", "gradient_booster", "model", "trees", 0), ("learner", "learner_model_param")
_CLASSES = ("learner", "objective", "softmax_multiclass_param", "num_class")
SPELLINGS = [
    "1_0",
    "+3",
    "03",
    " 3",
    "3 ",
    "",
    "٣",
    "3.0",
    "3e0",
    "0x3",
    "-1",
    "99999999999999999999",
    None,
    3.0,
    True,
    [3],
]


@pytest.mark.parametrize("value", SPELLINGS)
@pytest.mark.parametrize("path", [(*_PARAM, "num_feature"), (*_TREE, "tree_param", "num_nodes"), (*_TREE, "id")])
def test_an_integer_has_one_spelling(path: Any, value: Any) -> None:
    refused(put(*path, to=value))


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "parent out of range": ("number", lambda v: tree(v)["parents"].__setitem__(2, 1 << 30)),
    "parent of another node": ("number", lambda v: tree(v)["parents"].__setitem__(1, 3)),
    "no parent": ("number", lambda v: tree(v)["parents"].__setitem__(1, 2147483647)),
    "root with a parent": ("number", lambda v: tree(v)["parents"].__setitem__(0, 1)),
    "leaf with a branch": ("number", lambda v: tree(v)["right_children"].__setitem__(-1, 1)),
    "category set twice": ("number", lambda v: tree(v).update(categories_nodes=tree(v)["categories_nodes"][::-1])),
    "empty category set": ("number", lambda v: tree(v)["categories_sizes"].__setitem__(0, 0)),
    "sizes that overflow": ("number", lambda v: tree(v)["categories_sizes"].__setitem__(0, (1 << 63) - 1)),
    "huge category": ("number", lambda v: tree(v)["categories"].__setitem__(0, 1 << 25)),
    "kind of a split": ("number", lambda v: tree(v)["split_type"].__setitem__(0, 2)),
    "direction": ("number", lambda v: tree(v)["default_left"].__setitem__(0, 2)),
    "same id twice": ("number", lambda v: tree(v, 1).update(id=0)),
    "text in weights": ("number", lambda v: tree(v)["base_weights"].__setitem__(0, "1")),
    "short conditions": ("number", lambda v: tree(v)["split_conditions"].pop()),
    "features of a tree": ("number", lambda v: tree(v)["tree_param"].update(num_feature="9")),
    "no parallel trees": ("number", lambda v: model(v)["gbtree_model_param"].update(num_parallel_tree="0")),
    "unknown booster": ("number", lambda v: v["learner"]["gradient_booster"].update(name="other")),
    "score for other classes": ("number", put(*_PARAM, "base_score", to="[1E0,2E0,3E0]")),
    "score that is not a number": ("number", put(*_PARAM, "base_score", to="1_0")),
    "version": ("number", lambda v: v.update(version=[3, 2])),
    "attribute that is not text": ("number", lambda v: v["learner"]["attributes"].update(best_iteration=1)),
    "name with a line break": ("number", put("learner", "feature_names", to=["a", "b\n", "c"])),
    "name of an objective": ("number", put("learner", "objective", "name", to="reg:../x")),
    "more classes in the objective": ("three classes", put(*_CLASSES, to="30")),
    "no classes in the objective": ("three classes", put(*_CLASSES, to="0")),
    "weights of a linear model": ("linear", lambda v: model(v)["weights"].pop()),
    "dropped trees": ("dart", lambda v: v["learner"]["gradient_booster"]["weight_drop"].pop()),
}


def refused(change: Callable[[Any], Any], name: str = "number") -> None:
    """Require that JSON and UBJSON are refused."""
    value = content(name)
    change(value)
    with pytest.raises(ValueError, match="it "):
        rewritten(json.dumps(value).encode())
    typed = ubjson.decode(bytes(booster(name).save_raw("ubj")))
    untyped = plain(typed)
    change(untyped)
    with pytest.raises(ValueError, match="it "):
        rewritten(ubjson.encode(untyped) if name else b"")


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return list(map(plain, value)) if isinstance(value, list) else value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("change", list(CHANGES))
def test_a_field_that_xgboost_follows_is_checked(change: str) -> None:
    name, function = CHANGES[change]
    refused(function, name)


@pytest.mark.parametrize("kind", ["i1", "i8", "u1", "f4"])
def test_an_array_has_the_type_that_xgboost_writes(kind: str) -> None:
    value = ubjson.decode(bytes(booster().save_raw("ubj")))
    tree(value)["left_children"] = tree(value)["left_children"].astype(kind)
    with pytest.raises(ValueError, match="array of the wrong type"):
        rewritten(ubjson.encode(value))


@pytest.mark.attack(held=True)
def test_few_bytes_of_categories_cannot_take_much_memory() -> None:
    """XGBoost allocates a set up to its greatest category, for each node."""
    nodes, last = 1023, (1 << 24) - 1
    value = content()
    children = [2 * node + 1 if node < nodes // 2 else -1 for node in range(nodes)]
    tree(value).update(
        left_children=children, right_children=[child + 1 if child > 0 else -1 for child in children],
        parents=[2147483647, *((node - 1) // 2 for node in range(1, nodes))], split_indices=[1] * nodes,
        split_type=[1] * nodes, categories=[last] * nodes, categories_nodes=list(range(nodes)),
        categories_segments=list(range(nodes)), categories_sizes=[1] * nodes,
        **{name: [0.0] * nodes for name in ("base_weights", "loss_changes", "split_conditions", "sum_hessian")},
        default_left=[0] * nodes,
    )  # fmt: skip
    tree(value)["tree_param"]["num_nodes"] = str(nodes)
    with pytest.raises(ValueError, match="too many categories"):
        rewritten(json.dumps(value).encode())


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "text",
    [
        lambda text: text.replace('"num_nodes":', '"num_nodes":"1","num_nodes":', 1),
        lambda text: text.replace('"learner":', '"learner":{},"learner":', 1),
        lambda text: text + text,
        lambda text: text.replace('"left_children":[1', '"left_children":[01', 1),
        lambda text: text.replace('"left_children":[1', '"left_children":[1.0', 1),
        lambda text: text.replace('"left_children":[1', '"left_children":[NaN', 1),
        lambda text: text.replace('"left_children":[1', '"left_children":[true', 1),
        lambda text: text[:-1],
        lambda text: text.replace("{", "/**/{", 1),
    ],
)
def test_json_with_two_readings_is_refused(text: Callable[[str], str]) -> None:
    before = bytes(booster().save_raw("json")).decode()
    after = text(before)
    assert after != before
    with pytest.raises((ValueError, RefusedModel)):
        rewritten(after.encode())


def test_ubjson_is_written_as_xgboost_reads_it() -> None:
    value = {
        "none": None, "yes": True, "no": False, "text": "ü", "whole": -5, "float": 0.25, "double": 0.1,
        "list": [1, [2.5, {}], "a"], "array": np.arange(3, dtype="i8"), "small": np.array([1.5, np.nan], "f4"),
        "empty": np.zeros(0, "i4"),
    }  # fmt: skip
    found = ubjson.decode(ubjson.encode(value))
    assert json.dumps(plain(found)) == json.dumps(plain(value))
    assert found["array"].dtype == np.int64
    assert struct.pack(">cf", b"d", 0.25) in ubjson.encode(value)


def pickled(change: Callable[[Any], Any], name: str = "three classes") -> bytes:
    value = plain(ubjson.decode(bytes(booster(name).__getstate__()["handle"])))
    change(value["Config"]["learner"])
    return ubjson.encode(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["objective"]["softmax_multiclass_param"].update(num_class="30"),
        lambda c: c["objective"].update(name="reg:squarederror"),
        lambda c: c["learner_train_param"].update(objective="reg:squarederror"),
        lambda c: c["learner_train_param"].update(booster="gblinear"),
        lambda c: c["gradient_booster"].update(name="dart"),
        lambda c: c["generic_param"].update(nthread="100000"),
        lambda c: c.pop("generic_param"),
    ],
)
def test_the_configuration_of_a_pickled_booster_is_that_of_its_model(change: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="it "):
        rewritten_pickled(pickled(change))


def test_a_pickled_booster_predicts_the_same_after_it_was_written_anew() -> None:
    for name in OPTIONS:
        state = copy.copy(booster(name).__getstate__())
        state["handle"] = bytearray(rewritten_pickled(bytes(state["handle"])))
        again = xgboost.Booster()
        again.__setstate__(state)
        np.testing.assert_array_equal(again.predict(matrix(name)), booster(name).predict(matrix(name)))


def test_a_file_is_refused_in_one_sentence() -> None:
    value = content()
    tree(value)["parents"][1] = 1 << 30
    with pytest.raises(RefusedModel, match=r"^model\.json cannot be read \(it has a tree with an index out of ran"):
        load(Memory({"model.json": json.dumps(value).encode()}, "model.json")).opened  # noqa: B018
