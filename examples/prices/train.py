"""Train a model that estimates the price of a flat with an interval, and save two versions of it as model packages.

    python examples/prices/train.py        # prints the scores, writes out/prices/v1 and out/prices/v2

One model returns three numbers for each flat: low, estimate, high. Half of such flats sell for less than the estimate,
and nine of ten between low and high.
"""

from __future__ import annotations

import io
import timeit
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectKBest, f_regression
from sklearn.metrics import mean_absolute_error, mean_pinball_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from xgboost import XGBRegressor

from mlmodel_server import package

SEED = 42
QUANTILES = [0.03, 0.5, 0.97]  # 94 % of the training rows lie between the outer two, and so about 90 % of new flats
CAREFUL = {"estimate__learning_rate": 0.2, "estimate__min_child_weight": 20}  # no leaf for a handful of flats
NUMBERS = ["area", "rooms", "year", "floor", "km_to_centre", "noise_db"]


def flats(count: int) -> pd.DataFrame:
    """Make up flats that were sold. The price is less certain the larger and older the flat is."""
    random = np.random.default_rng(SEED)
    table = pd.DataFrame(
        {
            "area": random.gamma(9, 9, count).clip(18, 240).round(1),
            "year": random.integers(1890, 2025, count),
            "floor": random.integers(0, 12, count),
            "km_to_centre": random.gamma(2, 3, count).round(1),
            "noise_db": random.normal(55, 6, count).round(1),
            "district": random.choice(["harbour", "north", "old town", "university"], count),
        }
    )
    table["rooms"] = (table["area"] / 27 + random.normal(0, 0.5, count)).round().clip(1, 8).astype(int)
    per_metre = 5200 / (1 + table["km_to_centre"] / 12) * (1 + (table["year"] - 1960) / 500)
    per_metre *= table["district"].map({"harbour": 1.15, "north": 0.85, "old town": 1.3, "university": 1.0})
    spread = 0.03 + table["area"] / 2500 + (2025 - table["year"]) / 2500
    table["price"] = (table["area"] * per_metre * (1 + spread * random.standard_normal(count))).round(-2)
    return table


def pipeline(**settings: Any) -> Pipeline:
    """Scale the numbers, encode the text, select the most informative columns, and estimate three quantiles."""
    prepare = ColumnTransformer(
        [("scale", StandardScaler(), NUMBERS), ("encode", OneHotEncoder(handle_unknown="ignore"), ["district"])]
    )
    model = XGBRegressor(objective="reg:quantileerror", quantile_alpha=QUANTILES, random_state=SEED, n_jobs=1)
    steps = [("prepare", prepare), ("select", SelectKBest(f_regression, k="all")), ("estimate", model)]
    return Pipeline(steps).set_params(**settings)


def pinball(model: Pipeline, X: pd.DataFrame, y: pd.Series) -> float:
    """Return the score that tuning maximises: the negative pinball loss, the usual loss of a quantile, of all three."""
    predicted = model.predict(X)
    return -float(np.mean([mean_pinball_loss(y, predicted[:, i], alpha=q) for i, q in enumerate(QUANTILES)]))


def tune(X: pd.DataFrame, y: pd.Series) -> GridSearchCV:
    """Compare settings by cross-validation on the training rows only."""
    grid = {"select__k": [6, "all"], "estimate__max_depth": [2, 3], "estimate__n_estimators": [50, 100, 200]}
    return GridSearchCV(pipeline(**CAREFUL), grid, scoring=pinball, cv=3).fit(X, y)


def compress(search: GridSearchCV) -> dict[str, Any]:
    """Return the settings with the fewest trees whose score is within 2 % of the best."""
    results = search.cv_results_
    good = [i for i, score in enumerate(results["mean_test_score"]) if score >= 1.02 * search.best_score_]
    smallest: dict[str, Any] = min(
        (results["params"][i] for i in good), key=lambda params: params["estimate__n_estimators"]
    )
    return smallest


def report(name: str, model: Pipeline, X: pd.DataFrame, y: pd.Series) -> None:
    """Print how good the estimates and the intervals are on held-out flats."""
    low, estimate, high = model.predict(X).T
    error, coverage, width = mean_absolute_error(y, estimate), np.mean((low <= y) & (y <= high)), np.mean(high - low)
    print(f"{name}: MAE {error:,.0f}, coverage of the interval {coverage:.3f}, its mean width {width:,.0f}")


def size_and_time(name: str, model: Pipeline, X: pd.DataFrame) -> None:
    """Print the size of the model as a file, and the time that scikit-learn takes for one row."""
    file = io.BytesIO()
    joblib.dump(model, file)
    seconds = min(timeit.repeat(lambda: model.predict(X[:1]), number=1, repeat=20))
    print(f"{name}: {len(file.getvalue()) / 1000:,.0f} kB, {1e6 * seconds:,.0f} µs a row in scikit-learn")


def main() -> None:
    table = flats(4000)
    X, y = table.drop(columns="price"), table["price"]
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=SEED)
    print(f"{len(table)} flats, {len(X_test)} held out; seed {SEED}")

    first = pipeline(estimate__n_estimators=15, estimate__max_depth=2).fit(X_train, y_train)
    search = tune(X_train, y_train)
    settings = compress(search)
    second = pipeline(**CAREFUL, **settings).fit(X_train, y_train)
    print(f"best of {len(search.cv_results_['params'])} settings: {search.best_params_}; compressed to {settings}")

    size_and_time("before", search.best_estimator_, X_test)
    size_and_time("after", second, X_test)

    for version, model in {"v1": first, "v2": second}.items():
        report(version, model, X_test, y_test)
        package.save(model, X_test, y_test, f"out/prices/{version}", version=version)
    print("saved out/prices/v1 and out/prices/v2; next: mlmodel inspect out/prices/v2")


if __name__ == "__main__":
    main()
