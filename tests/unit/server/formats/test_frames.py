"""Packages of models that were fitted on DataFrames: every kind of column answers as the library, in every protocol."""

from __future__ import annotations

import json
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import BayesianGaussianMixture
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from mlmodel_server import package
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import ModelFailure, RequestError, UsageError
from mlmodel_server.formats import dates
from mlmodel_server.formats.frame import Frames
from mlmodel_server.formats.sklearn import EstimatorFunctions
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import Manifest, Signature
from mlmodel_server.package.table import described, specs_of, tensors_of
from mlmodel_server.package.ways import Way, ways_of
from mlmodel_server.package.write import _golden
from mlmodel_server.protocol import invocations, rows, v1, v2
from mlmodel_server.tensors import Array, Column, TensorSpec, is_missing
from tests.unit.server.models import SEED

pytestmark = pytest.mark.models

ROWS = 160
RANDOM = np.random.default_rng(SEED)
CITIES = RANDOM.choice(["Oslo", "Rome", "Bern"], ROWS)
DAYS = pd.Series(pd.to_datetime("2024-03-28T22:30:00") + pd.to_timedelta(np.arange(ROWS) % 9, "D"))
BASE = pd.DataFrame(
    {
        "age": RANDOM.normal(40, 9, ROWS),
        "city": CITIES,
        "visits": RANDOM.integers(0, 9, ROWS),
        "member": RANDOM.random(ROWS) > 0.5,
    }
)
LABELS = np.where((BASE.age > 40) ^ (CITIES == "Oslo") ^ (np.arange(ROWS) % 9 > 4), "yes", "no")


def holes(column: Any, value: Any) -> Any:
    objects = np.array(column, dtype=object)
    objects[np.random.default_rng(SEED).random(len(objects)) < 0.2] = value
    return objects


def on(*parts: tuple[str, Any, Any], model: Any = None) -> Any:
    return make_pipeline(
        ColumnTransformer(list(parts), remainder="passthrough"), model or LogisticRegression(max_iter=2000)
    )


def one_hot(*columns: str) -> tuple[str, Any, list[str]]:
    return "-".join(columns), OneHotEncoder(handle_unknown="ignore"), list(columns)


def city(values: Any, dtype: Any) -> pd.DataFrame:
    return BASE.assign(city=pd.Series(values, dtype=dtype))


BOOSTER: dict[str, Any] = {"n_estimators": 5, "random_state": SEED}
CASES: dict[str, tuple[Any, pd.DataFrame, bool]] = {
    "text, None": (on(one_hot("city")), city(holes(CITIES, None), object), False),
    "text, NaN": (on(one_hot("city")), city(holes(CITIES, np.nan), object), False),
    "text, str": (on(one_hot("city")), city(holes(CITIES, None), "str"), False),
    "category": (on(one_hot("city")), city(holes(CITIES, None), "category"), False),
    "dates": (on(one_hot("day", "city")), BASE.assign(day=DAYS), True),
    "dates, ns, missing": (
        on(one_hot("day", "city")),
        BASE.assign(day=DAYS.where(np.arange(ROWS) % 7 > 0).astype("datetime64[ns]")),
        True,
    ),
    "Int64": (
        on(("i", SimpleImputer(), ["visits"]), one_hot("city")),
        BASE.assign(visits=pd.array(holes(BASE.visits, None), dtype="Int64")),
        False,
    ),
    "Int64, numbers only": (
        on(("i", SimpleImputer(), ["visits"])),
        BASE.drop(columns="city").assign(visits=pd.array(holes(BASE.visits, None), dtype="Int64")),
        False,
    ),
    "boolean": (
        on(one_hot("member", "city")),
        BASE.assign(member=pd.array(holes(BASE.member, None), dtype="boolean")),
        False,
    ),
    "booleans as objects": (
        on(one_hot("member", "city")),
        BASE.assign(member=pd.Series(holes(BASE.member, None), dtype=object)),
        True,
    ),
    "log of a column": (on(("l", FunctionTransformer(np.log1p), ["visits"]), one_hot("city")), BASE, False),
    "log of a small integer": (
        on(("l", FunctionTransformer(np.log1p), ["visits"]), one_hot("city")),
        BASE.astype({"visits": "int8"}),
        True,
    ),
    "selected by dtype": (
        on(
            ("t", OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include="str")),
            ("n", StandardScaler(), make_column_selector(dtype_include=np.number)),
        ),
        BASE,
        False,
    ),
    "labels are integers": (
        on(("l", FunctionTransformer(np.log1p), [1]), ("t", OneHotEncoder(), [2])),
        BASE[["age", "visits", "city"]].set_axis([0, 1, 2], axis=1),
        False,
    ),
    "histogram": (HistGradientBoostingClassifier(max_iter=5), city(CITIES, "category"), False),
    "lightgbm within a pipeline": (
        make_pipeline(FunctionTransformer(), lightgbm.LGBMClassifier(**BOOSTER, verbosity=-1)),
        city(CITIES, "category"),
        True,
    ),
    "xgboost within a pipeline": (
        make_pipeline(FunctionTransformer(), xgboost.XGBRegressor(**BOOSTER, enable_categorical=True)),
        city(CITIES, "category"),
        True,
    ),
    "lightgbm, Int64": (
        lightgbm.LGBMClassifier(**BOOSTER, verbosity=-1),
        BASE.drop(columns="city").assign(visits=pd.array(holes(BASE.visits, None), dtype="Int64")),
        False,
    ),
}


def packaged(model: Any, X: pd.DataFrame, y: Any = LABELS, **options: Any) -> tuple[Model, Manifest]:
    loaded = load(Memory(package.build(model, X, y, compile=False, **options)))
    assert loaded.manifest is not None
    return model_of(loaded.opened, loaded.manifest), loaded.manifest


def fitted(name: str) -> tuple[Any, pd.DataFrame]:
    model, X, _ = CASES[name]
    y: Any = LABELS == "yes" if "xgboost" in name else LABELS
    return model.fit(X, y.astype(float) if "xgboost" in name else y), X


def as_v2(X: pd.DataFrame, model: Model) -> bytes:
    records = json.loads(X.to_json(orient="split", date_format="iso"))["data"]
    inputs = []
    for place, spec in enumerate(model.signature.inputs):
        data = [row[place] for row in records]
        datatype = "BOOL" if any(isinstance(value, bool) for value in data) else spec.datatype
        inputs.append({"name": spec.name, "shape": [len(X)], "datatype": datatype, "data": data})
    return json.dumps({"inputs": inputs[::-1]}).encode()


def every_protocol(model: Model, X: pd.DataFrame) -> dict[str, Array]:
    specs = rows.specs_of(model.signature)
    records = json.loads(X.to_json(orient="records", date_format="iso"))
    shuffled = [dict(reversed(record.items())) for record in records]
    split = json.loads(X.to_json(orient="split", date_format="iso"))
    requests = {
        "rows": rows.decode(json.dumps(shuffled).encode(), specs),
        "v1": v1.decode(json.dumps({"instances": records}).encode(), specs),
        "csv": invocations.decode(X[X.columns[::-1]].to_csv(index=False).encode(), b"text/csv", specs),
        "split": invocations.decode(json.dumps({"dataframe_split": split}).encode(), b"application/json", specs),
        "v2": v2.decode(as_v2(X, model)),
    }
    return {name: model.infer(request).outputs[0].array for name, request in requests.items()}


@pytest.mark.parametrize("name", list(CASES))
def test_a_package_answers_as_the_library_on_the_frame(name: str) -> None:
    model, X = fitted(name)
    expected = model.predict(X)
    served, described = packaged(model, X, None)
    assert described.signature.frame is CASES[name][2], "the array is used where it is equal"
    for protocol, answer in every_protocol(served, X).items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(answer, expected, rtol=1e-6, err_msg=protocol)
        else:
            np.testing.assert_array_equal(answer, expected, err_msg=protocol)
    for spec, (label, dtype) in zip(described.signature.inputs, X.dtypes.items(), strict=True):
        assert spec.column is not None
        assert spec.column.dtype == str(dtype)
        if X[label].isna().any():
            assert spec.column.missing
            data = next(tensor for tensor in described.golden.inputs if tensor["name"] == spec.name)["data"]
            assert None in data, "missing values are among the golden examples"


def day_model(dtype: str) -> tuple[Any, pd.DataFrame]:
    """A model with a column of dates; those of a time zone are dropped, because its encoders keep objects of pandas."""
    days = DAYS.dt.tz_localize("UTC").dt.tz_convert("Europe/Rome") if "," in dtype else DAYS
    X = BASE.assign(day=days.astype(dtype))
    dates = one_hot("day", "city") if "," not in dtype else ("zone", "drop", ["day"])
    return on(dates, *([one_hot("city")] if "," in dtype else [])).fit(X, LABELS), X


@pytest.mark.parametrize(
    ("dtype", "day", "words"),
    [
        ("datetime64[us]", "2024-03-28T22:30:00Z", dates.NAIVE),
        ("datetime64[us]", "28.3.2024", dates.NAIVE),
        ("datetime64[us, Europe/Rome]", "2024-03-28T22:30:00", dates.AWARE),
        ("datetime64[ns]", "2300-01-01", "from 1677"),
    ],
)
def test_a_wrong_date_is_refused_with_the_feature_and_what_to_send(dtype: str, day: str, words: str) -> None:
    served, _ = packaged(*day_model(dtype))
    row = {"age": 40.0, "city": "Oslo", "visits": 1, "member": True, "day": day}
    with pytest.raises(RequestError) as caught:
        served.infer(rows.decode(json.dumps([row]).encode(), served.signature.inputs))
    assert "'day'" in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.status == 400
    assert day not in str(caught.value)


def test_a_date_with_any_offset_is_the_same_instant() -> None:
    _, X = day_model("datetime64[us, Europe/Rome]")
    frames = Frames(described(specs_of(tensors_of(X[["day"]])[1]), X))
    for text in ("2024-03-28T22:30:00Z", "2024-03-28T23:30:00+01:00", "2024-03-28T17:00:00-05:30"):
        pd.testing.assert_frame_equal(frames(np.array([[text]], object)), X[["day"]].head(1))


def instants(texts: list[str | None], utc: bool = False) -> Any:
    return pd.Series(pd.to_datetime(texts, utc=utc, format="ISO8601"))


FRAME = pd.DataFrame(
    {
        "float64": [1.5, None, 2.0],
        "float32": pd.Series([1.5, None, 0.1], dtype="float32"),
        "int64": [2**60 + 1, -3, 0],
        "uint64": pd.Series([2**64 - 1, 3, 0], dtype="uint64"),
        "int8": pd.Series([-128, 3, 127], dtype="int8"),
        "bool": [True, False, True],
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "Int64": pd.array([2**60 + 1, None, -3], dtype="Int64"),
        "UInt8": pd.array([255, None, 0], dtype="UInt8"),
        "Float64": pd.array([1.5, None, 0.1], dtype="Float64"),
        "str": pd.Series(["a", None, "é"], dtype="str"),
        "string": pd.array(["a", None, "b"], dtype="string"),
        "None": pd.Series(["a", None, "b"], dtype=object),
        "NaN": pd.Series(["a", np.nan, "b"], dtype=object),
        "booleans": pd.Series([True, None, False], dtype=object),
        "texts": pd.Categorical(["b", None, "a"], categories=["c", "b", "a"], ordered=True),
        "numbers": pd.Categorical([205, None, 101], categories=[999, 205, 101]),
        "flags": pd.Categorical([True, False, None]),
        "day": (instants(["2024-02-29", None, "1969-07-20T20:17:40.5"])),
        "ns": (instants(["2024-02-29T01:02:03.123456789", None, "1969-07-20"])),
        "s": (instants(["2024-02-29", None, "1969-07-20"])).astype("datetime64[s]"),
        "utc": (instants(["2024-02-29", None, "1969-07-20"], utc=True)),
        "zone": pd.Series(
            pd.to_datetime(["2024-10-27T00:30", None, "2024-10-27T01:30"], utc=True).tz_convert("Europe/Rome")
        ),
        "offset": (instants(["2024-10-27T00:30", None, "2024-10-27T01:30"])).dt.tz_localize("UTC-05:30"),
        7: [1.0, 2.0, 3.0],
    }
)


@pytest.mark.parametrize("count", [3, 1])
def test_a_frame_survives_its_way_through_json(count: int) -> None:
    """Every dtype, with a missing value where it can have one, comes back equal."""
    _, tensors = tensors_of(FRAME)
    inputs = described(specs_of(tensors), FRAME)
    records = [
        {tensor.name: None if is_missing(tensor.array[row]) else tensor.array[row] for tensor in tensors}
        for row in range(count)
    ]
    body = json.dumps(records, default=lambda value: value.item()).encode()
    signature = Signature("columns", inputs, (), frame=True)
    table = Model(EstimatorFunctions(None), signature).table(rows.decode(body, inputs).inputs)
    pd.testing.assert_frame_equal(Frames(inputs)(table), FRAME.head(count))


def test_the_metadata_says_dtype_missing_and_format() -> None:
    served, _ = packaged(*fitted("dates, ns, missing"))
    columns = {spec.name: spec.column for spec in served.signature.inputs}
    assert columns["day"] is not None
    assert (columns["day"].dtype, columns["day"].missing, columns["day"].format) == (
        "datetime64[ns]", True, dates.NAIVE,
    )  # fmt: skip
    assert columns["age"] is not None
    assert not columns["age"].missing


@pytest.mark.parametrize(("name", "column"), [("dates", "age"), ("dates", "visits"), ("text, str", "age")])
def test_a_missing_value_that_the_model_rejects_names_its_input(name: str, column: str) -> None:
    model, X = fitted(name)
    served, _ = packaged(model, X)
    body = json.loads(as_v2(X.head(2), served))
    next(tensor for tensor in body["inputs"] if tensor["name"] == column)["data"] = [1, None]
    with pytest.raises(RequestError, match=rf"'{column}'.*(missing|null)|(missing|null).*'{column}'"):
        served.infer(v2.decode(json.dumps(body).encode()))


def test_a_missing_value_that_the_model_accepts_is_not_blamed_for_another_error() -> None:
    X = BASE.assign(visits=pd.array(holes(BASE.visits, None), dtype="Int64"))
    model = on(("i", SimpleImputer(), ["visits"]), ("t", OneHotEncoder(), ["city"])).fit(X, LABELS)
    served, _ = packaged(model, X)
    body = rows.decode(b'{"age": 40, "city": "Paris", "visits": null, "member": true}', served.signature.inputs)
    with pytest.raises(ModelFailure, match="failed on this input"):
        served.infer(body)


def test_an_integer_may_be_missing_if_the_model_imputes_it() -> None:
    """The column of the training had no missing value; pandas would make it one of floating-point numbers."""
    X = BASE.drop(columns="city")
    model = on(("i", SimpleImputer(), ["visits"])).fit(X, LABELS)
    served, _ = packaged(model, X)
    body = rows.decode(b'[{"age": 40, "visits": null, "member": true}]', served.signature.inputs)
    expected = model.predict_proba(pd.DataFrame({"age": [40.0], "visits": [np.nan], "member": [True]}))
    (answer,) = served.predict(served.table(body.inputs), ["predict_proba"])
    np.testing.assert_allclose(answer, expected)


def test_an_unknown_category_gets_the_answer_of_the_library() -> None:
    for name in ("lightgbm within a pipeline", "histogram", "category"):
        model, X = fitted(name)
        served, _ = packaged(model, X)
        frame = X.head(3).astype({"city": object}).assign(city=["Paris", "Oslo", "Paris"])
        known = X["city"].cat.categories
        expected = model.predict_proba(frame.astype({"city": pd.CategoricalDtype([*known, "Paris"])}))
        request = rows.decode(frame.to_json(orient="records").encode(), served.signature.inputs)
        (answer,) = served.predict(served.table(request.inputs), ["predict_proba"])
        np.testing.assert_allclose(answer, expected, rtol=1e-6, err_msg=name)


def test_an_integer_beyond_its_dtype_is_refused() -> None:
    model, X = fitted("log of a small integer")
    served, _ = packaged(model, X)
    body = json.loads(as_v2(X.head(1), served))
    next(tensor for tensor in body["inputs"] if tensor["name"] == "visits").update(datatype="INT64", data=[300])
    with pytest.raises(RequestError, match=r"'visits'.*whole numbers in the range of INT8"):
        served.infer(v2.decode(json.dumps(body).encode()))


def test_requests_of_several_clients_share_a_frame() -> None:
    model, X = fitted("dates")
    served, _ = packaged(model, X)
    tables = [served.table(v2.decode(as_v2(X.iloc[[row]], served)).inputs) for row in range(9)]
    (answer,) = served.predict(np.concatenate([np.asarray(table) for table in tables]), ["predict_proba"])
    np.testing.assert_allclose(answer, model.predict_proba(X.head(9)), rtol=1e-9)


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (BASE.assign(city=pd.Series(["a", 1] * (ROWS // 2), dtype=object)), "column 'city' of X .* fit again"),
        (BASE.assign(city=[pd.Timestamp("2024-03-01").date()] * ROWS), r"pandas\.to_datetime\(X\['city'\]\)"),
        (BASE.assign(city=pd.Categorical(pd.cut(BASE.age, 3))), "column 'city' of X has categories of several types"),
    ],
)
def test_a_column_that_no_request_can_have_is_refused_with_what_to_do(X: pd.DataFrame, words: str) -> None:
    model = make_pipeline(ColumnTransformer([("n", StandardScaler(), ["age"])]), LogisticRegression()).fit(X, LABELS)
    with pytest.raises(UsageError, match=words):
        package.build(model, X, LABELS)


class Weekdays:
    """A step of the author's own, which computes with a DataFrame."""

    def fit(self, X: Any, y: Any = None) -> Weekdays:
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return X.assign(day=X["day"].dt.dayofyear)


def test_code_that_the_census_does_not_know_gets_a_frame() -> None:
    X = BASE[["age", "visits"]]
    for step, needs in ((Weekdays(), True), (FunctionTransformer(holes), True), (FunctionTransformer(np.abs), False)):
        for model in (make_pipeline(step, LogisticRegression()), ColumnTransformer([("a", step, ["age"])])):
            model.transformers_ = getattr(model, "transformers", ())
            assert (ways_of(model, X) == [Way(frame=True)]) is needs
    small = X.astype({"visits": "int8"})
    for function, needs in ((np.square, True), (np.log1p, True), (np.abs, True)):  # int8 wraps, and float16 rounds
        model = make_pipeline(FunctionTransformer(function), LogisticRegression())
        assert (ways_of(model, small) == [Way(frame=True)]) is needs
    assert ways_of(Weekdays(), X) == [Way(frame=True)]
    assert ways_of(make_pipeline(Weekdays()), X.to_numpy()) == [Way()]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_answer_that_depends_on_other_rows_is_refused(dtype: str) -> None:
    """As scikit-learn's own steps never do: a mean of the request stands for any function of a DataFrame."""

    class Mean:
        def predict(self, X: pd.DataFrame) -> Array:
            return np.asarray(X["age"] - X["age"].mean())

    X = BASE.astype({"age": dtype})
    _, tensors = tensors_of(X)
    inputs = described(specs_of(tensors), X)
    outputs = (TensorSpec("predict", "FP64", (-1,)),)
    signature = Signature("columns", inputs, outputs, frame=True)
    model = Model(EstimatorFunctions(Mean(), rows=Frames(inputs)), signature)
    with pytest.raises(UsageError, match="depends on the other rows of its request"):
        _golden(model, tensors, {"predict": Mean().predict(X)}, None)


def test_integers_beside_a_missing_one_are_those_of_pandas_or_refused() -> None:
    whole, nullable = Column("int64", missing=True), Column("Int64", missing=True)
    frames = Frames((TensorSpec("a", "INT64", (-1,), whole), TensorSpec("b", "INT64", (-1,), nullable)))
    table: Array = np.array([[2**53, 2**53 + 1], [None, None]], object)
    found = frames(table)
    assert found["a"].tolist()[0] == 2**53
    assert found["b"].tolist()[0] == 2**53 + 1
    table[0, 0] += 1
    assert frames(table[:1])["a"].tolist() == [2**53 + 1]
    with pytest.raises(RequestError, match="input 'a' has an integer beyond 2\\^53 and a missing value"):
        frames(table)


def test_extra_columns_are_ignored_if_the_package_says_so() -> None:
    model, X = fitted("dates")
    served, described = packaged(model, X, extra_columns="ignore")
    assert described.signature.ignores_others
    wide = X.assign(id=np.arange(ROWS), note="x")
    expected = model.predict(X)
    for protocol, answer in every_protocol_of_rows(served, wide).items():
        np.testing.assert_array_equal(answer, expected, err_msg=protocol)
    body = json.loads(as_v2(X, served))
    body["inputs"].append({"name": "id", "shape": [ROWS], "datatype": "INT64", "data": list(range(ROWS))})
    np.testing.assert_array_equal(served.infer(v2.decode(json.dumps(body).encode())).outputs[0].array, expected)
    with pytest.raises(UsageError, match="use 'refuse' or 'ignore'"):
        package.build(model, X, LABELS, extra_columns="drop")  # type: ignore[arg-type]


def every_protocol_of_rows(model: Model, X: pd.DataFrame) -> dict[str, Array]:
    specs = rows.specs_of(model.signature)
    text = X.to_json(orient="records", date_format="iso")
    requests = {
        "rows": rows.decode(text.encode(), specs),
        "csv": invocations.decode(X.to_csv(index=False).encode(), b"text/csv", specs),
    }
    return {name: model.infer(request).outputs[0].array for name, request in requests.items()}


def test_models_on_integers_are_packaged() -> None:
    X = RANDOM.integers(0, 50, (200, 3))
    y = (X.sum(axis=1) > 75).astype(int)
    models: list[tuple[Any, Array]] = [
        (BayesianGaussianMixture(n_components=2, random_state=0).fit(X), X),
        (NearestCentroid().fit(X, y), X),
        (IsotonicRegression().fit(X[:, 0], y), X[:, 0]),
        (xgboost.XGBRegressor(**BOOSTER, objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]).fit(X, y), X),
    ]
    for model, rows_of_x in models:
        served, _ = packaged_array(model, rows_of_x, y)
        table = rows_of_x.reshape(200, -1)
        name = served.signature.inputs[0].name
        body = {"inputs": [{"name": name, "shape": table.shape, "datatype": "INT64", "data": table.ravel().tolist()}]}
        answer = served.infer(v2.decode(json.dumps(body).encode())).outputs[0].array
        np.testing.assert_allclose(answer, model.predict(rows_of_x), rtol=1e-6, err_msg=str(model))


def packaged_array(model: Any, X: Array, y: Array) -> tuple[Model, Manifest]:
    loaded = load(Memory(package.build(model, X, y, compile=False)))
    assert loaded.manifest is not None
    return model_of(loaded.opened, loaded.manifest), loaded.manifest
