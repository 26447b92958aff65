"""What only the training used does not keep a model from being served, and anything else that is not listed does."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlmodel_server import package
from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from tests.unit.server.models import SEED, iris, joblib_bytes

pytestmark = pytest.mark.models


def own_metric(truth: Any, predicted: Any) -> float:
    return float(accuracy_score(truth, predicted))


def drawn(**options: Any) -> RandomizedSearchCV:
    return RandomizedSearchCV(
        LogisticRegression(max_iter=500), {"C": stats.loguniform(0.1, 10)}, n_iter=2, random_state=SEED, cv=2, **options
    )


def first(results: Any) -> int:
    return 0


MODELS: dict[str, Callable[[], Any]] = {
    "distributions": drawn,
    "distributions in a pipeline": lambda: make_pipeline(StandardScaler(), drawn()),
    "own scorer": lambda: drawn(scoring=make_scorer(own_metric)),
    "own choice": lambda: GridSearchCV(LogisticRegression(max_iter=500), {"C": [1, 2]}, cv=2, refit=first),
    "scorer by name": lambda: HistGradientBoostingClassifier(
        max_iter=3, scoring="roc_auc_ovr", early_stopping=True, random_state=SEED
    ),
    "own scorer of early stopping": lambda: HistGradientBoostingClassifier(
        max_iter=3, scoring=make_scorer(own_metric), early_stopping=True, random_state=SEED
    ),
    "own scorer of a path": lambda: LogisticRegressionCV(Cs=2, cv=2, scoring=make_scorer(own_metric), max_iter=500),
}


@pytest.mark.models
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_served_without_what_only_its_training_used(name: str) -> None:
    _, X, y = iris()
    fitted = MODELS[name]().fit(X, y)
    bare = load(Memory({"model.joblib": joblib_bytes(fitted)}, "model.joblib"))
    packaged = load(Memory(package.build(fitted, X, y, compile=False)))
    for loaded in (bare, packaged):
        labels, probabilities = model_of(loaded.opened, loaded.manifest).predict(X, ("predict", "predict_proba"))
        np.testing.assert_array_equal(labels, fitted.predict(X))
        np.testing.assert_array_equal(probabilities, fitted.predict_proba(X))


class Runs:
    """Runs a command when a pickle of it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.attack(held=True)
def test_nothing_that_only_the_training_used_is_ever_run(tmp_path: Path) -> None:
    _, X, y = iris()
    fitted = drawn().fit(X, y)
    fitted.param_distributions = {"C": Runs(tmp_path / "ran")}
    fitted.scorer_ = [Runs(tmp_path / "ran")]
    opened = load(Memory({"model.joblib": joblib_bytes(fitted)}, "model.joblib")).opened
    np.testing.assert_array_equal(opened.functions(X, ["predict"])[0], fitted.predict(X))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["n_splits_", "best_index_", "best_estimator_", "own_attribute"])
def test_anywhere_else_it_is_refused_by_name(where: str, tmp_path: Path) -> None:
    _, X, y = iris()
    fitted = drawn().fit(X, y)
    for keep in (False, True):  # also when the same object is where only the training used it
        fitted.param_distributions = {"C": 1}
        setattr(fitted, where, Runs(tmp_path / "ran"))
        if keep:
            fitted.param_distributions = {"C": getattr(fitted, where)}
        with pytest.raises(RefusedModel, match=r"refused \w+\.system in model\.joblib"):
            _ = load(Memory({"model.joblib": joblib_bytes(fitted)}, "model.joblib")).opened
    assert not (tmp_path / "ran").exists()


def test_it_is_refused_also_if_the_file_throws_it_away(tmp_path: Path) -> None:
    call = pickle.dumps(Runs(tmp_path / "ran"), 3)[2:-1]  # without its header and end
    data = joblib_bytes(iris()[0])[:-1] + call + pickle.POP + pickle.STOP
    with pytest.raises(RefusedModel, match=r"refused \w+\.system in model\.joblib"):
        _ = load(Memory({"model.joblib": data}, "model.joblib")).opened
    assert not (tmp_path / "ran").exists()
