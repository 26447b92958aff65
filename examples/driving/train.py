"""Train a model that decides within 5 ms whether a car keeps its speed, slows down or brakes, and save two versions.

    python examples/driving/train.py        # prints the scores, writes out/driving/v1 and out/driving/v2

The first version is a linear model. The second is a forest, which is better; tuned for accuracy alone it would be too
slow, so it is compressed to the smallest one that is almost as good.
"""

from __future__ import annotations

import io
import timeit
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from mlmodel_server import package

SEED = 42


def situations(count: int) -> tuple[pd.DataFrame, pd.Series]:
    """Make up what the sensors of a car measure behind another car, and what a careful driver did then."""
    random = np.random.default_rng(SEED)
    speed = random.uniform(3, 38, count)  # m/s
    gap = random.gamma(3, 14, count) + 2  # m
    closing = random.normal(0, 5, count).clip(-15, speed)  # m/s
    friction = random.choice([0.9, 0.6, 0.3], count, p=[0.7, 0.2, 0.1])  # dry, wet, ice
    ahead = random.normal(-0.3, 1.5, count).clip(-8, 3)  # acceleration of the car ahead, m/s²
    needed = np.where(closing > 0, closing**2 / (2 * gap), 0) - np.minimum(ahead, 0) + speed * (gap < 0.9 * speed) / 25
    risk = needed / (9.81 * friction) + random.normal(0, 0.02, count)
    X = pd.DataFrame(
        {
            "speed": speed,
            "gap": gap,
            "closing_speed": closing,
            "friction": friction,
            "acceleration_ahead": ahead,
            "steering_angle": random.normal(0, 3, count),
            "cabin_temperature": random.normal(21, 2, count),
        }
    ).round(2)
    return X, pd.Series(np.select([risk > 0.45, risk > 0.15], ["brake", "slow"], "keep"))


def pipeline(model: Any, columns: int | str = "all") -> Pipeline:
    """Scale, select the most informative columns, classify."""
    return Pipeline([("scale", StandardScaler()), ("select", SelectKBest(f_classif, k=columns)), ("classify", model)])


def forest(**settings: Any) -> Pipeline:
    """Return a forest that weighs the rare cases more."""
    return pipeline(RandomForestClassifier(class_weight="balanced", random_state=SEED)).set_params(**settings)


def tune(X: pd.DataFrame, y: pd.Series) -> GridSearchCV:
    """Compare settings by cross-validation on the training rows only."""
    grid = {"select__k": [5, "all"], "classify__n_estimators": [20, 60], "classify__max_leaf_nodes": [120, 240]}
    return GridSearchCV(forest(), grid, scoring="f1_macro", cv=3).fit(X, y)


def compress(search: GridSearchCV) -> dict[str, Any]:
    """Return the settings with the fewest leaves whose score is within 2 % of the best."""
    results = search.cv_results_
    good = [i for i, score in enumerate(results["mean_test_score"]) if score >= 0.98 * search.best_score_]
    smallest: dict[str, Any] = min((results["params"][i] for i in good), key=leaves)
    return smallest


def leaves(settings: dict[str, Any]) -> int:
    """Return the maximum number of leaves of a forest."""
    return int(settings["classify__n_estimators"] * settings["classify__max_leaf_nodes"])


def size_and_time(name: str, model: Pipeline, X: pd.DataFrame) -> None:
    """Print the size of the model as a file, and the time that scikit-learn takes for one row."""
    file = io.BytesIO()
    joblib.dump(model, file)
    seconds = min(timeit.repeat(lambda: model.predict(X[:1]), number=1, repeat=20))
    print(f"{name}: {len(file.getvalue()) / 1000:,.0f} kB, {1e6 * seconds:,.0f} µs a row in scikit-learn")


def main() -> None:
    X, y = situations(6000)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=SEED, stratify=y)
    print(f"{len(X)} situations, {len(X_test)} held out; seed {SEED}")

    first = pipeline(LogisticRegression(class_weight="balanced")).fit(X_train, y_train)
    search = tune(X_train, y_train)
    settings = compress(search)
    second = forest(**settings).fit(X_train, y_train)
    print(f"best of {len(search.cv_results_['params'])} settings: {search.best_params_}; compressed to {settings}")
    size_and_time("before", search.best_estimator_, X_test)
    size_and_time("after", second, X_test)

    for version, model in {"v1": first, "v2": second}.items():
        print(f"\n{version}\n{classification_report(y_test, model.predict(X_test), digits=3)}")
        package.save(model, X_test, y_test, f"out/driving/{version}", version=version)
    print("saved out/driving/v1 and out/driving/v2; next: mlmodel inspect out/driving/v2")


if __name__ == "__main__":
    main()
