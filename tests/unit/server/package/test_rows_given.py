"""The rows that ``package.save`` gets: they have the names and types of the training, or it says what to pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
    TargetEncoder,
)
from xgboost import XGBClassifier

from mlmodel_server import manifest, package
from mlmodel_server.cli import main
from mlmodel_server.errors import RefusedModel, UsageError
from mlmodel_server.formats import learnt, sklearn
from mlmodel_server.loading.trust import open_artefact
from mlmodel_server.manifest import MANIFEST
from tests.unit.server.models import SEED, iris, joblib_bytes, mixed

pytestmark = pytest.mark.models

RANDOM = np.random.default_rng(SEED)
NUMBERS = pd.DataFrame({"age": RANDOM.integers(18, 80, 60), "fee": RANDOM.normal(50, 9, 60).round(2)})
LABELS = (NUMBERS["age"] > 50).astype(int)
DAYS = pd.DataFrame({"since": pd.date_range("2020-01-01", periods=60, freq="D"), "age": NUMBERS["age"]})
QUICK: dict[str, Any] = {"n_estimators": 3, "random_state": SEED}

FITTED = {
    "estimator": RandomForestClassifier(**QUICK),
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
    "columns": ColumnTransformer([("age", StandardScaler(), ["age"])], remainder="passthrough"),
    "search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2),
    "lightgbm": LGBMClassifier(verbose=-1, **QUICK),
    "xgboost": XGBClassifier(**QUICK),
    "lightgbm in a pipeline": make_pipeline(LGBMClassifier(verbose=-1, **QUICK)),
}


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize(
    "given", [lambda X: X.to_numpy(), lambda X: X[["fee", "age"]].to_numpy(), lambda X: X.values.tolist()]
)
def test_rows_without_names_are_refused_for_a_model_that_knows_its_columns_by_name(name: str, given: Any) -> None:
    model = FITTED[name].fit(NUMBERS, LABELS)
    with pytest.raises(UsageError, match=r"knows its columns by name \(age, fee\): pass a DataFrame"):
        package.build(model, given(NUMBERS), None, compile=False)
    described = manifest.parse(package.build(model, NUMBERS, None, compile=False)[MANIFEST])
    assert [spec.name for spec in described.signature.inputs] == ["age", "fee"]


@pytest.mark.parametrize("name", ["lightgbm", "lightgbm in a pipeline", "xgboost", "estimator"])
def test_a_model_that_was_fitted_on_an_array_gets_one(name: str) -> None:
    X = NUMBERS.to_numpy()
    described = manifest.parse(package.build(FITTED[name].fit(X, LABELS), X, None, compile=False)[MANIFEST])
    assert [spec.shape for spec in described.signature.inputs] == [(-1, 2)]


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_a_booster_names_the_column_that_is_missing_and_a_similar_one(library: str) -> None:
    model = FITTED[library].fit(NUMBERS, LABELS)
    booster = model.booster_ if library == "lightgbm" else model.get_booster()
    X = NUMBERS.rename(columns={"age": "Age"})
    with pytest.raises(UsageError, match=r"lacks the column 'age' \(did you mean 'Age'\?\)|feature_names mismatch"):
        package.build(booster, X, None, compile=False)


ENCODERS = (OneHotEncoder(handle_unknown="ignore"), TargetEncoder(),
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1))  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_dates_that_an_encoder_knows_are_not_taken_for_text_or_numbers(encoder: Any, unit: str) -> None:
    X = DAYS.astype({"since": f"datetime64[{unit}]"})
    columns = ColumnTransformer([("since", encoder, ["since"])], remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(X, LABELS)
    with pytest.raises(RefusedModel, match=r"was fitted on dates \('since'\).*--dates"):
        sklearn.opened(open_artefact(joblib_bytes(model), "model.joblib"), "joblib")
    for wrong in (X.astype({"since": str}), X.astype({"since": "int64"})):
        with pytest.raises(UsageError, match=r"'since' of X has the dtype .* fitted on dates: convert it"):
            package.build(model, wrong, None, compile=False)
    described = manifest.parse(package.build(model, X, None, compile=False)[MANIFEST])
    assert described.signature.inputs[0].column is not None
    assert described.signature.inputs[0].column.dtype == f"datetime64[{unit}]"


@pytest.mark.parametrize("model", [StandardScaler(), OneHotEncoder(), HistGradientBoostingClassifier(max_iter=2)])
def test_an_array_of_dates_is_refused_because_it_does_not_describe_them(model: Any) -> None:
    X = DAYS[["since"]].to_numpy()
    with pytest.raises(UsageError, match="X has dates, and an array does not say of which type: fit the model on a D"):
        package.build(model.fit(X, LABELS), X, None, compile=False)


def test_a_column_of_booleans_beside_texts_is_one_of_booleans() -> None:
    X = np.empty((60, 2), object)
    X[:, 0], X[:, 1] = RANDOM.choice(["a", "b"], 60), (NUMBERS["age"] > 50).tolist()
    described = manifest.parse(package.build(OneHotEncoder().fit(X), X, None, compile=False)[MANIFEST])
    assert [spec.datatype for spec in described.signature.inputs] == ["BYTES", "BOOL"]
    X[0, 0] = 4
    with pytest.raises(UsageError, match="column-0 of X has values that are neither all text nor all numbers"):
        package.build(OneHotEncoder().fit(X.astype(str)), X, None, compile=False)


def test_frames_of_the_usual_models_are_not_refused() -> None:
    for model, X, y in (iris(), mixed()):
        package.build(model, X, y, compile=False)


@pytest.mark.parametrize("unit", ["ns", "us"])
def test_a_file_whose_scalers_saw_dates_says_that_it_takes_numbers(
    unit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    X = DAYS.astype({"since": f"datetime64[{unit}]"})
    columns = ColumnTransformer([("age", StandardScaler(), ["age"]), ("since", MaxAbsScaler(), ["since"])])
    model = make_pipeline(columns, LogisticRegression()).fit(X, LABELS)
    assert sklearn.opened(open_artefact(joblib_bytes(model), "model.joblib"), "joblib").like_dates == ("since",)
    (tmp_path / "m.joblib").write_bytes(joblib_bytes(model))
    assert main(["inspect", str(tmp_path / "m.joblib")]) == 0
    assert re.search("^since: .* may be dates: .*--dates COLUMN", capsys.readouterr().out, re.MULTILINE)
    package.save(model, X, None, tmp_path / "out", compile=False)
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "may be dates" not in capsys.readouterr().out


def test_columns_of_usual_numbers_do_not_look_like_dates() -> None:
    for model in (FITTED["columns"], FITTED["pipeline"]):
        assert sklearn.opened(model.fit(NUMBERS, LABELS), "joblib").like_dates == ()


UNITS = ("s", "ms", "us", "ns")


@pytest.mark.parametrize("zone", ["", ", Europe/Rome"])
@pytest.mark.parametrize("fitted", UNITS)
@pytest.mark.parametrize("step", [StandardScaler(), make_pipeline(SimpleImputer(), MaxAbsScaler())])
def test_dates_have_the_unit_of_the_training_because_scalers_compute_with_their_numbers(
    fitted: str, step: Any, zone: str
) -> None:
    days = DAYS.assign(since=DAYS["since"].dt.tz_localize("UTC").dt.tz_convert("Europe/Rome")) if zone else DAYS
    columns = ColumnTransformer([("since", step, ["since"])], remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression())
    model.fit(days.astype({"since": f"datetime64[{fitted}{zone}]"}), LABELS)
    for given in UNITS:
        X = days.astype({"since": f"datetime64[{given}{zone}]"})
        if given == fitted:
            package.build(model, X, None, compile=False)
            continue
        with pytest.raises(UsageError, match=rf"as_unit\('{fitted}'\).* 'since=datetime64\[{fitted}{zone}\]'"):
            package.build(model, X, None, compile=False)


def test_numbers_that_a_function_made_of_dates_have_no_unit() -> None:
    """Seconds since 1970 are as great as dates of another unit."""
    seconds = FunctionTransformer(np.abs).fit(DAYS[["age"]] * 1.6e9 / 50)
    model = make_pipeline(seconds, StandardScaler()).fit(DAYS[["age"]] * 1.6e9 / 50)
    assert learnt.locations(model, 1) == {}
    old = DAYS.assign(since=pd.Timestamp("1970-03-01") + pd.to_timedelta(range(60), "h"))
    package.build(ColumnTransformer([("since", StandardScaler(), ["since"])]).fit(old), old, None, compile=False)
