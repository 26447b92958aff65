"""Train a classifier of texts, which finds unhappy customers in reviews, and save two versions of it as model packages.

    python examples/reviews/train.py        # prints the scores, writes out/reviews/v1 and out/reviews/v2

The first version counts words. The second also knows pairs of words ("not good"), weighs rare ones more, is tuned, and
is compressed to those that are not rare.
"""

from __future__ import annotations

import io
import timeit
from typing import Any

import joblib
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectPercentile, chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline

from mlmodel_server import package

SEED = 42
THINGS = [
    "battery",
    "screen",
    "case",
    "camera",
    "sound",
    "price",
    "delivery",
    "packaging",
    "support",
    "manual",
    "keyboard",
    "charger",
]
GOOD = ["good", "great", "excellent", "solid", "lovely", "bright", "fast", "reliable", "perfect", "cheap"]
BAD = ["bad", "poor", "awful", "broken", "slow", "dim", "flimsy", "useless", "overpriced", "late"]
TOWNS = ["Bergen", "Cork", "Delft", "Espoo", "Graz", "Lund", "Porto", "Riga", "Siena", "Vilnius"]


def reviews(count: int) -> tuple[list[str], list[str]]:
    """Make up reviews. Customers describe two to four things, often by negation, and not all of them the same way."""
    random = np.random.default_rng(SEED)
    texts, labels = [], []
    for _ in range(count):
        label = str(random.choice(["happy", "unhappy"], p=[0.7, 0.3]))
        sentences = [f"Order {random.integers(10_000, 99_999)}, shipped to {random.choice(TOWNS)}."]  # says nothing
        for thing in random.choice(THINGS, random.integers(2, 5), replace=False):
            praises = (label == "happy") == (random.random() < 0.85)  # hardly anyone likes everything
            negated = random.random() < 0.35
            word = random.choice(GOOD if praises != negated else BAD)
            sentences.append(f"The {thing} is {'not ' if negated else random.choice(['', 'really ', 'quite '])}{word}.")
        texts.append(" ".join(sentences))
        labels.append(label)
    return texts, labels


def pipeline(**settings: Any) -> Pipeline:
    """Weigh words and pairs of words (this scales them too), select the most informative ones, classify."""
    steps = [
        ("weigh", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)),
        ("select", SelectPercentile(chi2, percentile=100)),
        ("classify", LogisticRegression(class_weight="balanced", max_iter=1000)),
    ]
    return Pipeline(steps).set_params(**settings)


def tune(texts: list[str], labels: list[str]) -> GridSearchCV:
    """Compare settings by cross-validation on the training texts only."""
    grid = {"weigh__min_df": [1, 5, 20], "select__percentile": [50, 100], "classify__C": [1, 10]}
    return GridSearchCV(pipeline(), grid, scoring="f1_macro", cv=3).fit(texts, labels)


def compress(search: GridSearchCV) -> dict[str, Any]:
    """Return the settings that leave out most rare words, of those whose score is within 1 % of the best."""
    results = search.cv_results_
    good = [i for i, score in enumerate(results["mean_test_score"]) if score >= 0.99 * search.best_score_]
    smallest: dict[str, Any] = max((results["params"][i] for i in good), key=lambda params: params["weigh__min_df"])
    return smallest


def size_and_time(name: str, model: Pipeline, text: str) -> None:
    """Print the size of the model as a file, and the time that scikit-learn takes for one text."""
    file = io.BytesIO()
    joblib.dump(model, file)
    seconds = min(timeit.repeat(lambda: model.predict([text]), number=1, repeat=20))
    print(f"{name}: {len(file.getvalue()) / 1000:,.0f} kB, {1e6 * seconds:,.0f} µs a text in scikit-learn")


def main() -> None:
    texts, labels = reviews(3000)
    X_train, X_test, y_train, y_test = train_test_split(
        texts, labels, test_size=0.25, random_state=SEED, stratify=labels
    )
    print(f"{len(texts)} reviews, {len(X_test)} held out; seed {SEED}")
    print(f"the first: {texts[0]} ({labels[0]})")

    first = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000)).fit(X_train, y_train)
    search = tune(X_train, y_train)
    settings = compress(search)
    second = pipeline(**settings).fit(X_train, y_train)
    print(f"best of {len(search.cv_results_['params'])} settings: {search.best_params_}; compressed to {settings}")
    size_and_time("before", search.best_estimator_, X_test[0])
    size_and_time("after", second, X_test[0])

    for version, model in {"v1": first, "v2": second}.items():
        print(f"\n{version}\n{classification_report(y_test, model.predict(X_test), digits=3)}")
        package.save(model, X_test, y_test, f"out/reviews/{version}", version=version)
    print("saved out/reviews/v1 and out/reviews/v2; next: mlmodel inspect out/reviews/v2")


if __name__ == "__main__":
    main()
