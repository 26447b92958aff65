"""Make the versions of the model ``tumour`` that the demo rolls out, each as a package and as a ConfigMap to apply.

    python examples/quickstart/versions.py --out out
    kubectl apply -f out/tumour-v1.yaml -f examples/quickstart/mlmodel.yaml

v1      works: two features, not tuned
v2      better: the pipeline of train.py, tuned
v3      a bug that no golden example reveals: one feature is one-hot encoded with only the values of the few patients of
        its training, so it raises on about four in ten others
v3-all  the same with two features whose values hardly any two patients share: it raises on all others
v4      cannot load: it calls a function of the training script, which no server has
v5      nearly as good as v2, and far slower: five models compare a row with every patient of their training

All accept the same request; ``requests.jsonl`` contains one body of a v2 inference request for each held-out patient.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from train import read, split, train  # type: ignore[import-not-found]  # the script beside this one

from mlmodel_server import package

NAME = "tumour"
FEW = 60
"""Number of patients that v3 was fitted on and, wrongly, also evaluated on."""


def simple(X: Any, y: Any, seed: int) -> Any:
    """Fit v1, a baseline."""
    return make_pipeline(StandardScaler(), SelectKBest(k=2), SVC(C=0.01, random_state=seed)).fit(X, y)


def with_categories(X: Any, y: Any, seed: int, names: list[str], encode: Any) -> Any:
    """Fit v3, in which columns become categories: OneHotEncoder raises on a value that is not in ``X``."""
    columns = ColumnTransformer([("categories", encode, names)], remainder=StandardScaler())
    return make_pipeline(columns, SVC(C=10, random_state=seed)).fit(X, y)


def neighbours(X: Any, y: Any, seed: int) -> Any:
    """Fit v5, an ensemble."""
    one = make_pipeline(StandardScaler(), KNeighborsClassifier())
    return BaggingClassifier(one, 5, max_samples=0.3, random_state=seed).fit(X, y)


def clipped(X: Any) -> Any:
    """The first step of v4. It is in this script, so a server does not have it."""
    return np.clip(X, 0, 1000)


def requests(X: Any) -> list[str]:
    """Return one v2 request body for each row of ``X``."""
    return [
        json.dumps({"inputs": [{"name": "row", "shape": [1, len(row)], "datatype": "FP64", "data": row.tolist()}]})
        for row in X.to_numpy()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the versions of the demo's model.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="directory to write to (default: out)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split and the models (default: 42)")
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed
    print(f"seed {seed}")

    X, X_test, y, y_test = split(read(out / "data.csv"), seed)
    few, few_y = X[:FEW], y[:FEW]
    rounded = Pipeline([("round", FunctionTransformer(np.rint)), ("encode", OneHotEncoder())])
    v3 = with_categories(few, few_y, seed, ["area error"], rounded)
    v3_all = with_categories(few, few_y, seed, ["mean area", "worst area"], OneHotEncoder())

    for version, model, rows, labels in (
        ("v1", simple(X, y, seed), X_test, y_test),
        ("v2", train(X, y, seed), X_test, y_test),
        ("v3", v3, few, few_y),
        ("v3-all", v3_all, few, few_y),
        ("v5", neighbours(X, y, seed), X_test, y_test),
    ):
        package.save(model, rows, labels, out / version, version=version)
        print(f"{version:<7} {share_failing(model, X_test):4.0%} of the held-out patients make it raise")
    (out / "v4").mkdir(exist_ok=True)
    v4 = make_pipeline(FunctionTransformer(clipped), StandardScaler(), SVC(C=10, random_state=seed)).fit(X, y)
    joblib.dump(v4, out / "v4" / "model.joblib", compress=3)

    for version in ("v1", "v2", "v3", "v3-all", "v4", "v5"):
        (out / f"{NAME}-{version}.yaml").write_text(package.config_map(out / version, f"{NAME}-{version}"))
    (out / "requests.jsonl").write_text("\n".join(requests(X_test)) + "\n")
    print(f"wrote {out}/{NAME}-*.yaml and {out}/requests.jsonl")


def share_failing(model: Any, X: Any) -> float:
    """Return the share of the rows of ``X`` on which ``model`` raises."""
    failed = 0
    for index in range(len(X)):
        try:
            model.predict(X[index : index + 1])
        except ValueError:
            failed += 1
    return failed / len(X)


if __name__ == "__main__":
    main()
