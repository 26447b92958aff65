"""Models that get a DataFrame are compiled where that is equal, and the DataFrame answers what their compiled form does
not: the same answers and the same errors as without a compiled form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlmodel_server import package
from mlmodel_server.compile.functions import Routed
from mlmodel_server.compile.plain import Plain, plain
from mlmodel_server.engine.model import Model
from mlmodel_server.errors import MLModelError
from mlmodel_server.loading import own_code
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import MANIFEST, parse
from mlmodel_server.package import fresh
from mlmodel_server.protocol import rows
from mlmodel_server.startup.choose import PLATFORM, choose
from mlmodel_server.tensors import Array, Column, TensorSpec
from tests.unit.server.models import SEED
from tests.unit.server.own_modules import forgotten, imported

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("compiled_is_faster")]

ROWS, USUAL = 240, 12
RANDOM = np.random.default_rng(SEED)
DAYS = pd.Series(pd.Timestamp("2026-01-01T06:30:00") + pd.to_timedelta(RANDOM.integers(0, 9, ROWS), "D"))
TABLE = pd.DataFrame(
    {
        "fee": pd.Series(RANDOM.normal(30, 9, ROWS)).mask(RANDOM.random(ROWS) < 0.1),
        "calls": pd.Series(RANDOM.integers(0, 5, ROWS), dtype="Int64").mask(RANDOM.random(ROWS) < 0.1),
        "member": RANDOM.random(ROWS) > 0.5,
        "visits": RANDOM.integers(0, 9, ROWS),
        "plan": pd.Series(RANDOM.choice(["basic", "family", "premium"], ROWS)).mask(RANDOM.random(ROWS) < 0.1),
        "level": pd.Categorical(RANDOM.choice(["low", "high"], ROWS), categories=["low", "high"]),
        "signed_up": DAYS,
        "last_login": DAYS + pd.to_timedelta(RANDOM.integers(0, 900, ROWS), "s"),
    }
)
LABELS = np.where((TABLE.visits > 4) ^ (TABLE.signed_up.dt.day > 5) ^ TABLE.member, "yes", "no")

NUMBERS = ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["fee", "calls", "member"])
LEARNT = OneHotEncoder(handle_unknown="ignore")
TEXTS = ("texts", make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), LEARNT), ["plan"])
DATES = ("dates", StandardScaler(), ["signed_up", "last_login"])


def on(*parts: tuple[str, Any, Any], then: Any = None) -> Any:
    return make_pipeline(ColumnTransformer(list(parts)), *(then or [LogisticRegression(max_iter=2000)]))


TREES = [SelectKBest(f_classif, k=3), HistGradientBoostingClassifier(max_iter=5, random_state=SEED)]
COMPILED: dict[str, Any] = {
    "dates as numbers, trees": on(NUMBERS, DATES, then=TREES),
    "dates as ordinals": on(NUMBERS, ("day", OrdinalEncoder(), ["signed_up"])),
    "dates as indicators, unknown ones ignored": on(NUMBERS, ("day", LEARNT, ["signed_up", "plan"])),
    "dates, a category and a function": on(
        ("level", OneHotEncoder(), ["level"]),
        ("log", make_pipeline(SimpleImputer(), FunctionTransformer(np.log1p)), ["fee"]),
        ("root", FunctionTransformer(np.sqrt), ["visits"]),
        DATES,
    ),
    "dates as numbers, columns in another order": on(DATES, TEXTS, NUMBERS),
}


@cache
def build(name: str) -> dict[str, bytes]:
    X = TABLE[TABLE.columns[::-1]] if "another order" in name else TABLE
    model = COMPILED[name].fit(TABLE, LABELS)
    return package.build(model, X, LABELS)


def served(files: dict[str, bytes], compile: str) -> Model:
    chosen = choose(load(Memory(files)), compile)
    assert (chosen.platform == PLATFORM) is (compile == "auto"), chosen.verdict
    return chosen.model


def asked() -> list[dict[str, Any]]:
    """Return rows of training, and rows that a model rejects, does not know, or has not seen."""
    records: list[dict[str, Any]] = json.loads(TABLE.iloc[:USUAL].to_json(orient="records", date_format="iso"))
    complete = next(record for record in records if None not in record.values())
    values: dict[str, list[Any]] = {
        "signed_up": ["2026-01-01", "1999-12-31T23:59:59.999999", "0001-01-01", "9999-12-31T23:59:59", "now", None],
        "last_login": ["2026-01-01 06:30:00.000001", "2026-01-01T06:30:00Z", "2026-02-30", None],
        "fee": [None, 1e30, 1e39, -3.5],
        "calls": [None, 2**53 + 1, -(2**53), 0],
        "member": [None, 0, 1],
        "visits": [0, -1, 2**53 + 1, 2**62],
        "plan": [None, "", "BASIC", "basic\x00", "\x1f?", "\x1f-", "\x1f-sent"],
        "level": ["middle", "", None],
    }
    return records + [{**complete, name: value} for name, listed in values.items() for value in listed]


def outcome(model: Model, *records: dict[str, Any]) -> list[Any] | str:
    try:
        request = rows.decode(json.dumps(records).encode(), rows.specs_of(model.signature))
        return model.predict(model.table(request.inputs), ("predict", "predict_proba"))
    except MLModelError as error:
        return f"{type(error).__name__}: {error}"


def assert_same(got: list[Any] | str, expected: list[Any] | str) -> None:
    if isinstance(got, str) or isinstance(expected, str):
        assert got == expected
        return
    assert got[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", COMPILED)
def test_the_compiled_form_answers_as_the_dataframe(name: str) -> None:
    files = build(name)
    compiled, original = served(files, "auto"), served(files, "off")
    for record in asked():
        assert_same(outcome(compiled, record), outcome(original, record))
    assert_same(outcome(compiled, *asked()[:USUAL]), outcome(original, *asked()[:USUAL]))


def test_a_compiled_form_is_beside_its_artefact() -> None:
    described = parse(build("dates as ordinals")[MANIFEST])
    assert described.signature.frame
    assert described.compiled is not None
    assert described.compiled.file
    assert not described.compiled.decisive


def test_most_rows_are_answered_without_the_dataframe(monkeypatch: pytest.MonkeyPatch) -> None:
    model = served(build("dates as ordinals"), "auto")
    routed = model._functions
    assert isinstance(routed, Routed)

    def no_frame(*_: Any) -> list[Array]:
        raise AssertionError

    monkeypatch.setattr(routed, "_original", no_frame)
    assert all(not isinstance(outcome(model, record), str) for record in asked()[:USUAL])


def test_dates_that_float64_cannot_hold_are_not_taken_for_each_other() -> None:
    """In nanoseconds, neighbouring floating-point numbers of our years are 256 apart."""
    day = pd.Timestamp("2026-01-01").as_unit("ns")
    X = pd.DataFrame({"day": pd.Series([day, day + pd.Timedelta(1, "D")] * 30), "n": np.arange(60.0)})
    model = on(("day", LEARNT, ["day"]), ("n", "passthrough", ["n"]), then=[DecisionTreeClassifier(max_depth=1)]).fit(
        X, (X.day == day).astype(int)
    )
    files = package.build(model, X, (X.day == day).astype(int))
    compiled = served(files, "auto")
    for text in ("2026-01-01", "2026-01-01T00:00:00.000000100", "2026-01-01T00:00:00.000000001"):
        row = pd.DataFrame({"day": pd.to_datetime([text]).as_unit("ns"), "n": [0.5]})
        got = outcome(compiled, {"day": text, "n": 0.5})
        assert not isinstance(got, str)
        assert got[0].tolist() == model.predict(row).tolist()


REFUSED: dict[str, tuple[Any, pd.DataFrame, str]] = {
    "single precision": (
        on(NUMBERS, DATES),
        TABLE.assign(fee=TABLE.fee.astype("float32")),
        "a column of the dtype float32",
    ),
    "time zone": (
        on(NUMBERS, DATES),
        TABLE.assign(updated=DAYS.dt.tz_localize("Europe/Rome")),
        "a column of the dtype datetime64",
    ),
    "small integers in a function": (
        on(DATES, ("root", FunctionTransformer(np.sqrt), ["visits"])),
        TABLE.assign(visits=TABLE.visits.astype("int8")),
        "FunctionTransformer with code that is not known is not converted",
    ),
    "a category as a number": (
        on(DATES, ("n", "passthrough", ["fee", "level"]), then=[SimpleImputer(), LogisticRegression()]),
        TABLE.assign(fee=TABLE.fee.fillna(0), level=pd.Categorical(np.arange(ROWS) % 3)),
        "a column of dates or categories in a step for numbers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_proven_equal_keeps_the_dataframe(name: str) -> None:
    model, X, reason = REFUSED[name]
    compiled = parse(package.build(model.fit(X, LABELS), X, LABELS)[MANIFEST]).compiled
    assert compiled is not None
    assert not compiled.file
    assert compiled.reason.startswith(reason)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_every_number_has_a_date_and_comes_back(unit: str) -> None:
    """What the compiler compares are the same dates on both sides."""
    made = Plain([TensorSpec("day", "BYTES", (-1,), Column(f"datetime64[{unit}]")), TensorSpec("n", "FP64", (-1,))])
    numbers = np.array([0.4, -0.6, 1e9, 1.7e15, 1.7e18, 1e30, -1e30, np.inf, -np.inf, np.nan, -(2.0**63)])
    table = np.column_stack([numbers, np.zeros(len(numbers))]).astype(object)
    rounded = made.rounded(table)
    np.testing.assert_array_equal(made(made.back(table)).astype(float), rounded.astype(float))
    assert rounded[:2, 0].tolist() == [0.0, -1.0]


def test_dates_are_numbers_of_the_compiled_form() -> None:
    signature = parse(build("dates as ordinals")[MANIFEST]).signature
    sent = {spec.name: spec.datatype for spec in signature.inputs}
    computed = {spec.name: spec.datatype for spec in plain(signature).inputs}
    assert (sent["last_login"], computed["last_login"]) == ("BYTES", "INT64")
    assert {name: computed[name] for name in ("fee", "calls", "member", "plan", "level")} == {
        name: sent[name] for name in ("fee", "calls", "member", "plan", "level")
    }


@pytest.fixture
def _no_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fresh, "check", lambda _files: None)  # a process of 2 s, which test_own_code.py tests
    yield
    own_code._FINDER.replace({})


OWN = """
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

def parts(days):
    day = days["signed_up"]
    return np.column_stack([day.dt.dayofweek, day.dt.month, (day - np.datetime64("2026-01-01")).dt.days])

def month_of(day):
    return day.dt.month.to_frame()

def doubled(numbers):
    return 2 * numbers if isinstance(numbers, np.ndarray) else 3 * numbers

def text_of(days):
    return days.astype(str)

class Age(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.last_ = X.max()
        return self

    def transform(self, X):
        return (self.last_ - X).apply(lambda column: column.dt.days)
"""


def own_steps(module: Any) -> dict[str, tuple[Any, str]]:
    """Return models with the author's own steps, and why they are not compiled; "" if they are."""
    scaled = make_pipeline(FunctionTransformer(module.parts), StandardScaler())
    texts = make_pipeline(FunctionTransformer(module.text_of), OneHotEncoder(handle_unknown="ignore"))
    behind = make_pipeline(
        StandardScaler(), FunctionTransformer(module.text_of), OneHotEncoder(handle_unknown="ignore")
    )
    selected = make_pipeline(VarianceThreshold(), FunctionTransformer(module.doubled))
    return {
        "function": (on(NUMBERS, TEXTS, ("day", scaled, ["signed_up"])), ""),
        "class": (on(NUMBERS, ("age", module.Age(), ["signed_up", "last_login"]), then=TREES), ""),
        "of a Series": (on(NUMBERS, ("day", FunctionTransformer(module.month_of), "signed_up")), "FunctionTransformer"),
        "returns texts": (on(NUMBERS, ("day", texts, ["signed_up"])), "FunctionTransformer with code"),
        "behind a selector": (on(NUMBERS, ("fee", selected, ["fee", "visits"])), "FunctionTransformer with code"),
        "behind another step": (on(NUMBERS, ("day", behind, ["fee"])), "a function of the user"),
    }


@pytest.mark.usefixtures("_no_modules")
@pytest.mark.parametrize(
    "name", ["function", "class", "of a Series", "returns texts", "behind a selector", "behind another step"]
)
def test_own_steps_are_called_beside_the_compiled_rest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported(tmp_path, monkeypatch, "ownsteps", OWN)
    model, reason = own_steps(module)[name]
    X = TABLE.assign(fee=TABLE.fee.fillna(0))
    files = package.build(model.fit(X, LABELS), X, LABELS, code=[module])
    described = parse(files[MANIFEST]).compiled
    assert described is not None
    assert described.reason.startswith(reason or "faster")
    forgotten(monkeypatch, "ownsteps")
    compiled, original = (
        choose(load(Memory(files), trust="unsafe", allow_unsafe=True), compile) for compile in ("auto", "off")
    )
    assert (compiled.platform == PLATFORM) is (not reason)
    assert not compiled.model.can_join
    for record in asked() if not reason else asked()[:1]:  # what is not compiled is the same model twice
        assert_same(outcome(compiled.model, record), outcome(original.model, record))
