"""LightGBM: one grammar, so that Python and LightGBM read the same numbers; LightGBM gets only what was checked."""

from __future__ import annotations

import json
import pickle
import re
from functools import cache
from typing import Any

import lightgbm
import numpy as np
import pytest

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.lightgbm_trees import rewritten
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from tests.unit.server.models import SEED, joblib_bytes

_random = np.random.default_rng(SEED)
X = _random.random((200, 3))
X[:, 1] = _random.integers(0, 40, 200)
Y = X[:, 0] + X[:, 1] % 3
OPTIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "number": ({}, Y),
    "two classes": ({"objective": "binary", "sigmoid": 1.5}, Y > 1),
    "three classes": ({"objective": "multiclass", "num_class": 3}, Y.astype(int)),
    "one against all": ({"objective": "multiclassova", "num_class": 3}, Y.astype(int)),
    "linear": ({"linear_tree": True}, Y),
    "forest": ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, Y),
    "square root": ({"reg_sqrt": True, "monotone_constraints": [1, 0, 0]}, Y),
    "quantile": ({"objective": "quantile", "alpha": 0.3}, Y),
    "cross entropy": ({"objective": "cross_entropy_lambda"}, Y / 4),
    "constant": ({"min_data_in_leaf": 150}, Y),
    "none": ({"objective": "none", "num_class": 3}, Y),
}


@cache
def text_of(name: str = "number") -> str:
    options, target = OPTIONS[name]
    settings = {
        "verbose": -1,
        "num_threads": 1,
        "num_leaves": 5,
        "min_data_in_leaf": 4,
        "min_data_per_group": 1,
        "cat_smooth": 0,
        "cat_l2": 0,
    }
    columns = [] if name in ("square root", "linear") else [1]  # monotone and linear trees have no categories
    own = {"objective": _squares} if name == "none" else {}
    data = lightgbm.Dataset(X, target, categorical_feature=columns)
    return lightgbm.train(settings | options | own, data, 3).model_to_string()


def _squares(scores: Any, data: Any) -> tuple[Any, Any]:
    return scores - data.get_label()[:, None], np.ones_like(scores)


def sized(text: str) -> str:
    """Return ``text`` with the sizes that its trees have."""
    trees = text[: text.index("end of trees")].split("\nTree=")[1:]
    sizes = [len(f"Tree={tree}\n".encode()) - (index == len(trees) - 1) for index, tree in enumerate(trees)]
    return re.sub(r"\ntree_sizes=.*", f"\ntree_sizes={' '.join(map(str, sizes))}", text, count=1)


def changed(field: str, value: str | None, name: str = "number") -> str:
    """Return a model in which the first line ``field`` has another value; None removes it."""
    text = text_of(name)
    assert f"\n{field}=" in text
    line = "" if value is None else f"\n{field}={value}"
    return sized(re.sub(rf"\n{field}=.*", lambda _: line, text, count=1))


def value_of(field: str, name: str = "number") -> list[str]:
    found = re.search(rf"\n{field}=(.*)", text_of(name))
    assert found
    return found[1].split(" ")


def with_first(field: str, value: str, name: str = "number") -> str:
    return changed(field, " ".join([value, *value_of(field, name)[1:]]), name)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_model_predicts_the_same_after_it_was_written_anew(name: str) -> None:
    text = text_of(name)
    first, second = (lightgbm.Booster(model_str=model) for model in (text, rewritten(text)))
    for options in ({}, {"raw_score": True}, {"pred_contrib": True}, {"pred_leaf": True}):
        if name == "linear" and "pred_contrib" in options:
            continue
        expected, found = (booster.predict(X, num_threads=1, **options) for booster in (first, second))
        np.testing.assert_array_equal(found, expected)
    assert second.feature_name() == first.feature_name()
    assert second.dump_model()["tree_info"] == first.dump_model()["tree_info"]
    assert rewritten(rewritten(text)) == rewritten(text)


@pytest.mark.attack(held=True)
def test_parameters_of_training_do_not_reach_the_library() -> None:
    text = text_of().replace("[num_leaves: 5]", "[machine_list_filename: /etc/hostname]")
    assert "/etc/hostname" in text
    assert "/etc/hostname" not in rewritten(text)
    assert lightgbm.Booster(model_str=rewritten(text)).params == {}


SPELLINGS = [
    "1_0",
    "+1",
    "01",
    " 1",
    "1 ",
    "",
    "٣",
    "1.0",
    "1e0",
    "0x1",
    "1\r",
    "1\t",
    "1\0",
    "-0",
    "99999999999",
    "nan",
    "1,",
]


@pytest.mark.parametrize("value", SPELLINGS)
@pytest.mark.parametrize("field", ["max_feature_idx", "num_class", "num_leaves", "num_cat", "tree_sizes"])
def test_an_integer_has_one_spelling(field: str, value: str) -> None:
    text = (
        changed(field, value) if field != "tree_sizes" else re.sub(r"tree_sizes=\S+", f"tree_sizes={value}", text_of())
    )
    with pytest.raises(ValueError, match="it "):
        rewritten(text)


@pytest.mark.parametrize("value", SPELLINGS)
@pytest.mark.parametrize("field", ["left_child", "split_feature", "decision_type", "cat_boundaries", "cat_threshold"])
def test_an_integer_in_a_list_has_one_spelling(field: str, value: str) -> None:
    with pytest.raises(ValueError, match="it "):
        rewritten(with_first(field, value))


@pytest.mark.parametrize(
    "value", ["1_0", "+1", " 1", "1 ", "", "٣", "0x1p3", "1e", ".5", "5.", "NaN", "Infinity", "1\r", "1e+1_0"]
)
@pytest.mark.parametrize("field", ["leaf_value", "threshold", "split_gain", "shrinkage"])
def test_a_number_has_one_spelling(field: str, value: str) -> None:
    with pytest.raises(ValueError, match="it "):
        rewritten(with_first(field, value))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "text",
    [
        changed("feature_names", "a b "), changed("feature_names", "a  c"), changed("feature_names", "a b a"),
        changed("feature_names", "a b c\r"), changed("feature_names", "a b\tc d"),
        changed("feature_infos", "none none [0:1_0]"),
        changed("objective", "multiclass num_class:4", "three classes"),
        changed("objective", "multiclass", "three classes"),
        changed("objective", "binary num_class:3"), changed("objective", "binary sigmoid:1 sigmoid:2"),
        changed("objective", "multiclass num_class:3 num_class:3", "three classes"), changed("num_class", "2"),
        changed("objective", "unknown"), changed("num_tree_per_iteration", "3"), changed("version", "v9"),
        text_of().replace("\nobjective=", "\nnum_class=1\nobjective="),
        text_of().replace("\nobjective=", "\nx=1\nobjective="),
        text_of().replace("\n", "\r\n"), text_of().replace("tree\n", "tree\n\n", 1),
        text_of().replace("end of trees", "Tree=3"),
        sized(text_of().replace("\nnum_leaves=", "\nnum_leaves=2\nnum_leaves=", 1)), text_of()[:400],
        sized(text_of().replace("\nthreshold=", "\nextra=", 1)), changed("left_child", None), changed("is_linear", "2"),
        with_first("decision_type", "12"), with_first("decision_type", "-1"), with_first("cat_boundaries", "1"),
        changed("num_cat", "0"), changed("cat_threshold", "1"),
    ],
)  # fmt: skip
def test_a_file_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        rewritten(text)
    with pytest.raises(RefusedModel, match=r"model (cannot be read \(.*save it again|was changed by an editor)"):
        load(Memory({"model": text.encode()}, "model")).opened  # noqa: B018


def test_a_category_is_the_number_of_a_set() -> None:
    """LightGBM casts the threshold of such a split to an integer and follows it."""
    text = text_of()
    kinds, thresholds = value_of("decision_type"), value_of("threshold")
    at = next(index for index, kind in enumerate(kinds) if int(kind) & 1)
    for value in ("0.5", "99", "-1", "nan", "1e+300"):
        with pytest.raises(ValueError, match="it "):
            rewritten(changed("threshold", " ".join([*thresholds[:at], value, *thresholds[at + 1 :]])))
    assert rewritten(text)


@pytest.mark.attack(held=True)
def test_a_tree_that_is_too_deep_is_refused() -> None:
    """LightGBM calls itself for each level when it explains a prediction."""
    splits = 1_500

    def many(value: str) -> str:
        return " ".join([value] * splits)

    tree = {
        "num_leaves": str(splits + 1), "num_cat": "0", "split_feature": many("0"), "split_gain": many("1"),
        "threshold": many("0.5"), "decision_type": many("2"),
        "left_child": " ".join(str(node + 1) if node < splits - 1 else str(-splits - 1) for node in range(splits)),
        "right_child": " ".join(str(-node - 1) for node in range(splits)), "leaf_value": many("1") + " 1",
        "leaf_weight": many("1") + " 1", "leaf_count": many("1") + " 1", "internal_value": many("1"),
        "internal_weight": many("1"), "internal_count": many("1"), "is_linear": "0", "shrinkage": "1",
    }  # fmt: skip
    head = text_of("number").split("\n\n")[0]
    block = "Tree=0\n" + "".join(f"{name}={value}\n" for name, value in tree.items()) + "\n\n"
    text = re.sub(r"tree_sizes=.*", f"tree_sizes={len(block)}", head) + f"\n\n{block}end of trees\n"
    with pytest.raises(ValueError, match="deeper than 1,000 levels"):
        rewritten(text)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('[["a", "b"], [1, 2.5, null, true]]', [["a", "b"], [1, 2.5, None, True]]),
        ("null", None),
        ("[[NaN]]", ValueError),
        ('[{"a": 1}]', ValueError),
        ('{"a": []}', ValueError),
        ("[[[1]]]", ValueError),
    ],
)
def test_categories_of_a_table_are_plain_values(line: str, kept: Any) -> None:
    text = re.sub(r"pandas_categorical:.*", f"pandas_categorical:{line}", text_of())
    if kept is ValueError:
        with pytest.raises(ValueError, match=r"it has (categories|a category)"):
            rewritten(text)
    else:
        assert lightgbm.Booster(model_str=rewritten(text)).pandas_categorical == kept


def test_a_pickled_booster_gets_the_checked_text(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(X, Y > 1)
    for data in (pickle.dumps(fitted), joblib_bytes(fitted)):
        model = load(Memory({"model": data}, "model")).opened
        assert "[boosting: gbdt]" in fitted.booster_.model_to_string()
        assert "[boosting: gbdt]" not in model.booster.booster.model_to_string()
        np.testing.assert_array_equal(model.functions(X, ["predict"])[0], fitted.predict(X))
    state = fitted.booster_.__getstate__()
    assert json.dumps(state["pandas_categorical"]) == "null"
