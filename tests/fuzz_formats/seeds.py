"""Small models of each format, which together use every part that our own checks know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightgbm
import numpy as np
import xgboost
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

FLOAT, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)
_random = np.random.default_rng(5)
ROWS = np.round(_random.random((60, 4)), 3)
ROWS[:, 1] = _random.integers(0, 12, 60)
CLASSES, NUMBER = (ROWS[:, 0] * 3).astype(int), ROWS[:, 0] + ROWS[:, 1] % 3


def all_seeds() -> list[tuple[str, str, bytes]]:
    """Return (format, name, bytes)."""
    return [*_onnx(), *_lightgbm(), *_xgboost()]


def _lightgbm() -> Iterator[tuple[str, str, bytes]]:
    for name, options, target in (
        ("binary", {"objective": "binary"}, CLASSES > 1),
        ("classes", {"objective": "multiclass", "num_class": 3}, CLASSES),
        ("linear", {"linear_tree": True}, NUMBER),
        ("forest", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, NUMBER),
        ("ranks", {"objective": "lambdarank", "monotone_constraints": [1, 0, 0, 0]}, CLASSES),
    ):
        group = [30, 30] if name == "ranks" else None
        data = lightgbm.Dataset(ROWS, target, group=group, categorical_feature=[] if name == "ranks" else [1])
        settings = {"verbose": -1, "num_threads": 1, "num_leaves": 4, "min_data_in_leaf": 3, "min_data_per_group": 1}
        yield "lightgbm", name, lightgbm.train({**settings, **options}, data, 2).model_to_string().encode()


def _xgboost() -> Iterator[tuple[str, str, bytes]]:
    plain: dict[str, Any] = {"nthread": 1, "max_depth": 2, "max_cat_to_onehot": 1, "verbosity": 0}
    for name, options, target in (
        ("number", {}, NUMBER),
        ("classes", {"objective": "multi:softprob", "num_class": 3, "num_parallel_tree": 2}, CLASSES),
        ("dart", {"booster": "dart", "objective": "binary:logistic"}, CLASSES > 1),
        ("linear", {"booster": "gblinear"}, NUMBER),
        ("quantiles", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}, NUMBER),
    ):
        types = None if name == "linear" else ["q", "c", "q", "q"]
        data = xgboost.DMatrix(ROWS, target, feature_types=types, enable_categorical=types is not None)
        booster = xgboost.train(plain | options, data, 2)
        for form in ("ubj", "json"):
            yield "xgboost", f"{name} {form}", bytes(booster.save_raw(form))


def _onnx() -> Iterator[tuple[str, str, bytes]]:
    rows = ROWS.astype(np.float32)
    mixed = ColumnTransformer([("a", SimpleImputer(), [0, 2]), ("b", OneHotEncoder(handle_unknown="ignore"), [1])])
    for name, estimator, target in (
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression()), CLASSES),
        ("forest", RandomForestClassifier(3, max_depth=2, random_state=1), CLASSES),
        ("boosting", GradientBoostingRegressor(n_estimators=3, max_depth=2), NUMBER),
        ("vectors", SVC(), CLASSES),
        ("vector regression", make_pipeline(Normalizer(), SVR()), NUMBER),
        ("bayes", GaussianNB(), CLASSES),
        ("neighbours", KNeighborsClassifier(3), CLASSES),
        ("process", GaussianProcessRegressor(), NUMBER),
        ("columns", make_pipeline(mixed, LogisticRegression()), CLASSES),
    ):
        model = to_onnx(estimator.fit(rows, target), rows[:1], target_opset={"": 17, "ai.onnx.ml": 3})
        yield "onnx", name, model.SerializeToString()
    yield from _graphs()


def _weights(name: str, *shape: int) -> Any:
    return numpy_helper.from_array(_random.random(shape).astype(np.float32), name)


def _ints(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _graph(nodes: list[Any], weights: list[Any], shape: tuple[Any, ...] = (None, 4), kind: int = FLOAT) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _graphs() -> Iterator[tuple[str, str, bytes]]:
    node, image = helper.make_node, (1, 2, 6, 6)
    yield "onnx", "network", _graph(
        [
            node("Conv", ["x", "w", "b"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
            node("Relu", ["a"], ["c"]),
            node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Resize", ["d", "", "scales"], ["e"], mode="linear"),
            node("Pad", ["e", "pads"], ["f"]),
            node("ConvTranspose", ["f", "v"], ["h"], strides=[2, 2]),
            node("GlobalAveragePool", ["h"], ["i"]),
            node("Flatten", ["i"], ["y"]),
        ],
        [
            _weights("w", 3, 2, 3, 3), _weights("b", 3), _weights("v", 3, 2, 2, 2),
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
            _ints("pads", 0, 0, 1, 1, 0, 0, 1, 1),
        ],
        image,
    )  # fmt: skip
    for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        yield (
            "onnx",
            kind,
            _graph(
                [node(kind, ["x", "w", "r", "b"], ["", "y"], hidden_size=3)],
                [_weights("w", 1, 3 * gates, 2), _weights("r", 1, 3 * gates, 3), _weights("b", 1, 6 * gates)],
                (5, 1, 2),
            ),
        )
    yield "onnx", "indices", _graph(
        [
            node("TopK", ["x", "k"], ["a", "at"], axis=1),
            node("GatherElements", ["x", "at"], ["b"], axis=1),
            node("Gather", ["x", "two"], ["c"], axis=1),
            node("ScatterND", ["c", "where", "put"], ["d"]),
            node("Slice", ["x", "from", "to", "axes"], ["e"]),
            node("Concat", ["b", "d", "e"], ["f"], axis=1),
            node("Tile", ["f", "tile"], ["h"]),
            node("Transpose", ["h"], ["i"], perm=[1, 0]),
            node("Einsum", ["i", "x"], ["j"], equation="ij,jk->ik"),
            node("CumSum", ["j", "axis"], ["y"]),
        ],
        [
            _ints("k", 2), _ints("two", 0, 3), _ints("from", 1), _ints("to", 3), _ints("axes", 1), _ints("tile", 1, 2),
            numpy_helper.from_array(np.array([[0, 1], [2, 0]], np.int64), "where"), _weights("put", 2),
            numpy_helper.from_array(np.array(0, np.int64), "axis"),
        ],
        (3, 4),
    )  # fmt: skip
    yield "onnx", "control flow", _graph(_control_flow(), [_ints("rounds", 3), _ints("axes", 1)])
    yield "onnx", "quantized", _graph(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["a"]),
            node("QLinearMatMul", ["a", "s", "z", "w", "s", "z", "s", "z"], ["b"]),
            node("DequantizeLinear", ["b", "s", "z"], ["y"]),
        ],
        [
            numpy_helper.from_array(np.array(0.02, np.float32), "s"),
            numpy_helper.from_array(np.array(9, np.uint8), "z"),
            numpy_helper.from_array(np.arange(12, dtype=np.uint8).reshape(4, 3), "w"),
        ],
    )  # fmt: skip
    yield "onnx", "words", _graph(
        [
            node(
                "TfIdfVectorizer", ["x"], ["a"], mode="TFIDF", min_gram_length=1, max_gram_length=2, max_skip_count=1,
                ngram_counts=[0, 3], ngram_indexes=[0, 1, 2, 3, 4], pool_int64s=[1, 2, 3, 1, 2, 2, 3],
                weights=[1.0, 2.0, 0.5, 1.0, 1.0],
            ),
            node("LabelEncoder", ["x"], ["l"], domain="ai.onnx.ml", keys_int64s=[1, 2], values_floats=[0.5, 1.5]),
            node("Concat", ["a", "l"], ["y"], axis=1),
        ],
        [],
        (2, 4),
        INT64,
    )  # fmt: skip


def _control_flow() -> list[Any]:
    node, info = helper.make_node, helper.make_tensor_value_info
    boolean = int(TensorProto.BOOL)
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["state", "x"], ["next"])],
        "body",
        [info("round", INT64, []), info("go", boolean, []), info("state", FLOAT, None)],
        [info("on", boolean, []), info("next", FLOAT, None)],
    )
    scan = helper.make_graph(
        [node("Add", ["sum", "row"], ["total"]), node("Identity", ["total"], ["out"])],
        "scan",
        [info("sum", FLOAT, [4]), info("row", FLOAT, [4])],
        [info("total", FLOAT, [4]), info("out", FLOAT, [4])],
    )
    yes = helper.make_graph([node("Neg", ["scanned"], ["t"])], "yes", [], [info("t", FLOAT, None)])
    no = helper.make_graph([node("Abs", ["scanned"], ["e"])], "no", [], [info("e", FLOAT, None)])
    return [
        node("Loop", ["rounds", "", "x"], ["looped"], body=body),
        node("ReduceSum", ["looped", "first"], ["start"], keepdims=0),
        node("Constant", [], ["first"], value_ints=[0]),
        node("Scan", ["start", "looped"], ["last", "scanned"], body=scan, num_scan_inputs=1),
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Constant", [], ["half"], value_float=0.5),
        node("Less", ["half", "most"], ["which"]),
        node("If", ["which"], ["y"], then_branch=yes, else_branch=no),
    ]
