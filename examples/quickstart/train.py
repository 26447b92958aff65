"""Train a classifier from a table and save it as a model package.

    python examples/quickstart/train.py                      # writes data.csv, prints the scores, saves model/
    python examples/quickstart/train.py --data mine.csv      # your own table, with a column "label"

Without a table it writes one: the breast cancer data of Wolberg, Street and Mangasarian (UCI, 1995; scikit-learn
contains it): 569 tumours, 30 measurements of their cell nuclei, and whether they were malignant.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.feature_selection import SelectKBest
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mlmodel_server import package

LABEL = "label"
EXAMPLE = Path("data.csv")


def read(path: Path) -> pd.DataFrame:
    """Read the table at ``path``; if the file does not exist, write the example data there first."""
    if not path.exists():
        data = load_breast_cancer(as_frame=True)
        table = data.data.assign(**{LABEL: data.target_names[data.target]})
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
    return pd.read_csv(path)


def split(table: pd.DataFrame, seed: int) -> tuple[Any, Any, Any, Any]:
    """Return X_train, X_test, y_train, y_test: a quarter of the rows is held out, with the same share of each class."""
    return tuple(
        train_test_split(
            table.drop(columns=LABEL), table[LABEL], test_size=0.25, random_state=seed, stratify=table[LABEL]
        )
    )


def train(X: Any, y: Any, seed: int) -> Any:
    """Scale, select the most informative features, and tune an SVC by cross-validation on the training rows only."""
    pipeline = Pipeline([("scale", StandardScaler()), ("select", SelectKBest()), ("classify", SVC(random_state=seed))])
    grid = {
        "select__k": sorted({min(k, X.shape[1]) for k in (5, 10, 20)}),
        "classify__C": [0.1, 1, 10],
        "classify__gamma": ["scale", 0.01],
    }
    search = GridSearchCV(pipeline, grid, cv=5).fit(X, y)
    count, score = len(search.cv_results_["params"]), search.best_score_
    print(f"best of {count} settings: {search.best_params_}, accuracy {score:.4f} in cross-validation")
    return search.best_estimator_


def report(model: Any, X: Any, y: Any) -> None:
    """Print accuracy, and precision and recall of each class, on held-out rows."""
    print(classification_report(y, model.predict(X), digits=4))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a classifier from a table and save it as a model package.")
    parser.add_argument(
        "--data",
        type=Path,
        default=EXAMPLE,
        help=f'CSV file of numeric columns and a column "label" (default: {EXAMPLE}, written if it does not exist)',
    )
    parser.add_argument("--out", type=Path, default=Path("model"), help="directory of the package (default: model)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split and the model (default: 42)")
    parser.add_argument("--version", default="", help="human-readable name of the version (default: none)")
    arguments = parser.parse_args()

    if arguments.data != EXAMPLE and not arguments.data.exists():
        parser.error(f"{arguments.data} does not exist: give the path of a CSV file")
    table = read(arguments.data)
    if LABEL not in table:
        parser.error(f'{arguments.data} has no column "label": rename the column with the labels')
    if text := list(table.drop(columns=LABEL).select_dtypes(exclude="number")):
        parser.error(f"{arguments.data} has columns that are not numeric: {', '.join(text)}: encode or remove them")
    print(f"{len(table)} rows, {table.shape[1] - 1} features from {arguments.data}; seed {arguments.seed}")
    X_train, X_test, y_train, y_test = split(table, arguments.seed)
    model = train(X_train, y_train, arguments.seed)
    report(model, X_test, y_test)
    package.save(model, X_test, y_test, arguments.out, version=arguments.version)
    print(f"saved {arguments.out}/; next:\n  mlmodel inspect {arguments.out}")
    print(f"  mlmodel package {arguments.out} --configmap my-model-v1 | kubectl apply --server-side -f -")


if __name__ == "__main__":
    main()
