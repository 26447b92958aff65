"""Train the rows of the census."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from hack.census.tables import FRAMES, NUMERIC, SEED, TABLES, TRAINED, Array, Data, is_text, table_of
from mlmodel_server.registry.rows import ROWS, New, Row

BY_NAME = {row.name: row for row in ROWS}

ALONE = ("float64", "single", "counts", "missing", "named", "booleans")
"""Kinds of tables for what is served alone: the others are tried with it as a step of a pipeline."""

DOCUMENTS = (("documents",), ("dictionaries",))


@dataclass(frozen=True)
class Trained:
    """A fitted model with the table it was fitted on. ``native``: it was fitted on the table as it is, and else in a
    pipeline after what prepares the table."""

    row: Row
    data: Data
    model: Any
    native: bool


class Inapplicable(Exception):
    """The library itself cannot train this class on this table."""


def made(value: Any) -> Any:
    """Return ``value`` with every :class:`New` in it replaced by the object."""
    if isinstance(value, New):
        module, _, name = value.path.rpartition(".")
        return getattr(importlib.import_module(module), name)(**{key: made(v) for key, v in value.arguments.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(made(inner) for inner in value)
    return value


def kinds_of(row: Row) -> tuple[str, ...]:
    """Return the kinds of tables that a row can be trained on."""
    if row.role == "other":
        return ()
    if row.accepts in DOCUMENTS:
        return row.accepts
    if row.role == "alone":
        return tuple(kind for kind in ALONE if on_plain_table(row, kind))
    if row.rounds or row.library != "sklearn":
        native = [kind for kind in TABLES if on_plain_table(row, kind)]
        return tuple(native) if row.rounds or row.fit or row.target == "grades" else TABLES
    return ("texts",) if "texts" in row.accepts else TABLES


def _after(row: Row) -> list[Any]:
    """Return the steps after one that transforms: a classifier, and what it needs."""
    imputer = ["sklearn.impute.SimpleImputer"] if row.name == "FunctionTransformer" else []
    steps = [*imputer, "sklearn.preprocessing.MaxAbsScaler", "sklearn.linear_model.LogisticRegression"]
    return [made(New(path)) for path in steps]


def on_plain_table(row: Row, kind: str) -> bool:
    """Whether a row can be trained on a kind of table as it is, without steps that prepare it."""
    if row.columns and kind in ("texts", "categories", "mixed"):
        return False
    if kind in NUMERIC:
        return not row.above_zero or kind in ("counts", "booleans")
    return kind in row.accepts


@cache
def trained(name: str, kind: str) -> Trained:
    """Return the fitted model of a row and a kind of table; raise :class:`Inapplicable`."""
    row = BY_NAME[name]
    native = on_plain_table(row, kind)
    data = table_of(kind, row.columns if native else 0)
    target = _target(row, data)
    try:
        if row.rounds:
            return Trained(row, data, _booster(row, data, target), True)
        model = made(New(row.path, row.arguments))
        if row.path.endswith("FrozenEstimator"):
            model.estimator.fit(_prepared(row, data, native), target)
        if row.role == "step":
            model = _pipeline([model, *_after(row)])
        if "texts" in row.accepts:
            model = _of_text(model)
        elif not native:
            model = _pipeline([_preparation(row, data), model])
        model.fit(data.trained, *_fit_target(target), **_fit(row, data, target))
        methods = ("predict", "transform", "score_samples", "kneighbors")
        next(getattr(model, name) for name in methods if hasattr(model, name))(data.asked)  # it may raise there
        return Trained(row, data, model, native)
    except Inapplicable:
        raise
    except Exception as error:  # anything that the library raises: it cannot be trained on this table
        raise Inapplicable(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error


def _prepared(row: Row, data: Data, native: bool) -> Any:
    return data.trained if native else _preparation(row, data).fit_transform(data.trained)


def _fit_target(target: Array | None) -> tuple[Array, ...]:
    return () if target is None else (target,)


def _fit(row: Row, data: Data, target: Array | None) -> dict[str, Any]:
    fit = dict(row.fit)
    if fit.pop("eval_set", False):
        fit["eval_set"] = [(data.trained, target)]
    if row.target == "grades":
        groups = np.repeat(np.arange(TRAINED // 10), 10)
        return fit | ({"qid": groups} if row.library == "xgboost" else {"group": np.full(TRAINED // 10, 10)})
    return fit


def _pipeline(steps: list[Any]) -> Any:
    from sklearn.pipeline import make_pipeline

    return make_pipeline(*steps)


def _of_text(vectorizer: Any) -> Any:
    """Return a pipeline in which the vectorizer gets one column of texts: a vectorizer takes no table."""
    from sklearn.compose import ColumnTransformer

    step, *rest = [step for _, step in vectorizer.steps]
    return _pipeline([ColumnTransformer([("city", step, "city")]), *rest])


def _preparation(row: Row, data: Data) -> Any:
    """Return what people put before an estimator that takes only finite numbers."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

    steps: list[Any] = []
    if data.kind in FRAMES and data.kind in ("texts", "categories", "mixed"):
        table = data.trained
        coded = [n for n in table.columns if is_text(table[n].dtype) or isinstance(table[n].dtype, pd.CategoricalDtype)]
        floats = [name for name in table.columns if table[name].dtype == np.float64]
        parts = [("coded", OneHotEncoder(sparse_output=False, handle_unknown="ignore"), coded)]
        if floats:
            parts.append(("floats", SimpleImputer(), floats))
        steps = [ColumnTransformer(parts, remainder="passthrough")]
    elif data.kind == "missing":
        steps = [SimpleImputer()]
    if row.above_zero:
        steps.append(MinMaxScaler(clip=True))
    if row.columns:
        from sklearn.feature_selection import SelectKBest

        steps.append(SelectKBest(k=row.columns))
    return _pipeline(steps)


def _target(row: Row, data: Data) -> Array | None:
    random, hidden = np.random.default_rng(SEED), data.hidden[:TRAINED]
    hidden = hidden + random.normal(size=TRAINED) * hidden.std() / 10
    scaled = (hidden - hidden.mean()) / (hidden.std() or 1.0)
    upper = scaled > np.median(scaled)
    classes = np.digitize(scaled, np.quantile(scaled, [0.33, 0.66]))
    other = scaled**2 - 0.5 * scaled + random.normal(size=TRAINED) / 5
    targets: dict[str, Array | None] = {
        "nothing": None,
        "texts": np.where(upper, "yes", "no"),
        "two": upper.astype(int),
        "classes": classes,
        "number": scaled * 2 + 1,
        "positive": np.exp(scaled / 2),
        "unit": 1 / (1 + np.exp(-scaled)),
        "numbers": np.column_stack([scaled, other]),
        "several": np.column_stack([upper, other > np.median(other)]).astype(int),
        "sparse": np.where(random.random(TRAINED) < 0.4, classes, -1),
        "grades": np.digitize(scaled, np.quantile(scaled, [0.3, 0.6, 0.9])),
    }
    return targets[row.target]


def _booster(row: Row, data: Data, target: Array | None) -> Any:
    return (_lightgbm if row.library == "lightgbm" else _xgboost)(row.arguments, row, data, target)


def _lightgbm(parameters: Mapping[str, Any], row: Row, data: Data, target: Array | None) -> Any:
    import lightgbm

    group = np.full(TRAINED // 10, 10) if row.target == "grades" else None
    dataset = lightgbm.Dataset(data.trained, target, group=group, params={"verbose": -1})
    if not row.fit:
        return lightgbm.train(dict(parameters), dataset, row.rounds)
    stop = lightgbm.early_stopping(row.fit["early_stopping_rounds"], verbose=False)
    return lightgbm.train(
        dict(parameters), dataset, row.rounds, valid_sets=[_stale(data, target, dataset)], callbacks=[stop]
    )


def _stale(data: Data, target: Array | None, reference: Any) -> Any:
    """Return rows with targets in another order, on which training soon stops to improve."""
    import lightgbm

    assert target is not None
    return lightgbm.Dataset(data.trained, np.roll(target, 3), reference=reference, params={"verbose": -1})


def _xgboost(parameters: Mapping[str, Any], row: Row, data: Data, target: Array | None) -> Any:
    import xgboost

    xgboost.set_config(verbosity=0)
    qid = np.repeat(np.arange(TRAINED // 10), 10) if row.target == "grades" else None
    matrix = xgboost.DMatrix(data.trained, target, qid=qid, enable_categorical=True, nthread=1)
    if not row.fit:
        return xgboost.train(dict(parameters), matrix, row.rounds)
    assert target is not None
    other = xgboost.DMatrix(data.trained, np.roll(target, 3), enable_categorical=True, nthread=1)
    return xgboost.train(
        dict(parameters), matrix, row.rounds, evals=[(other, "other")], verbose_eval=False, **dict(row.fit)
    )
