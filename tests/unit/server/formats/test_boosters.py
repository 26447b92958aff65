"""Boosters and their wrappers answer what their library answers, row by row, with any parameters.

The expected values are computed here by the library on the same rows, never by the project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlmodel_server import package
from mlmodel_server.compile import OnnxFunctions, compilable, compile_model
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import RefusedModel, RequestError, UsageError
from mlmodel_server.formats.opened import Opened
from mlmodel_server.formats.xgboost_trees import rewritten
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.protocol import rows as plain_rows
from mlmodel_server.tensors import Array
from tests.unit.server.models import SEED, joblib_bytes

pytestmark = pytest.mark.models

RANDOM = np.random.default_rng(SEED)
SENTINEL = -999.0
X = RANDOM.normal(size=(300, 4)).astype(np.float32)
X[RANDOM.random(X.shape) < 0.15] = SENTINEL
NOISE = RANDOM.normal(size=300)
TWO = (np.where(X[:, 0] == SENTINEL, 1.0, X[:, 0]) + NOISE * 0.3 > 0.3).astype(int)
THREE = TWO + (X[:, 1] > 0.5)
NUMBER = np.where(X[:, 0] == SENTINEL, 10.0, X[:, 0])
SEVERAL = np.c_[NUMBER, X[:, 1]]
PAIRS = np.c_[TWO, (X[:, 1] > 0).astype(int)]

PROBES = np.concatenate(
    [
        X[:80],
        np.where(RANDOM.random((40, 4)) < 0.3, np.nan, X[80:120]),
        np.full((1, 4), np.nan),
        np.full((1, 4), SENTINEL),
        np.zeros((1, 4)),
        -np.zeros((1, 4)),
        np.full((1, 4), 3.0e38),
        np.full((1, 4), 1e-45),
    ]
).astype(np.float32)

XGB: dict[str, Any] = {"n_estimators": 6, "max_depth": 3, "n_jobs": 1, "verbosity": 0}
LGB: dict[str, Any] = {"n_estimators": 6, "verbose": -1, "n_jobs": 1}


def opened(data: bytes) -> Opened:
    return load(Memory({"model": data}, "model")).opened


def served(opened: Opened, rows: Any) -> dict[str, Array]:
    """Return all outputs but contributions, through the code that serves requests."""
    assert opened.signature is not None
    model = Model(opened.functions, opened.signature)
    names = [spec.name for spec in opened.signature.outputs]
    return dict(zip(names, model.predict(rows, names), strict=True))


def equal(found: Array, expected: Any) -> None:
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    if expected.dtype.kind == "f":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_array_equal(found, expected)


def stopped(wrapper: Any) -> Any:
    wrapper.set_params(n_estimators=60, early_stopping_rounds=2)
    return wrapper.fit(X[:150], TWO[:150], eval_set=[(X[150:], RANDOM.permutation(TWO[150:]))], verbose=False)


def stopped_lightgbm(wrapper: Any) -> Any:
    wrapper.set_params(n_estimators=60)
    labels = RANDOM.permutation(TWO[150:])
    return wrapper.fit(
        X[:150], TWO[:150], eval_set=[(X[150:], labels)], callbacks=[lightgbm.early_stopping(2, verbose=False)]
    )


def ranker(wrapper: Any) -> Any:
    queries = np.repeat(np.arange(10), 30)
    return (
        wrapper.fit(X, TWO, qid=queries)
        if isinstance(wrapper, xgboost.XGBModel)
        else wrapper.fit(X, TWO, group=[30] * 10)
    )


WRAPPERS: dict[str, Callable[[], Any]] = {
    "xgb missing": lambda: xgboost.XGBClassifier(missing=SENTINEL, **XGB).fit(X, TWO),
    "xgb missing 0": lambda: xgboost.XGBRegressor(missing=0, **XGB).fit(np.where(X < 0, 0, X), NUMBER),
    "xgb missing inf": lambda: xgboost.XGBRegressor(missing=np.inf, **XGB).fit(X, NUMBER),
    "xgb missing fraction": lambda: xgboost.XGBRegressor(missing=0.1, **XGB).fit(np.where(X < 0, 0.1, X), NUMBER),
    "xgb missing three": lambda: xgboost.XGBClassifier(missing=SENTINEL, **XGB).fit(X, THREE),
    "xgb linear missing": lambda: xgboost.XGBRegressor(booster="gblinear", missing=SENTINEL, **XGB).fit(X, NUMBER),
    "xgb dart missing": lambda: xgboost.XGBRegressor(booster="dart", missing=SENTINEL, **XGB).fit(X, NUMBER),
    "xgb stopped": lambda: stopped(xgboost.XGBClassifier(**XGB)),
    "xgb stopped parallel": lambda: stopped(xgboost.XGBClassifier(num_parallel_tree=3, subsample=0.5, **XGB)),
    "xgb stopped regressor": lambda: stopped(xgboost.XGBRegressor(**XGB)),
    "xgb base score": lambda: xgboost.XGBClassifier(base_score=0.9, **XGB).fit(X, TWO),
    "xgb forest": lambda: xgboost.XGBRFClassifier(**XGB).fit(X, TWO),
    "xgb forest number": lambda: xgboost.XGBRFRegressor(**XGB).fit(X, NUMBER),
    "xgb softmax": lambda: xgboost.XGBClassifier(objective="multi:softmax", **XGB).fit(X, THREE),
    "xgb softmax of two": lambda: xgboost.XGBClassifier(objective="multi:softmax", num_class=2, **XGB).fit(X, TWO),
    "xgb softprob of two": lambda: xgboost.XGBClassifier(objective="multi:softprob", num_class=2, **XGB).fit(X, TWO),
    "xgb hinge": lambda: xgboost.XGBClassifier(objective="binary:hinge", **XGB).fit(X, TWO),
    "xgb raw": lambda: xgboost.XGBClassifier(objective="binary:logitraw", **XGB).fit(X, TWO),
    "xgb classifier of numbers": lambda: xgboost.XGBClassifier(objective="reg:squarederror", **XGB).fit(X, TWO),
    "xgb regressor of classes": lambda: xgboost.XGBRegressor(objective="binary:logistic", **XGB).fit(X, TWO),
    "xgb model of classes": lambda: xgboost.XGBModel(objective="binary:logistic", **XGB).fit(X, TWO),
    "xgb labels": lambda: xgboost.XGBClassifier(**XGB).fit(X, PAIRS),
    "xgb several": lambda: xgboost.XGBRegressor(**XGB).fit(X, SEVERAL),
    "xgb ranker": lambda: ranker(xgboost.XGBRanker(missing=SENTINEL, **XGB)),
    "xgb poisson": lambda: xgboost.XGBRegressor(objective="count:poisson", **XGB).fit(X, TWO),
    "xgb gamma": lambda: xgboost.XGBRegressor(objective="reg:gamma", **XGB).fit(X, TWO + 1.0),
    "xgb tweedie": lambda: xgboost.XGBRegressor(objective="reg:tweedie", **XGB).fit(X, TWO),
    "xgb quantiles": lambda: xgboost.XGBRegressor(objective="reg:quantileerror", quantile_alpha=[0.1, 0.9], **XGB).fit(
        X, NUMBER
    ),
    "lgb early stop of predictions": lambda: lightgbm.LGBMClassifier(
        pred_early_stop=True, pred_early_stop_freq=1, pred_early_stop_margin=0.01, **LGB
    ).fit(X, TWO),
    "lgb stopped": lambda: stopped_lightgbm(lightgbm.LGBMClassifier(**LGB)),
    "lgb stopped regressor": lambda: stopped_lightgbm(lightgbm.LGBMRegressor(**LGB)),
    "lgb zero as missing": lambda: lightgbm.LGBMRegressor(zero_as_missing=True, **LGB).fit(
        np.where(X == SENTINEL, 0, X), NUMBER
    ),
    "lgb without missing": lambda: lightgbm.LGBMRegressor(use_missing=False, **LGB).fit(
        np.where(X == SENTINEL, np.nan, X), NUMBER
    ),
    "lgb missing numbers": lambda: lightgbm.LGBMClassifier(**LGB).fit(np.where(X == SENTINEL, np.nan, X), TWO),
    "lgb linear trees": lambda: lightgbm.LGBMRegressor(linear_tree=True, **LGB).fit(X, NUMBER),
    "lgb dart": lambda: lightgbm.LGBMRegressor(boosting_type="dart", **LGB).fit(X, NUMBER),
    "lgb forest": lambda: lightgbm.LGBMClassifier(boosting_type="rf", bagging_freq=1, bagging_fraction=0.6, **LGB).fit(
        X, TWO
    ),
    "lgb one against all": lambda: lightgbm.LGBMClassifier(objective="multiclassova", **LGB).fit(X, THREE),
    "lgb cross entropy": lambda: lightgbm.LGBMClassifier(objective="cross_entropy", **LGB).fit(X, TWO),
    "lgb cross entropy lambda": lambda: lightgbm.LGBMRegressor(objective="cross_entropy_lambda", **LGB).fit(X, TWO),
    "lgb classifier of numbers": lambda: lightgbm.LGBMClassifier(objective="regression", **LGB).fit(X, TWO),
    "lgb regressor of classes": lambda: lightgbm.LGBMRegressor(objective="binary", **LGB).fit(X, TWO),
    "lgb model of classes": lambda: lightgbm.LGBMModel(objective="binary", **LGB).fit(X, TWO),
    "lgb sigmoid": lambda: lightgbm.LGBMClassifier(sigmoid=2.0, **LGB).fit(X, TWO),
    "lgb root": lambda: lightgbm.LGBMRegressor(reg_sqrt=True, **LGB).fit(X, NUMBER),
    "lgb texts": lambda: lightgbm.LGBMClassifier(**LGB).fit(X, np.array(["no", "yes"])[TWO]),
    "lgb booleans": lambda: lightgbm.LGBMClassifier(**LGB).fit(X, TWO.astype(bool)),
    "lgb texts of three": lambda: lightgbm.LGBMClassifier(**LGB).fit(X, np.array(list("cab"))[THREE]),
    "lgb ranker": lambda: ranker(lightgbm.LGBMRanker(**LGB)),
    "lgb poisson": lambda: lightgbm.LGBMRegressor(objective="poisson", **LGB).fit(X, TWO),
}


def answers(wrapper: Any, rows: Any) -> dict[str, Any]:
    """Return what the library answers; empty where it raises."""
    found = {}
    for name in ("predict", "predict_proba"):
        if hasattr(wrapper, name):
            found[name] = getattr(wrapper, name)(rows)
    return found


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_a_wrapper_is_served_with_its_parameters(name: str) -> None:
    wrapper = WRAPPERS[name]()
    expected = answers(wrapper, PROBES)
    files = [package.build(wrapper, np.where(np.isinf(X), 0, X), None, compile=False)]
    models = [opened(joblib_bytes(wrapper)), load(Memory(files[0])).opened]
    for model in models:
        found = served(model, PROBES)
        assert "predict" in found
        for output, array in found.items():
            tolerance = 1e-6 if output == "predict_proba" and "softmax" in name else 0
            if np.asarray(expected[output]).dtype.kind == "f":
                assert array.shape == expected[output].shape
                np.testing.assert_allclose(array, expected[output], rtol=tolerance)
            else:
                np.testing.assert_array_equal(array, expected[output])


@pytest.mark.parametrize("name", list(WRAPPERS))
@pytest.mark.parametrize("in_pipeline", [False, True], ids=["alone", "in a pipeline"])
def test_a_compiled_wrapper_answers_the_same(name: str, in_pipeline: bool) -> None:
    """Compiled from one row of zeros, as a bare file is."""
    wrapper = WRAPPERS[name]()
    if in_pipeline:
        pipeline = make_pipeline(StandardScaler(with_mean=False, with_std=False).fit(X), wrapper)
        wrapper = pipeline
    model = opened(joblib_bytes(wrapper))
    assert model.signature is not None
    source = model.booster or model.estimator
    zeros = np.zeros((1, 4), np.float64 if model.signature.inputs[0].datatype == "FP64" else np.float32)
    verdict, onnx = compile_model(source, model.signature, zeros, seconds=0.01, functions=model.functions)
    if onnx is None:
        assert verdict.reason
        return
    rows = PROBES.astype(zeros.dtype)
    expected = answers(wrapper, rows)
    signature = compilable(model.signature)
    assert signature is not None
    names = [spec.name for spec in signature.outputs]
    for output, array in zip(names, OnnxFunctions(onnx, signature)(rows, names), strict=True):
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected[output], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(array, expected[output])


XGBOOST_OBJECTIVES: dict[str, Any] = {
    **dict.fromkeys(("binary:logistic", "binary:logitraw", "binary:hinge", "reg:logistic"), TWO),
    **dict.fromkeys(("multi:softmax", "multi:softprob"), THREE),
    **dict.fromkeys(("rank:ndcg", "rank:map", "rank:pairwise", "count:poisson", "reg:tweedie"), TWO),
    **dict.fromkeys(("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror"), NUMBER),
    "reg:squaredlogerror": TWO,
    "reg:gamma": TWO + 1.0,
    "survival:cox": TWO + 1.0,
    "survival:aft": TWO + 1.0,
}


@pytest.mark.parametrize("objective", list(XGBOOST_OBJECTIVES))
def test_a_booster_of_xgboost_alone_answers_as_its_predict(objective: str) -> None:
    labels = XGBOOST_OBJECTIVES[objective]
    matrix = xgboost.DMatrix(X, labels, nthread=1)
    if objective == "survival:aft":
        matrix.set_float_info("label_lower_bound", labels)
        matrix.set_float_info("label_upper_bound", labels)
    options: dict[str, Any] = {"objective": objective, "nthread": 1, "verbosity": 0}
    if objective.startswith("multi"):
        options["num_class"] = 3
    booster = xgboost.train(options, matrix, 4)
    expected = booster.predict(xgboost.DMatrix(PROBES))
    model = opened(bytes(booster.save_raw("ubj")))
    found = served(model, PROBES)
    assert list(found) == ["predict"]
    np.testing.assert_array_equal(found["predict"], expected)
    assert model.signature is not None
    zeros = np.zeros((1, 4), np.float32)
    _, onnx = compile_model(model.booster, model.signature, zeros, seconds=0.01, functions=model.functions)
    if onnx is not None:
        (array,) = OnnxFunctions(onnx, model.signature)(PROBES, ["predict"])
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6)


def test_a_booster_of_xgboost_alone_uses_all_rounds() -> None:
    """Booster.predict does, though its training noted a best round; XGBClassifier.predict does not."""
    train, test = xgboost.DMatrix(X[:150], TWO[:150]), xgboost.DMatrix(X[150:], RANDOM.permutation(TWO[150:]))
    options: dict[str, Any] = {"objective": "binary:logistic", "nthread": 1}
    booster = xgboost.train(options, train, 60, evals=[(test, "")], early_stopping_rounds=3, verbose_eval=False)
    assert booster.best_iteration + 1 < booster.num_boosted_rounds()
    found = served(opened(bytes(booster.save_raw("ubj"))), PROBES)["predict"]
    np.testing.assert_array_equal(found, booster.predict(xgboost.DMatrix(PROBES)))


LIGHTGBM_OBJECTIVES: dict[str, Any] = {
    **dict.fromkeys(("binary", "cross_entropy", "cross_entropy_lambda", "poisson", "tweedie", "lambdarank"), TWO),
    **dict.fromkeys(("multiclass", "multiclassova"), THREE),
    **dict.fromkeys(("regression", "regression_l1", "huber", "fair", "quantile"), NUMBER),
    "mape": TWO + 1.0,
    "gamma": TWO + 1.0,
    "rank_xendcg": TWO,
}


@pytest.mark.parametrize("objective", list(LIGHTGBM_OBJECTIVES))
def test_a_booster_of_lightgbm_alone_answers_as_its_predict(objective: str) -> None:
    options: dict[str, Any] = {"objective": objective, "verbosity": -1, "num_threads": 1}
    if objective.startswith("multi"):
        options["num_class"] = 3
    group = [30] * 10 if "rank" in objective else None
    booster = lightgbm.train(options, lightgbm.Dataset(X, LIGHTGBM_OBJECTIVES[objective], group=group), 4)
    rows = PROBES.astype(np.float64)
    expected = booster.predict(rows)
    model = opened(booster.model_to_string().encode())
    found = served(model, rows)
    assert list(found) == ["predict"]
    np.testing.assert_array_equal(found["predict"], expected)
    assert model.signature is not None
    _, onnx = compile_model(model.booster, model.signature, np.zeros((1, 4)), seconds=0.01, functions=model.functions)
    if onnx is not None:
        (array,) = OnnxFunctions(onnx, model.signature)(rows, ["predict"])
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-9)


def test_a_missing_that_is_no_number_is_refused() -> None:
    wrapper = xgboost.XGBRegressor(**XGB).fit(X, NUMBER)
    wrapper.set_params(missing=None)
    with pytest.raises(RefusedModel, match="its parameter missing is of the type NoneType: set a number"):
        opened(joblib_bytes(wrapper))


# ---- categories of a DataFrame


def table(**more: Any) -> pd.DataFrame:
    columns = {
        "store": pd.Categorical(RANDOM.choice([101, 205, 317, 999], 300)),
        "city": pd.Categorical(RANDOM.choice(["Oslo", "Rome", ""], 300)),
        "x": X[:, 1].astype(np.float64),
    }
    return pd.DataFrame({**columns, **more})


def target(frame: pd.DataFrame) -> Array:
    return np.asarray((frame["store"] == 205) * 5.0 + (frame["city"] == "Rome") * 2.0 + frame["x"].clip(-1, 1))


def answer(model: Opened, records: list[dict[str, Any]]) -> Array:
    """Return the predictions for rows as users send them."""
    served_model = model_of(model, None)
    request = plain_rows.decode(json.dumps(records).encode(), served_model.signature.inputs)
    return served_model.infer(request).outputs[0].array


RECORDS: list[dict[str, Any]] = [
    {"store": 205, "city": "Rome", "x": 0.0},
    {"store": 101, "city": "Oslo", "x": 0.5},
    {"store": 205.0, "city": "", "x": None},
    {"store": None, "city": "Oslo", "x": 0.0},
]
UNKNOWN: list[dict[str, Any]] = [
    {"store": 206, "city": "Rome", "x": 0.0},
    {"store": 205.5, "city": "Oslo", "x": 0.0},
    {"store": -1, "city": "Oslo", "x": 0.0},
    {"store": 2**40, "city": "Oslo", "x": 0.0},
    {"store": 101, "city": "Paris", "x": 0.0},
    {"store": 0, "city": "oslo", "x": 0.0},
]


def as_frame(records: list[dict[str, Any]], like: pd.DataFrame) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=like.columns)
    for name, dtype in like.dtypes.items():
        frame[name] = (
            pd.Categorical(frame[name], categories=dtype.categories)
            if isinstance(dtype, pd.CategoricalDtype)
            else frame[name].astype(dtype)
        )
    return frame


def test_lightgbm_maps_categories_by_their_value() -> None:
    frame = table()
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(frame, target(frame)), 20)
    expected = booster.predict(as_frame(RECORDS + UNKNOWN, frame))
    assert len(set(np.round(expected, 6))) > 3
    model = opened(booster.model_to_string().encode())
    np.testing.assert_array_equal(answer(model, RECORDS + UNKNOWN), expected)
    wrapper = lightgbm.LGBMRegressor(**LGB).fit(frame, target(frame))
    for data in (joblib_bytes(wrapper), wrapper.booster_.model_to_string().encode()):
        found = answer(opened(data), RECORDS + UNKNOWN)
        np.testing.assert_array_equal(found, wrapper.predict(as_frame(RECORDS + UNKNOWN, frame)))


@pytest.mark.parametrize("values", [[True, False], [0.5, 1.5, -2.0], [3, 1], ["a", "b"]], ids=str)
def test_lightgbm_maps_categories_of_every_type(values: list[Any]) -> None:
    frame = pd.DataFrame({"c": pd.Categorical(RANDOM.choice(np.array(values), 300)), "x": X[:, 1].astype(float)})
    labels = (frame["c"].cat.codes == 1) * 3.0 + frame["x"].clip(-1, 1)
    wrapper = lightgbm.LGBMRegressor(**LGB).fit(frame, labels)
    records = [{"c": value, "x": 0.0} for value in values]
    found = answer(opened(joblib_bytes(wrapper)), records)
    np.testing.assert_array_equal(found, wrapper.predict(as_frame(records, frame)))


def test_the_contributions_of_categories_add_up() -> None:
    frame = table()
    wrapper = lightgbm.LGBMRegressor(**LGB).fit(frame, target(frame))
    model = model_of(opened(joblib_bytes(wrapper)), None)
    request = plain_rows.decode(json.dumps(RECORDS).encode(), model.signature.inputs)
    (found,) = model.predict(model.table(request.inputs), ["contributions"])
    np.testing.assert_allclose(found.sum(axis=1), wrapper.predict(as_frame(RECORDS, frame)), rtol=1e-9)


def ordered() -> pd.DataFrame:
    """A table where a file of LightGBM does not say which column has the categories."""
    size = pd.Categorical(RANDOM.choice(["S", "M", "L"], 300), categories=["S", "M", "L"], ordered=True)
    return pd.DataFrame({"flag": RANDOM.integers(0, 2, 300), "size": size, "x": X[:, 1].astype(float)})


def test_columns_of_categories_that_are_not_certain_are_refused_or_learnt_from_x() -> None:
    frame = ordered()
    labels = frame["size"].cat.codes * 2.0 + frame["flag"]
    wrapper = lightgbm.LGBMRegressor(**LGB).fit(frame, labels)
    with pytest.raises(RefusedModel, match=r"does not say which 1 of its columns .* package\.save\(model, X\)"):
        opened(joblib_bytes(wrapper))
    records = [{"flag": flag, "size": size, "x": 0.0} for flag in (0, 1) for size in ("S", "M", "L", "XL")]
    expected = wrapper.predict(as_frame(records, frame))
    plain = frame.astype({"size": str})  # as read from a CSV file
    for rows in (frame, plain):
        given = wrapper.booster_.model_to_string().encode() if rows is plain else wrapper
        loaded = load(Memory(package.build(given, rows, None, compile=False)))
        assert loaded.manifest is not None
        model = model_of(loaded.opened, loaded.manifest)
        request = plain_rows.decode(json.dumps(records).encode(), model.signature.inputs)
        np.testing.assert_array_equal(model.infer(request).outputs[0].array, expected)
    with pytest.raises(UsageError, match="X does not say which"):
        package.build(wrapper.booster_.model_to_string().encode(), np.zeros((9, 3)), None, compile=False)


def test_xgboost_maps_categories_by_their_value() -> None:
    frame = table()
    wrapper = xgboost.XGBRegressor(enable_categorical=True, missing=SENTINEL, **XGB).fit(frame, target(frame))
    booster = bytes(wrapper.get_booster().save_raw("ubj"))
    expected = wrapper.predict(as_frame(RECORDS, frame))
    np.testing.assert_array_equal(answer(opened(joblib_bytes(wrapper)), RECORDS), expected)
    np.testing.assert_array_equal(answer(opened(booster), RECORDS), expected)
    model = model_of(opened(booster), None)
    for record in UNKNOWN:
        request = plain_rows.decode(json.dumps([record]).encode(), model.signature.inputs)
        with pytest.raises(RequestError, match=r"input '.*' has a category that was not in the training rows"):
            opened(booster).functions(model.table(request.inputs), ["predict"])


def test_xgboost_on_codes_takes_codes() -> None:
    codes = np.c_[RANDOM.integers(0, 4, 300), X[:, 1]]
    wrapper = xgboost.XGBRegressor(feature_types=["c", "q"], enable_categorical=True, **XGB).fit(
        codes, (codes[:, 0] == 2) * 3.0
    )
    rows = np.array([[value, 0.0] for value in (0, 1, 2, 3, 4, -1, 1.5, np.nan, 2.0**25)], np.float32)
    np.testing.assert_array_equal(served(opened(joblib_bytes(wrapper)), rows)["predict"], wrapper.predict(rows))


def test_categories_that_xgboost_saves_in_part_are_refused() -> None:
    frame = pd.DataFrame({"city": pd.Categorical(RANDOM.choice(["Tromsø", "Århus"], 300)), "x": X[:, 1]})
    wrapper = xgboost.XGBRegressor(enable_categorical=True, **XGB).fit(frame, NUMBER)
    with pytest.raises(RefusedModel, match=r"its column 'city' has categories .* of which XGBoost saves only a part"):
        opened(joblib_bytes(wrapper))


def test_categories_that_older_versions_do_not_save_are_refused() -> None:
    frame = table()
    wrapper = xgboost.XGBRegressor(enable_categorical=True, **XGB).fit(frame, target(frame))
    content = json.loads(wrapper.get_booster().save_raw("json"))
    del content["learner"]["gradient_booster"]["model"]["cats"]
    with pytest.raises(RefusedModel, match=r"before 3\.1 does not save them: train it with"):
        opened(json.dumps(content).encode())


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda cats: cats["enc"].pop(),
        lambda cats: cats["enc"][1]["offsets"].__setitem__(1, 1 << 30),
        lambda cats: cats["enc"][1]["offsets"].__setitem__(0, -1),
        lambda cats: cats["enc"][0].update(type=8),
        lambda cats: cats["feature_segments"].__setitem__(1, 1 << 30),
        lambda cats: cats["sorted_idx"].__setitem__(0, 1 << 30),
        lambda cats: cats["sorted_idx"].pop(),
        lambda cats: cats["enc"][0].update(values="text"),
    ],
)
def test_forged_categories_of_xgboost_are_refused(change: Callable[[Any], Any]) -> None:
    frame = table()
    wrapper = xgboost.XGBRegressor(enable_categorical=True, **XGB).fit(frame, target(frame))
    content = json.loads(wrapper.get_booster().save_raw("json"))
    rewritten(json.dumps(content).encode())
    change(content["learner"]["gradient_booster"]["model"]["cats"])
    with pytest.raises(ValueError, match=re.compile("it (has|lacks)")):
        rewritten(json.dumps(content).encode())


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_categories_within_a_pipeline_are_refused_unless_it_does_nothing_else(library: str) -> None:
    frame = table()
    wrapper = (
        lightgbm.LGBMRegressor(**LGB) if library == "lightgbm" else xgboost.XGBRegressor(enable_categorical=True, **XGB)
    ).fit(frame, target(frame))
    alone = Pipeline([("nothing", "passthrough"), ("model", wrapper)])
    np.testing.assert_array_equal(
        answer(opened(joblib_bytes(alone)), RECORDS), wrapper.predict(as_frame(RECORDS, frame))
    )
    inside = Pipeline([("same", FunctionTransformer().fit(frame)), ("model", wrapper)])
    with pytest.raises(RefusedModel, match="fitted on categories of a DataFrame within a Pipeline: encode them"):
        opened(joblib_bytes(inside))
