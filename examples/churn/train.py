"""Train a model that finds customers who are about to leave (churn), and save two versions of it as model packages.

    python examples/churn/train.py        # prints the scores, writes out/churn/v1 and out/churn/v2

The table is as tables are: numbers, texts, yes and no, dates, missing values, and few customers who leave.
"""

from __future__ import annotations

import io
import timeit
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, classification_report, make_scorer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlmodel_server import package

SEED = 42
NUMBERS = ["monthly_fee", "calls_to_support", "paperless"]
DATES = ["signed_up", "last_login"]
TEXTS = ["plan", "payment", "region"]


def customers(count: int) -> pd.DataFrame:
    """Make up customers at the end of June 2026, and whether they left in July."""
    random = np.random.default_rng(SEED)
    today = pd.Timestamp("2026-06-30")
    days = random.gamma(2, 500, count).clip(5, 4000)
    absent = np.minimum(random.exponential(20, count), days)
    plan = random.choice(["basic", "family", "premium"], count, p=[0.5, 0.3, 0.2])
    payment = random.choice(["card", "transfer", "direct debit"], count)
    fee = pd.Series(plan).map({"basic": 15, "family": 30, "premium": 45}) + random.normal(0, 3, count)
    calls = random.poisson(0.8, count)
    odds = 1.1 * calls + absent / 12 - days / 400 + (payment == "transfer") - 0.8 * (plan == "family") + fee / 40 - 6.8
    odds += 5 * ((calls > 0) & (absent > 20))  # what no linear model finds
    return pd.DataFrame(
        {
            "signed_up": today - pd.to_timedelta(days.round(), "D"),
            "last_login": today - pd.to_timedelta(absent.round(), "D"),
            "plan": plan,
            "payment": pd.Series(payment).mask(random.random(count) < 0.1),  # not known for all
            "region": random.choice(["north", "south", "west"], count),
            "monthly_fee": fee.round(2).mask(random.random(count) < 0.05),
            "calls_to_support": pd.Series(calls, dtype="Int64").mask(random.random(count) < 0.05),
            "paperless": random.random(count) < 0.6,
            "churned": np.where(random.random(count) < 1 / (1 + np.exp(-odds)), "yes", "no"),
        }
    )


def pipeline(model: Any, **settings: Any) -> Pipeline:
    """Fill missing values in, scale numbers and dates, encode texts, select the most informative columns, classify."""
    prepare = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMBERS),
            ("dates", StandardScaler(), DATES),  # a date is a number for it: the time since 1970
            (
                "texts",
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value="unknown"),
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ),
                TEXTS,
            ),
        ]
    )
    steps = [("prepare", prepare), ("select", SelectKBest(f_classif, k="all")), ("classify", model)]
    return Pipeline(steps).set_params(**settings)


def trees(**settings: Any) -> Pipeline:
    """Return boosted trees. Both classes weigh the same, although few customers leave."""
    return pipeline(HistGradientBoostingClassifier(class_weight="balanced", random_state=SEED), **settings)


def tune(X: pd.DataFrame, y: pd.Series) -> GridSearchCV:
    """Compare settings by cross-validation on the training rows only. Accuracy would say little: to predict that
    everyone stays is nearly always right. The average precision is about those who leave."""
    grid = {"select__k": [8, "all"], "classify__max_iter": [40, 80], "classify__max_leaf_nodes": [4, 12]}
    score = make_scorer(average_precision_score, response_method="predict_proba", pos_label="yes")
    return GridSearchCV(trees(), grid, scoring=score, cv=3).fit(X, y)


def compress(search: GridSearchCV) -> dict[str, Any]:
    """Return the settings with the fewest leaves whose score is within 2 % of the best."""
    results = search.cv_results_
    good = [i for i, score in enumerate(results["mean_test_score"]) if score >= 0.98 * search.best_score_]
    smallest: dict[str, Any] = min((results["params"][i] for i in good), key=leaves)
    return smallest


def leaves(settings: dict[str, Any]) -> int:
    """Return the maximum number of leaves."""
    return int(settings["classify__max_iter"] * settings["classify__max_leaf_nodes"])


def size_and_time(name: str, model: Pipeline, X: pd.DataFrame) -> None:
    """Print the size of the model as a file, and the time that scikit-learn takes for one row."""
    file = io.BytesIO()
    joblib.dump(model, file)
    seconds = min(timeit.repeat(lambda: model.predict(X[:1]), number=1, repeat=20))
    print(f"{name}: {len(file.getvalue()) / 1000:,.0f} kB, {1e6 * seconds:,.0f} µs a row in scikit-learn")


def main() -> None:
    table = customers(4000)
    X, y = table.drop(columns="churned"), table["churned"]
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=SEED, stratify=y)
    print(f"{len(table)} customers, {len(X_test)} held out; {np.mean(y == 'yes'):.1%} churned; seed {SEED}")

    first = pipeline(LogisticRegression()).fit(X_train, y_train)
    search = tune(X_train, y_train)
    settings = compress(search)
    second = trees(**settings).fit(X_train, y_train)
    print(f"best of {len(search.cv_results_['params'])} settings: {search.best_params_}; compressed to {settings}")
    size_and_time("before", search.best_estimator_, X_test)
    size_and_time("after", second, X_test)

    for version, model in {"v1": first, "v2": second}.items():
        precision = average_precision_score(y_test, model.predict_proba(X_test)[:, 1], pos_label="yes")
        print(f"\n{version}: average precision {precision:.3f}")
        print(classification_report(y_test, model.predict(X_test), digits=3))
        package.save(model, X_test, y_test, f"out/churn/{version}", version=version)
    print("saved out/churn/v1 and out/churn/v2; next: mlmodel inspect out/churn/v2")


if __name__ == "__main__":
    main()
