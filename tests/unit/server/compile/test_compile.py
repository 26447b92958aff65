"""Verified compile: the same predictions, the same rejections, or the original; and the content of the verdict."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pandas as pd
import pytest
import xgboost
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlmodel_server.compile import (
    OnnxFunctions,
    Verdict,
    child,
    compilable,
    compile_in_child,
    compile_model,
    timing,
    trees,
)
from mlmodel_server.compile import columns as columns_module
from mlmodel_server.compile import graph as graph_module
from mlmodel_server.compile.domain import Check
from mlmodel_server.compile.explore import UNKNOWN_TEXT
from mlmodel_server.compile.functions import MISSING_TEXT
from mlmodel_server.compile.graph import Columns, Graph
from mlmodel_server.compile.verdict import Times
from mlmodel_server.engine.model import Model
from mlmodel_server.formats.onnx import session
from mlmodel_server.formats.prepare import prepare
from mlmodel_server.formats.sklearn import EstimatorFunctions, classes_of
from mlmodel_server.manifest import Signature
from mlmodel_server.package.table import specs_of, tensors_of
from mlmodel_server.tensors import Array, TensorSpec, datatype_of
from tests.unit.server.models import SEED

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings(
        "ignore::sklearn.exceptions.ConvergenceWarning",
        "ignore:'n_jobs' has no effect:FutureWarning",
        "ignore:overflow encountered in cast",
    ),
]

QUICK = 0.01
"""Seconds of timing: these models are 5 to 500 times faster when compiled."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """OpenMP's threads spin while they wait for each other: on a busy machine that takes a hundred times longer."""
    with threadpool_limits(1):
        yield


@cache
def tumours() -> tuple[Array, Array]:
    data = load_breast_cancer()
    return data.data, data.target


@cache
def flowers() -> tuple[Array, Array]:
    data = load_iris()
    return data.data, data.target_names[data.target]


def with_holes() -> tuple[Array, Array]:
    X, y = tumours()
    return np.where(np.random.default_rng(SEED).random(X.shape) < 0.1, np.nan, X), y


@cache
def customers() -> tuple[pd.DataFrame, Array]:
    random = np.random.default_rng(SEED)
    table = pd.DataFrame(
        {
            "city": random.choice(["Bern", "Kyjiw", "Oslo", "Tromsø"], 300),
            "age": random.normal(40, 12, 300).round(1),
            "kind": random.choice(["a", "b"], 300),
            "visits": random.integers(0, 5, 300),
        }
    )
    return table, np.where((table["age"] > 40) ^ (table["city"] == "Oslo"), "yes", "no")


def fitted(estimator: Any, X: Any, y: Any) -> tuple[Any, Signature, Array]:
    """Return a prepared estimator, its signature and the model's table of ``X``."""
    estimator = prepare(estimator.fit(X, y))
    layout, tensors = tensors_of(X)
    signature = Signature(layout, specs_of(tensors), (), classes_of(estimator))
    table = np.asarray(Model(EstimatorFunctions(estimator), signature).table(tensors))
    whole = msgspec.structs.replace(signature, outputs=EstimatorFunctions(estimator).specs(table))
    return estimator, compilable(whole) or whole, table


def compiled(estimator: Any, X: Any, y: Any) -> tuple[Any, OnnxFunctions, Array]:
    """Return the estimator, its compiled form from every other row, and all rows."""
    estimator, signature, table = fitted(estimator, X, y)
    verdict, onnx = compile_model(estimator, signature, table[::2], seconds=QUICK)
    assert onnx is not None, verdict.sentence()
    return estimator, OnnxFunctions(onnx, signature), table


def verdict_of(estimator: Any, X: Any, y: Any) -> Verdict:
    estimator, signature, table = fitted(estimator, X, y)
    return compile_model(estimator, signature, table[::2], seconds=QUICK)[0]


def by_category(encoder: Any) -> Any:
    parts = [("texts", encoder, ["city", "kind"]), ("numbers", StandardScaler(), ["age", "visits"])]
    return make_pipeline(ColumnTransformer(parts), LogisticRegression())


# ---- the same predictions


@pytest.mark.parametrize(
    ("estimator", "data"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), tumours),
        (make_pipeline(StandardScaler(), SelectKBest(k=5), SVC()), tumours),
        (SVC(), flowers),
        (RandomForestClassifier(4, max_depth=5, random_state=SEED), tumours),
        (GradientBoostingRegressor(n_estimators=10, random_state=SEED), tumours),
        (HistGradientBoostingClassifier(max_iter=4), with_holes),
        (make_pipeline(SimpleImputer(add_indicator=True), Ridge()), with_holes),
        (IsolationForest(n_estimators=10, random_state=SEED), flowers),
        (by_category(OneHotEncoder(handle_unknown="ignore")), customers),
        (HistGradientBoostingClassifier(max_iter=4, categorical_features=["city", "kind"]), customers),
    ],
    ids=lambda value: getattr(value, "__name__", type(getattr(value, "steps", [[value]])[-1][-1]).__name__),
)
def test_predictions_are_the_same(estimator: Any, data: Callable[[], tuple[Any, Array]]) -> None:
    estimator, functions, table = compiled(estimator, *data())
    for name in ("predict", "predict_proba"):
        if hasattr(estimator, name):
            expected = np.asarray(getattr(estimator, name)(table))
            (got,) = functions(table, (name,))
            assert got.shape == expected.shape
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
            else:
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("labels", [bool, np.int8, np.int64, np.float64, np.str_])
def test_labels_keep_their_type(labels: Any) -> None:
    X, y = tumours()
    estimator, functions, table = compiled(LogisticRegression(C=1e-6), X, y.astype(labels))
    (got,) = functions(table, ("predict",))
    expected = estimator.predict(table)
    assert datatype_of(got.dtype) == datatype_of(expected.dtype)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_tables_of_other_number_types(dtype: Any) -> None:
    X, y = tumours()
    table = np.clip(X, 0, 255).astype(dtype)
    estimator, signature, _ = fitted(RandomForestClassifier(5, random_state=SEED), table, y)
    signature = msgspec.structs.replace(signature, inputs=(TensorSpec("row", datatype_of(table.dtype), (-1, 30)),))
    verdict, onnx = compile_model(estimator, signature, table[::2], seconds=QUICK)
    assert onnx is not None, verdict.sentence()
    (proba,) = OnnxFunctions(onnx, signature)(table, ("predict_proba",))
    np.testing.assert_array_equal(proba, estimator.predict_proba(table))


def test_trees_are_equal_to_the_last_bit_at_their_thresholds() -> None:
    X, y = tumours()
    for estimator in (
        RandomForestClassifier(8, max_depth=6, random_state=SEED),
        HistGradientBoostingRegressor(max_iter=10),
    ):
        estimator, functions, table = compiled(estimator, X, y)
        name = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
        rows: list[Array] = []
        for column, threshold in _thresholds(estimator)[:300]:
            single = np.float32(threshold)
            for value in (
                threshold,
                np.nextafter(threshold, np.inf),
                np.nextafter(threshold, -np.inf),
                single,
                np.nextafter(single, np.float32(np.inf)),
                np.nextafter(single, np.float32(-np.inf)),
            ):
                row = table[len(rows) % len(table)].copy()
                row[column] = value
                rows.append(row)
        np.testing.assert_array_equal(functions(np.array(rows), (name,))[0], getattr(estimator, name)(np.array(rows)))


def _thresholds(estimator: Any) -> list[tuple[int, float]]:
    if hasattr(estimator, "estimators_"):
        parts = [tree.tree_ for tree in estimator.estimators_]
        return [pair for tree in parts for pair in zip(tree.feature, tree.threshold, strict=True) if pair[0] >= 0]
    nodes = np.concatenate([tree.nodes for stage in estimator._predictors for tree in stage])
    nodes = nodes[nodes["is_leaf"] == 0]
    return list(zip(nodes["feature_idx"], nodes["num_threshold"], strict=True))


# ---- a wrong conversion is detected


def test_a_threshold_rounded_to_float32_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "as_double", lambda threshold: threshold.astype(np.float32).astype(np.float64))
    verdict = verdict_of(RandomForestClassifier(8, random_state=SEED), *tumours())
    assert verdict.chosen == "original"
    assert "at a threshold" in verdict.reason


def test_computing_in_float32_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(graph: Graph, scaler: Any, table: Columns) -> Columns:
        exact = columns_module._standard_scaler(graph, scaler, table)
        single = graph.add("Cast", graph.add("Clip", exact.matrix(graph), -1e30, 1e30), to=1)
        return Columns.of(graph.add("Cast", single, to=graph_module.DOUBLE), exact.width)

    monkeypatch.setitem(graph_module._CONVERTERS, "sklearn.StandardScaler", rounded)
    verdict = verdict_of(make_pipeline(StandardScaler(), SVC()), *tumours())
    assert verdict.reason.startswith("predict differs in ")
    assert "near a boundary" in verdict.reason


def test_missing_numbers_on_the_wrong_side_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = trees._hist_tree
    monkeypatch.setattr(
        trees, "_hist_tree", lambda *given: tree(*given)._replace(missing_left=1 - tree(*given).missing_left)
    )
    # The given rows have no missing number: the rows that reveal the fault are made from them.
    X, y = with_holes()
    estimator, signature, table = fitted(HistGradientBoostingClassifier(max_iter=4), X, y)
    complete = table[~np.isnan(table).any(axis=1)]
    verdict, onnx = compile_model(estimator, signature, complete, seconds=QUICK)
    assert onnx is None
    assert "missing" in verdict.reason


def test_a_category_that_only_the_model_rejects_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Check, "categories", lambda *_: None)
    verdict = verdict_of(by_category(OneHotEncoder()), *customers())
    assert "ONNX accepts a row" in verdict.reason


# ---- the same rejections


def labels_of(functions: OnnxFunctions) -> Callable[[Array], Any]:
    return lambda table: functions(table, ("predict",))


def rejects(functions: Callable[[Array], Any], table: Array) -> bool:
    try:
        functions(table)
    except ValueError:
        return True
    return False


def test_rejects_what_the_model_rejects() -> None:
    X, y = tumours()
    for estimator, values in (
        (
            RandomForestClassifier(3, random_state=SEED),
            {np.nan: False, np.inf: True, 1e39: True, 3e38: False, 1e40: True},
        ),
        (LogisticRegression(C=1e-6), {np.nan: True, -np.inf: True, 1e39: False, -1e39: False}),
        (HistGradientBoostingClassifier(max_iter=3), {np.nan: False, np.inf: False, -np.inf: False, 1e39: False}),
    ):
        estimator, functions, table = compiled(estimator, X, y)
        for value, rejected in values.items():
            rows = table[:3].copy()
            rows[1, 2] = value
            assert rejects(estimator.predict, rows) is rejected
            assert rejects(labels_of(functions), rows) is rejected


def test_rejects_numbers_beyond_those_compared() -> None:
    estimator, functions, table = compiled(LogisticRegression(C=1e-6), *tumours())
    row = table[:1].copy()
    row[0, 0] = 1e40
    assert not rejects(estimator.predict, row)
    assert rejects(labels_of(functions), row)


def test_rejects_unknown_categories_only_where_the_model_does() -> None:
    for encoder, rejected in ((OneHotEncoder(), True), (OneHotEncoder(handle_unknown="ignore"), False)):
        estimator, functions, table = compiled(by_category(encoder), *customers())
        row = table[:1].copy()
        row[0, 0] = "Rome"
        assert rejects(estimator.predict, row) is rejected
        assert rejects(labels_of(functions), row) is rejected


def test_no_text_of_a_client_stands_for_a_missing_one() -> None:
    X, y = customers()
    gaps = X.assign(city=X["city"].mask(np.arange(len(X)) % 7 == 0))
    parts = [("texts", SimpleImputer(strategy="most_frequent"), ["city"]), ("numbers", StandardScaler(), ["age"])]
    parts[0] = ("texts", make_pipeline(parts[0][1], OneHotEncoder(handle_unknown="ignore")), ["city"])
    estimator = make_pipeline(ColumnTransformer(parts), LogisticRegression())
    estimator, functions, table = compiled(estimator, gaps, y)
    for text in (MISSING_TEXT, UNKNOWN_TEXT, "", "Oslo\x00", f"{MISSING_TEXT}sent", None):
        row = table[:1].copy()
        row[0, 0] = text
        expected = estimator.predict_proba(np.where(np.equal(row, None), np.nan, row))  # type: ignore[call-overload]
        np.testing.assert_allclose(functions(row, ("predict_proba",))[0], expected, rtol=1e-9)


@pytest.mark.parametrize("missing", [np.nan, -5])
def test_a_category_that_is_encoded_as_missing_leaves_the_others(missing: float) -> None:
    """The step behind the encoder imputes it, so that the model hardly shows what became of the others."""
    X, _ = customers()
    X = X.assign(city=X["city"].mask(np.arange(len(X)) % 7 == 0))
    encoder = OrdinalEncoder(encoded_missing_value=missing, handle_unknown="use_encoded_value", unknown_value=np.nan)
    table = np.array([["Bern"], ["Oslo"], ["Tromsø"], [np.nan], ["Atlantis"]], object)
    expected = encoder.fit(X[["city"]].to_numpy()).transform(table)
    graph = Graph()
    columns = columns_module._encoder(graph, encoder, Columns("", "text", ((True, 0),), 0))
    nodes, constants = graph.reachable([columns.numbers])
    inputs = [helper.make_tensor_value_info("text", TensorProto.STRING, [None, 1])]
    outputs = [helper.make_tensor_value_info(columns.numbers, TensorProto.DOUBLE, None)]
    onnx = helper.make_model(
        helper.make_graph(nodes, "encoder", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    texts = np.where([[value != value] for value in table[:, 0]], MISSING_TEXT, table)
    (got,) = session(onnx.SerializeToString(), 1).run(None, {"text": texts})
    np.testing.assert_array_equal(got, expected)


def test_a_category_that_could_stand_for_another_is_not_compiled() -> None:
    X, y = customers()
    X = X.assign(city=X["city"].replace("Oslo", MISSING_TEXT))
    assert "U+001F" in verdict_of(by_category(OneHotEncoder()), X, y).reason


def test_rejects_unknown_categories_that_are_numbers() -> None:
    table, y = customers()
    columns = ColumnTransformer([("visits", OneHotEncoder(), [0])], remainder=StandardScaler())
    numbers = table[["visits", "age"]].to_numpy(dtype=float)
    estimator, functions, _ = compiled(make_pipeline(columns, SVC()), numbers, y)
    for visits, rejected in ((4.0, False), (5.0, True), (0.5, True)):
        row = np.array([[visits, 40.0]])
        assert rejects(estimator.predict, row) is rejected
        assert rejects(labels_of(functions), row) is rejected


def test_rejects_a_row_for_which_a_step_makes_nan() -> None:
    X, y = tumours()
    estimator, functions, table = compiled(make_pipeline(FunctionTransformer(np.log1p), Ridge()), X, y)
    row = table[:1].copy()
    row[0, 0] = -2.0
    with np.errstate(invalid="ignore"):
        assert rejects(estimator.predict, row)
    assert rejects(labels_of(functions), row)
    np.testing.assert_allclose(functions(table, ("predict",))[0], estimator.predict(table), rtol=1e-9)


GREAT = (0.0, 1e30, 1e36, 1e37, 1e38, -1e38, 3.4e38, 3.4028234e38, 3.5e38, -3.5e38, 9e38, np.nan, np.inf)


def is_same(estimator: Any, functions: OnnxFunctions, table: Array) -> int:
    """Compare on rows with a great number in one column, or in all; return how many rows the library rejects."""
    rejected = 0
    for value in GREAT:
        for columns in ([0], [1], list(range(table.shape[1]))):
            row = table[:1].copy()
            row[:, columns] = value
            rejected += rejects(estimator.predict, row)
            assert rejects(labels_of(functions), row) is rejects(estimator.predict, row), (value, columns)
            if not rejects(estimator.predict, row):
                np.testing.assert_array_equal(labels_of(functions)(row)[0], estimator.predict(row))
    return rejected


def shrunk() -> tuple[Array, Array]:
    """A table whose numbers a scaler multiplies by a thousand."""
    X, y = flowers()
    return X / 1e3, y


TREES = [
    DecisionTreeClassifier(max_depth=3, random_state=SEED),
    RandomForestClassifier(4, random_state=SEED),
    ExtraTreesClassifier(4, random_state=SEED),
    GradientBoostingClassifier(n_estimators=4, random_state=SEED),
    AdaBoostClassifier(n_estimators=4, random_state=SEED),
    BaggingClassifier(n_estimators=4, max_features=0.5, random_state=SEED),
    IsolationForest(n_estimators=4, random_state=SEED),
    HistGradientBoostingClassifier(max_iter=4),
    VotingClassifier([("a", RandomForestClassifier(4, random_state=SEED)), ("b", DecisionTreeClassifier())]),
    OneVsRestClassifier(DecisionTreeClassifier(random_state=SEED)),
    xgboost.XGBClassifier(n_estimators=4),
    lightgbm.LGBMClassifier(n_estimators=4, verbose=-1),
]


@pytest.mark.parametrize("trees", TREES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("steps", [[StandardScaler()], [StandardScaler(), PCA(3)]], ids=["scaler", "scaler-PCA"])
def test_rejects_what_trees_reject_behind_other_steps(steps: list[Any], trees: Any) -> None:
    X, y = shrunk()
    if isinstance(trees, xgboost.XGBClassifier):
        y = np.unique(y, return_inverse=True)[1]
    estimator, functions, table = compiled(make_pipeline(*steps, trees), X, y)
    is_same(estimator, functions, table)


def test_a_limit_of_trees_behind_a_scaler_is_where_the_library_has_it() -> None:
    """A scaler that divides: numbers that float32 cannot hold, which the trees then get as smaller ones."""
    X, y = flowers()
    estimator, functions, table = compiled(
        make_pipeline(StandardScaler(), RandomForestClassifier(4, random_state=SEED)), X * 3, y
    )
    assert estimator.steps[0][1].scale_[0] > 2
    assert is_same(estimator, functions, table)
    row = table[:1].copy()
    row[0, 0] = 5e38
    assert not rejects(estimator.predict, row)
    assert not rejects(labels_of(functions), row)


@pytest.mark.parametrize(
    "steps",
    [
        [SelectKBest(k=2), PolynomialFeatures(9), LogisticRegression(max_iter=5)],
        [MinMaxScaler(), PolynomialFeatures(8), StandardScaler(), SVC()],
        [FunctionTransformer(np.exp), Ridge()],
        [FunctionTransformer(np.exp), HistGradientBoostingRegressor(max_iter=4)],
        [FunctionTransformer(np.exp), StandardScaler(), SelectKBest(k=2), LogisticRegression()],
        [FunctionTransformer(np.exp), SimpleImputer(), RandomForestClassifier(4, random_state=SEED)],
        [FeatureUnion([("exp", FunctionTransformer(np.exp)), ("all", PCA(2))]), DecisionTreeClassifier()],
        [
            ColumnTransformer([("exp", FunctionTransformer(np.exp), [0])], remainder="passthrough"),
            HistGradientBoostingClassifier(max_iter=4),
        ],
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rejects_what_a_step_rejects_after_an_overflow(steps: list[Any]) -> None:
    X, y = flowers()
    number = isinstance(steps[-1], (Ridge, HistGradientBoostingRegressor))
    X = X / 10
    estimator, functions, table = compiled(make_pipeline(*steps), X, X[:, 0] if number else y)
    for value in (0.1, -3.0, 300.0, 700.0, 800.0, 1e34, 1e37, 1e38, np.nan):
        for columns in ([0], [1], [0, 1, 2, 3]):
            row = table[:1].copy()
            row[:, columns] = value
            assert rejects(labels_of(functions), row) is rejects(estimator.predict, row), (value, columns)


def test_rejects_what_a_step_rejects_after_an_overflow_in_float32() -> None:
    X, y = flowers()
    table = (X / 1e3).astype(np.float32)
    estimator, signature, _ = fitted(make_pipeline(StandardScaler(), LogisticRegression()), table, y)
    signature = msgspec.structs.replace(signature, inputs=(TensorSpec("row", "FP32", (-1, 4)),))
    verdict, onnx = compile_model(estimator, signature, table[::2], seconds=QUICK)
    assert onnx is not None, verdict.sentence()
    functions = OnnxFunctions(onnx, signature)
    rejected = 0
    for value in (1e30, 1e34, 1e36, 1e38, 3.4e38):
        row = table[:1].copy()
        row[0, 0] = value
        rejected += rejects(estimator.predict, row)
        assert rejects(labels_of(functions), row) is rejects(estimator.predict, row), value
    assert 0 < rejected < 5


def test_never_answers_for_the_greatest_numbers() -> None:
    for estimator in (LogisticRegression(), RandomForestClassifier(3, random_state=SEED), GaussianNB()):
        _, functions, table = compiled(make_pipeline(StandardScaler(), estimator), *flowers())
        for value in (1e40, 1e308, -1e308):
            row = table[:1].copy()
            row[0, 2] = value
            assert rejects(labels_of(functions), row)


# ---- the verdict


def test_an_estimator_without_a_converter_is_not_compiled() -> None:
    assert (
        verdict_of(KNeighborsClassifier(), *flowers()).sentence()
        == "not compiled: KNeighborsClassifier is not converted"
    )


class Subclass(LogisticRegression):  # type: ignore[misc]
    """A class of the user, which may predict something else."""


def test_a_class_of_the_user_is_not_compiled() -> None:
    assert verdict_of(Subclass(), *flowers()).reason == "Subclass is not converted"


def test_a_failing_converter_gives_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Columns:
        raise AttributeError("secret")

    monkeypatch.setitem(graph_module._CONVERTERS, "sklearn.LinearClassifierMixin", broken)
    assert verdict_of(LogisticRegression(), *flowers()).reason == "LogisticRegression does not convert (AttributeError)"


def test_a_compiled_model_that_is_not_faster_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "measure", lambda *_: (Times(100, 900), Times(50, 1000)))
    estimator, signature, table = fitted(LogisticRegression(), *flowers())
    verdict, onnx = compile_model(estimator, signature, table)
    assert onnx is None
    assert verdict.sentence() == (
        "not compiled: ONNX is not faster; 1 row: ONNX 50.0 us, original 100.0 us;"
        " 64 rows: ONNX 1,000.0 us, original 900.0 us"
    )


def test_faster_is_never_slower() -> None:
    original = Times(100, 1000)
    assert timing.faster(original, Times(90, 1000))
    assert timing.faster(original, Times(100, 900))
    assert not timing.faster(original, Times(99, 990))  # noise
    assert not timing.faster(original, Times(10, 1001))
    assert not timing.faster(original, Times(101, 10))


def test_the_verdict_has_its_figures_and_survives_encoding() -> None:
    estimator, signature, table = fitted(RandomForestClassifier(4, random_state=SEED), *tumours())
    verdict, _ = compile_model(estimator, signature, table, seconds=QUICK)
    assert verdict.chosen == "onnx"
    assert verdict.rows >= 2000
    assert verdict.deviation == 0.0
    assert verdict.ops[0] == "TreeEnsemble" or "TreeEnsemble" in verdict.ops
    assert verdict.decisive
    assert verdict.sentence().startswith("compiled to ONNX: faster, ")
    assert msgspec.convert(msgspec.to_builtins(verdict), Verdict) == verdict
    close = msgspec.structs.replace(verdict, onnx_us=Times(100, 100), original_us=Times(1000, 250))
    assert not close.decisive


# ---- serving


def test_serves_without_scikit_learn(tmp_path: Path) -> None:
    """In a new process that has only a signature and the bytes."""
    estimator, signature, table = fitted(by_category(OneHotEncoder()), *customers())
    _, onnx = compile_model(estimator, signature, table, seconds=QUICK)
    assert onnx
    (tmp_path / "model").write_bytes(onnx)
    (tmp_path / "signature").write_bytes(msgspec.json.encode(signature))
    (tmp_path / "rows").write_bytes(msgspec.json.encode(table[:9].tolist()))
    code = """
import sys, msgspec, numpy as np
from mlmodel_server.compile import OnnxFunctions, Verdict, compile_in_child
from mlmodel_server.manifest import Signature
read = lambda name: open(f"{sys.argv[1]}/{name}", "rb").read()
functions = OnnxFunctions(read("model"), msgspec.json.decode(read("signature"), type=Signature))
print(*functions(np.array(msgspec.json.decode(read("rows")), dtype=object), ("predict",))[0])
print(*sorted({"sklearn", "scipy", "onnx", "pandas", "joblib"}.intersection(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    labels, imported = done.stdout.split("\n")[:2]
    assert labels.split() == estimator.predict(table[:9]).tolist()
    assert imported == ""


def test_survives_fork_and_threads() -> None:
    estimator, functions, table = compiled(RandomForestClassifier(4, random_state=SEED), *tumours())
    expected = estimator.predict_proba(table)

    def right() -> bool:
        return bool(np.array_equal(functions(table, ("predict_proba",))[0], expected))

    assert right()
    process = os.fork()
    if not process:
        os._exit(0 if right() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: right(), range(100)))


def test_both_outputs_come_from_one_run() -> None:
    estimator, functions, table = compiled(LogisticRegression(C=1e-6), *tumours())
    proba, labels = functions(table, ("predict_proba", "predict"))
    np.testing.assert_array_equal(labels, estimator.predict(table))
    np.testing.assert_allclose(proba, estimator.predict_proba(table), rtol=1e-9)


# ---- in a child process


def test_a_child_compiles(capfd: pytest.CaptureFixture[str]) -> None:
    estimator, signature, table = fitted(HistGradientBoostingClassifier(max_iter=2), *tumours())
    with threadpool_limits(2):
        estimator.predict(table)  # starts OpenMP's threads in this process, as training does
    verdict, onnx = compile_in_child(estimator, signature, table, seconds=QUICK)
    assert onnx is not None, verdict.sentence()
    functions = OnnxFunctions(onnx, signature)
    np.testing.assert_array_equal(functions(table, ("predict",))[0], estimator.predict(table))
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


def test_a_crash_of_the_child_gives_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "compile_model", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    verdict, onnx = compile_in_child(*fitted(LogisticRegression(), *flowers()))
    assert (verdict.reason, onnx) == ("compiling crashed (SIGKILL)", None)
    assert multiprocessing.active_children() == []


def test_a_child_that_takes_too_long_gives_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "compile_model", lambda *_, **__: time.sleep(60))
    verdict, onnx = compile_in_child(*fitted(LogisticRegression(), *flowers()), limit=0.05)
    assert (verdict.reason, onnx) == ("compiling took longer than 0.05 s", None)
    assert multiprocessing.active_children() == []
