"""Classes that the census found to fail, because each needs a special rule."""

from __future__ import annotations

import io
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.cluster import BisectingKMeans
from sklearn.decomposition import SparsePCA
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops import io as skops

from mlmodel_server import package
from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import RefusedModel, RequestError, UsageError
from mlmodel_server.formats import lightgbm_trees, xgboost_trees
from mlmodel_server.formats.opened import CONTRIBUTIONS
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.tensors import InferRequest, Tensor

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(80, 3))
NUMBER, TWO = X @ [1.0, -2.0, 0.5], (X[:, 0] > 0).astype(int)


def joblib_of(model: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def served(data: bytes, rows: Any, name: str = "model.joblib") -> Any:
    model = model_of(load(Memory({name: data}, name)).opened, None)
    return model.infer(InferRequest(None, [Tensor("x", "FP64", rows)], ["predict"])).outputs[0].array


def test_an_isotonic_regression_has_one_column() -> None:
    model = IsotonicRegression(out_of_bounds="clip").fit(X[:, :1], NUMBER)
    np.testing.assert_array_equal(served(joblib_of(model), X[:, :1]), model.predict(X[:, :1]))
    assert package.build(model, X[:, :1], None, compile=False)


def test_a_pickled_booster_of_xgboost_predicts_as_the_booster() -> None:
    matrix = xgboost.DMatrix(X, TWO, nthread=1)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 2, "nthread": 1}, matrix, 4)
    np.testing.assert_array_equal(served(joblib_of(booster), X), booster.predict(matrix))


def test_a_pickled_booster_of_lightgbm_predicts_as_the_booster() -> None:
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lightgbm.train(parameters, lightgbm.Dataset(X, TWO), 4)
    np.testing.assert_array_equal(served(joblib_of(booster), X), booster.predict(X))


def test_linear_trees_of_lightgbm_are_served_without_contributions() -> None:
    model = lightgbm.LGBMRegressor(n_estimators=4, linear_tree=True, verbose=-1, n_jobs=1, min_child_samples=5)
    model.fit(X, NUMBER)
    name = "model.joblib"
    opened = load(Memory({name: joblib_of(model)}, name)).opened
    assert CONTRIBUTIONS not in {spec.name for spec in model_of(opened, None).signature.outputs}
    np.testing.assert_array_equal(served(joblib_of(model), X), model.predict(X))


def test_a_tree_with_several_outputs_is_refused_for_this_reason() -> None:
    model = xgboost.XGBRegressor(n_estimators=2, multi_strategy="multi_output_tree", n_jobs=1)
    data = bytes(model.fit(X, X[:, :2]).get_booster().save_raw("ubj"))
    with pytest.raises(RefusedModel, match=r"train it with multi_strategy='one_output_per_tree'$"):
        _ = load(Memory({"model.ubj": data}, "model.ubj")).opened


_BOOSTERS = [
    xgboost.XGBRegressor(n_estimators=2, n_jobs=1),
    lightgbm.LGBMRegressor(n_estimators=2, n_jobs=1, verbose=-1),
    make_pipeline(StandardScaler(), lightgbm.LGBMRegressor(n_estimators=2, n_jobs=1, verbose=-1)),
]


@pytest.mark.parametrize("model", _BOOSTERS, ids=["xgboost", "lightgbm", "pipeline"])
def test_boosters_are_served_from_a_skops_file(model: Any) -> None:
    data = skops.dumps(model.fit(X, NUMBER))
    opened = load(Memory({"model.skops": data}, "model.skops")).opened
    (answer,) = opened.functions(X, ("predict",))
    np.testing.assert_array_equal(answer, model.predict(X))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("model", _BOOSTERS[:2], ids=["xgboost", "lightgbm"])
def test_a_booster_in_a_skops_file_is_checked_before_its_library_reads_it(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = skops.dumps(model.fit(X, NUMBER))
    kind = type(model._Booster)

    def refuse(_: Any) -> Any:
        raise ValueError("it has a forged tree")

    monkeypatch.setattr(lightgbm_trees, "rewritten", refuse)
    monkeypatch.setattr(xgboost_trees, "rewritten_pickled", refuse)
    monkeypatch.setattr(kind, "__setstate__", lambda *_: pytest.fail("the library read it"))
    with pytest.raises(RefusedModel, match=r"^model\.skops cannot be read \(ValueError\)"):
        _ = load(Memory({"model.skops": data}, "model.skops")).opened


@pytest.mark.attack(held=True)
def test_what_the_check_of_a_booster_returns_is_what_its_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _BOOSTERS[1].fit(X, NUMBER)
    data = skops.dumps(model)
    other = lightgbm.LGBMRegressor(n_estimators=2, n_jobs=1, verbose=-1).fit(X, NUMBER + 100).booster_
    monkeypatch.setattr(lightgbm_trees, "rewritten", lambda _: other.model_to_string())
    opened = load(Memory({"model.skops": data}, "model.skops")).opened
    np.testing.assert_array_equal(opened.functions(X, ("predict",))[0], other.predict(X))


def test_what_only_joblib_holds_is_refused_in_skops_with_this_advice() -> None:
    model = BisectingKMeans(n_clusters=2, random_state=1)
    data = skops.dumps(model.fit(X, NUMBER))
    with pytest.raises(RefusedModel, match=r"save the model with joblib\.dump$"):
        _ = load(Memory({"model.skops": data}, "model.skops")).opened
    np.testing.assert_array_equal(served(joblib_of(model), X), model.predict(X))


def test_an_unknown_category_of_xgboost_is_rejected_with_what_to_send() -> None:
    """XGBoost takes an unknown integer for the next greater category: no answer is better than this one."""
    steps = np.array([500, 7, 10])[np.arange(80) % 3]
    frame = pd.DataFrame({"a": X[:, 0], "step": pd.Categorical(steps, categories=[500, 7, 10])})
    model = xgboost.XGBRegressor(n_estimators=4, max_depth=3, n_jobs=1, enable_categorical=True)
    name = "model.joblib"
    data = joblib_of(model.fit(frame, NUMBER + steps))
    served_model = model_of(load(Memory({name: data}, name)).opened, None)
    columns = [Tensor("a", "FP64", X[:1, 0]), Tensor("step", "INT64", np.array([11]))]
    with pytest.raises(RequestError, match="send a known category"):
        served_model.infer(InferRequest(None, columns, ["predict"]))


def test_a_model_that_predicts_no_single_row_is_not_packaged() -> None:
    model = make_pipeline(SparsePCA(2, max_iter=5), Ridge()).fit(X, NUMBER)
    with pytest.raises(UsageError, match="replace the step that needs several rows"):
        package.build(model, X, None, compile=False)
