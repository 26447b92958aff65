"""Bare files of models on tables with texts, categories and missing values: their columns are learnt from the model,
the example is answered, and every answer is the library's, compiled or not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import CategoricalNB
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    StandardScaler,
    TargetEncoder,
)

from mlmodel_server import package
from mlmodel_server.compile import OnnxFunctions, compilable, compile_model
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Opened
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.protocol import invocations, v2
from mlmodel_server.protocol import rows as plain_rows
from mlmodel_server.tensors import Array
from tests.unit.server.models import SEED, iris, joblib_bytes

pytestmark = pytest.mark.models

RANDOM = np.random.default_rng(SEED)


def people(**more: Any) -> pd.DataFrame:
    columns = {
        "age": RANDOM.integers(18, 80, 240).astype(float),
        "city": RANDOM.choice(["Oslo", "Rome", "Bern"], 240),
        "plan": RANDOM.choice(["free", "paid"], 240),
        "visits": RANDOM.integers(0, 5, 240),
    }
    return pd.DataFrame({**columns, **more})


def holes(column: Any, value: Any) -> Any:
    texts = np.array(column, dtype=object)
    texts[RANDOM.random(len(texts)) < 0.2] = value
    return texts


def target(frame: pd.DataFrame) -> Array:
    yes = (frame["age"] > 45) ^ (frame["city"] == "Oslo") ^ frame["plan"].isna()
    return np.where(yes, "yes", "no")


def on(*parts: tuple[str, Any, list[str]], model: Any = None) -> Any:
    last = LogisticRegression() if model is None else model
    return make_pipeline(ColumnTransformer(list(parts), remainder="passthrough"), last)


def opened(data: bytes) -> Opened:
    return load(Memory({"model": data}, "model")).opened


def answers(model: Model, frame: pd.DataFrame) -> dict[str, Array]:
    """Return all outputs for the rows as users send them: JSON, with null for what is missing."""
    records = json.loads(frame.to_json(orient="records"))
    request = plain_rows.decode(json.dumps(records).encode(), model.signature.inputs)
    names = [spec.name for spec in model.signature.outputs]
    return dict(zip(names, model.predict(model.table(request.inputs), names), strict=True))


def compiled(opened: Opened, rows: Array) -> Model | None:
    assert opened.signature is not None
    _, onnx = compile_model(opened.estimator, opened.signature, rows, seconds=0.01, functions=opened.functions)
    signature = compilable(opened.signature)
    return Model(OnnxFunctions(onnx, signature), signature) if onnx and signature else None


def assert_equal(found: dict[str, Array], fitted: Any, frame: pd.DataFrame) -> None:
    for name, array in found.items():
        expected = getattr(fitted, name)(frame)
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(array, expected, rtol=1e-9, atol=1e-12)
        else:
            np.testing.assert_array_equal(array, expected)


def imputed(**options: Any) -> Any:
    return make_pipeline(SimpleImputer(strategy="most_frequent", **options), OneHotEncoder(handle_unknown="ignore"))


TEXTS = ["city", "plan"]
MODELS: dict[str, Any] = {
    "one-hot": lambda: on(("t", OneHotEncoder(), TEXTS)),
    "one-hot, unknown ignored": lambda: on(("t", OneHotEncoder(handle_unknown="ignore"), TEXTS)),
    "ordinal": lambda: on(
        ("t", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2), TEXTS)
    ),
    "ordinal, missing": lambda: on(("t", OrdinalEncoder(encoded_missing_value=-7), TEXTS)),
    "target": lambda: on(("t", TargetEncoder(random_state=SEED), TEXTS)),
    "imputed": lambda: on(("t", imputed(), TEXTS)),
    "constant": lambda: on(
        ("t", make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OneHotEncoder()), TEXTS)
    ),
    "forest": lambda: on(("t", OrdinalEncoder(), TEXTS), model=RandomForestClassifier(4, random_state=SEED)),
    "scaled": lambda: on(("n", StandardScaler(), ["age"]), ("t", OneHotEncoder(), TEXTS)),
    "search": lambda: GridSearchCV(on(("t", OneHotEncoder(), TEXTS)), {"logisticregression__C": [1.0, 0.1]}, cv=2),
    "calibrated": lambda: CalibratedClassifierCV(on(("t", OneHotEncoder(), TEXTS)), cv=2),
}


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing texts"])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_bare_file_answers_as_its_pipeline(name: str, missing: bool) -> None:
    frame = people()
    if missing:
        frame["plan"] = pd.Series(holes(frame["plan"], np.nan), dtype=object)
    fitted = MODELS[name]().fit(frame, target(frame))
    model = opened(joblib_bytes(fitted))
    assert model.signature is not None
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        ("age", "FP64"), ("city", "BYTES"), ("plan", "BYTES"), ("visits", "FP64"),
    ]  # fmt: skip
    whole = model_of(model, None)
    body = selftest.example(whole, model.example)
    assert whole.infer(v2.decode(body)).outputs
    assert_equal(answers(whole, frame), fitted, frame)
    example = whole.table(v2.decode(body).inputs)
    assert isinstance(example, np.ndarray)
    smaller = compiled(model, example)
    if smaller is not None:
        assert_equal(answers(smaller, frame), fitted, frame)


def test_a_pipeline_with_text_is_compiled_from_its_file_alone() -> None:
    """The known categories are compared, not only those of the one example row."""
    frame = people()
    for encoder in (OneHotEncoder(), OneHotEncoder(handle_unknown="ignore")):
        model = opened(joblib_bytes(on(("t", encoder, TEXTS)).fit(frame, target(frame))))
        whole = model_of(model, None)
        table = whole.table(v2.decode(selftest.example(whole, model.example)).inputs)
        assert isinstance(table, np.ndarray)
        assert compiled(model, table) is not None


@pytest.mark.parametrize("marker", [None, np.nan], ids=["None", "NaN"])
def test_a_missing_text_is_what_the_model_was_fitted_on(marker: Any) -> None:
    """scikit-learn has two kinds of missing texts, and to an encoder each is an unknown value beside the other."""
    frame = people()
    frame["plan"] = pd.Series(holes(frame["plan"], marker), dtype=object)
    fitted = on(("t", OneHotEncoder(handle_unknown="ignore"), TEXTS)).fit(frame, target(frame))
    assert_equal(answers(model_of(opened(joblib_bytes(fitted)), None), frame), fitted, frame)


def test_csv_and_pandas_read_the_same_rows() -> None:
    frame = people()
    frame["plan"] = pd.Series(holes(frame["plan"], np.nan), dtype=object)
    fitted = on(("t", OneHotEncoder(handle_unknown="ignore"), TEXTS)).fit(frame, target(frame))
    model = model_of(opened(joblib_bytes(fitted)), None)
    request = invocations.decode(frame.to_csv(index=False).encode(), b"text/csv", model.signature.inputs)
    np.testing.assert_array_equal(model.infer(request).outputs[0].array, fitted.predict(frame))


HISTOGRAMS = ["from_dtype", ["city", "plan"], [1, 2], [False, True, True, False]]


@pytest.mark.parametrize("spelling", HISTOGRAMS, ids=str)
@pytest.mark.parametrize("form", ["joblib", "skops"])
def test_histogram_gradient_boosting_maps_categories_in_every_spelling(spelling: Any, form: str) -> None:
    frame = people()
    labels = target(frame)
    frame = frame.astype({"city": "category", "plan": "category"})
    fitted = HistGradientBoostingClassifier(max_iter=5, categorical_features=spelling).fit(frame, labels)
    model = opened(joblib_bytes(fitted) if form == "joblib" else skops.io.dumps(fitted))
    whole = model_of(model, None)
    rows = frame.astype({"city": object, "plan": object})
    rows.loc[:9, "city"] = "Paris"
    rows.loc[10:19, "plan"] = None
    assert_equal(answers(whole, rows), fitted, rows)
    assert selftest.example(whole, model.example)
    table = whole.table(v2.decode(selftest.example(whole, model.example)).inputs)
    assert isinstance(table, np.ndarray)
    smaller = compiled(model, table)
    if smaller is not None:
        assert_equal(answers(smaller, rows), fitted, rows)
    packaged = load(Memory(package.build(fitted, frame, labels, compile=False)))
    assert packaged.manifest is not None
    assert_equal(answers(model_of(packaged.opened, packaged.manifest), rows), fitted, rows)


def test_histogram_gradient_boosting_on_categories_that_are_numbers() -> None:
    X = np.c_[RANDOM.integers(0, 4, 300), RANDOM.choice([101, 205, 317], 300), RANDOM.normal(size=300)]
    y = (X[:, 0] == 2) * 3.0 + (X[:, 1] == 205) * 2.0
    fitted = HistGradientBoostingRegressor(max_iter=8, categorical_features=[0, 1]).fit(X, y)
    odd = [0, 1, 3, 4, -1, 1.5, np.nan, 205, 206, 1e6, -0.0]
    rows = np.array([[first, second, 0.5] for first in odd for second in odd])
    model = opened(joblib_bytes(fitted))
    assert model.signature is not None
    np.testing.assert_array_equal(model.functions(rows, ["predict"])[0], fitted.predict(rows))
    smaller = compiled(model, np.array([[0.0, 101.0, 0.0]]))
    if smaller is not None:
        np.testing.assert_allclose(smaller.predict(rows, ["predict"])[0], fitted.predict(rows), rtol=1e-12)


def test_a_number_that_stands_for_missing_is_compared_before_compiling() -> None:
    X = RANDOM.normal(size=(200, 3))
    X[RANDOM.random(X.shape) < 0.2] = -999
    y = np.where(X[:, 0] == -999, 5.0, X[:, 0])
    for imputer in (SimpleImputer(missing_values=-999), SimpleImputer(missing_values=-999, add_indicator=True)):
        fitted = make_pipeline(imputer, LinearRegression()).fit(X, y)
        smaller = compiled(opened(joblib_bytes(fitted)), np.zeros((1, 3)))
        if smaller is not None:
            np.testing.assert_allclose(smaller.predict(X, ["predict"])[0], fitted.predict(X), rtol=1e-9)


def test_encoders_of_numbers_give_an_example_of_a_known_number() -> None:
    X = np.c_[RANDOM.choice([3, 7], 100), RANDOM.choice([11, 13], 100)]
    fitted = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(X, X[:, 0] == 3)
    model = opened(joblib_bytes(fitted))
    body = selftest.example(model_of(model, None), model.example)
    assert json.loads(body)["inputs"][0]["data"] == [3, 11]


def test_a_model_that_rejects_zeros_gets_another_example() -> None:
    X = RANDOM.random((100, 2)) + 1
    fitted = make_pipeline(PowerTransformer("box-cox"), LinearRegression()).fit(X, X[:, 0])
    model = opened(joblib_bytes(fitted))
    body = selftest.example(model_of(model, None), model.example)
    assert json.loads(body)["inputs"][0]["data"] == [1.0, 1.0]


def test_a_bare_file_that_answers_no_example_is_refused() -> None:
    frame = pd.DataFrame({"name": RANDOM.choice(["ab", "c"], 50), "x": RANDOM.random(50) + 5})
    columns = ColumnTransformer([("p", PowerTransformer("box-cox"), ["x"])])
    fitted = make_pipeline(columns, LinearRegression()).fit(frame, frame["x"])
    fitted[0].named_transformers_["p"].lambdas_ = np.array([np.nan])
    model = opened(joblib_bytes(fitted))
    with pytest.raises(RefusedModel, match=r"mlmodel package FILE --data rows\.csv"):
        selftest.example(model_of(model, None), model.example)


def test_a_naive_bayes_of_categories_has_an_example() -> None:
    X = RANDOM.integers(0, 3, (60, 2))
    model = opened(joblib_bytes(CategoricalNB().fit(X, X[:, 0] > 1)))
    assert selftest.example(model_of(model, None), model.example)


MLMODEL = """
flavors:
  python_function: {{loader_module: mlflow.sklearn, predict_fn: {method}}}
  sklearn: {{pickled_model: model.pkl}}
"""


def logged(fitted: Any, method: str) -> Model:
    files = {"MLmodel": MLMODEL.format(method=method).encode(), "model.pkl": joblib_bytes(fitted)}
    return model_of(load(Memory(files, "MLmodel")).opened, None)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "decision_function"])
def test_mlflows_choice_of_a_method_is_served(method: str) -> None:
    fitted, X, _ = iris()
    model = logged(fitted, method)
    request = v2.decode(
        json.dumps({"inputs": [{"name": "x", "shape": list(X.shape), "datatype": "FP64", "data": X.tolist()}]}).encode()
    )
    (found,) = model.infer(request).outputs
    assert found.name == method
    np.testing.assert_array_equal(found.array, getattr(fitted, method)(X))


def test_mlflows_choice_of_neighbours_is_both_of_their_outputs() -> None:
    _, X, _ = iris()
    model = logged(KNeighborsTransformer(n_neighbors=2).fit(X), "kneighbors")
    assert model.select_outputs(None) == ("kneighbors_distances", "kneighbors_indices")


@pytest.mark.parametrize("method", ["score", "predict_joint_log_proba", "fit", "__init__"])
def test_a_method_that_cannot_be_served_is_refused(method: str) -> None:
    with pytest.raises(RefusedModel, match=rf"MLflow calls '{method}', which this server cannot: log the model again"):
        logged(iris()[0], method)


def test_the_version_that_saved_a_file_is_known_if_it_differs() -> None:
    assert opened(joblib_bytes(iris()[0])).saved_with == {}
    data = joblib_bytes(LogisticRegression().fit(*iris()[1:]))
    import sklearn

    older = data.replace(sklearn.__version__.encode(), b"1.8.0")
    assert len(older) == len(data)
    assert opened(older).saved_with == {"scikit-learn": "1.8.0"}


def test_the_version_of_a_file_of_xgboost_is_known() -> None:
    import xgboost

    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(np.eye(4), [0, 1, 2, 3]), 2)
    for form in ("ubj", "json"):
        assert opened(bytes(booster.save_raw(form))).saved_with == {"xgboost": xgboost.__version__}
