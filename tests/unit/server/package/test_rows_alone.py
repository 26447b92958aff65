"""The answer to a row is the library's, with any other rows in its request or its batch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import FeatureAgglomeration, KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import VotingClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlmodel_server import manifest, package
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.formats.frame import Frames
from mlmodel_server.formats.methods import MethodFunctions, methods_of
from mlmodel_server.formats.sklearn import opened
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import MANIFEST, Signature
from mlmodel_server.protocol import rows
from mlmodel_server.tensors import Column, TensorSpec

COUNT = 60


def served(model: Any, X: Any, y: Any) -> Model:
    """Package a model, and return it as a server has it."""
    files = package.build(model, X, y, compile=False)
    loaded = load(Memory(files))
    return model_of(loaded.opened, manifest.parse(files[MANIFEST]))


def predicted(model: Model, *sent: dict[str, Any]) -> list[Any]:
    request = rows.decode(json.dumps(sent).encode(), model.signature.inputs)
    found: list[Any] = model.predict(model.table(request.inputs), ("predict",))[0].tolist()
    return found


def test_exact_integers_of_a_frame_are_not_joined_with_missing_ones() -> None:
    ids = np.arange(2**54, 2**54 + COUNT)
    X = pd.DataFrame({"id": ids, "day": pd.date_range("2024-01-01", periods=COUNT)})
    encode = ColumnTransformer([("id", OneHotEncoder(handle_unknown="ignore"), ["id"])])
    model = make_pipeline(encode, DecisionTreeClassifier(random_state=0)).fit(X, np.arange(COUNT) % 2)
    answers = served(model, X, np.arange(COUNT) % 2)
    row = {"id": int(ids[1]), "day": "2024-01-01"}
    assert predicted(answers, row) == model.predict(X[1:2]).tolist() == [1]
    tables = [
        answers.table(rows.decode(json.dumps(sent).encode(), answers.signature.inputs).inputs)
        for sent in (row, {**row, "id": None})
    ]
    assert answers.kind_of(tables[0], ("predict",)) != answers.kind_of(tables[1], ("predict",))


def test_a_frame_has_none_where_the_encoder_learnt_none() -> None:
    X = pd.DataFrame(
        {
            "c": pd.Series(["a", "b", None] * (COUNT // 3), dtype=object),
            "day": pd.date_range("2024-01-01", periods=COUNT),
        }
    )
    y = np.array([1, 2, 9] * (COUNT // 3))
    encode = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), ["c"])])
    model = make_pipeline(encode, DecisionTreeClassifier(random_state=0)).fit(X, y)
    complete = X["c"].notna()
    answers = served(model, X[complete], y[complete])
    assert predicted(answers, {"c": None, "day": "2024-01-01"}) == [9]


def test_an_unknown_category_leaves_the_known_ones_integers() -> None:
    dtype = Column("category", True, categories=(1, 2, 3))
    frames = Frames([TensorSpec("k", "FP64", (-1,), dtype)])
    column = frames(np.array([[2], [9.0], [None]], object))["k"]
    assert list(map(str, column.astype(object).tolist())) == ["2", "9", "nan"]


def test_a_ufunc_of_small_integers_wraps_as_in_the_library() -> None:
    X = pd.DataFrame({"a": np.arange(-30, 30, dtype="int8"), "b": np.arange(60.0)})
    square = ColumnTransformer([("square", FunctionTransformer(np.square), ["a"])], remainder="passthrough")
    y = np.arange(60)
    model = make_pipeline(square, DecisionTreeClassifier(random_state=0)).fit(X, y)
    small = (X["a"] > -11) & (X["a"] < 11)
    answers = served(model, X[small], y[small])
    expected = model.predict(X).tolist()
    assert [predicted(answers, {"a": int(a), "b": b})[0] for a, b in X.itertuples(index=False)] == expected


@pytest.mark.parametrize("function", [np.cumsum, lambda X: X - X.mean(axis=0)], ids=["numpy", "own"])
def test_a_function_of_several_rows_is_predicted_alone(function: Any) -> None:
    step = FunctionTransformer(function, kw_args={"axis": 0} if function is np.cumsum else None)
    X = np.random.default_rng(0).normal(size=(COUNT, 2))
    model = make_pipeline(step, DecisionTreeClassifier(random_state=0)).fit(X, X[:, 0] > 0)
    assert not opened(model, "joblib").by_row
    assert opened(DecisionTreeClassifier().fit(X, X[:, 0] > 0), "joblib").by_row


class Centred:
    """An author's own transformer, which does not derive from a class of scikit-learn."""

    def fit(self, X: Any, y: Any = None) -> Centred:
        return self

    def transform(self, X: Any) -> Any:
        return X - np.mean(X, axis=0)

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        return self.transform(X)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def __sklearn_tags__(self) -> Any:
        return BaseEstimator().__sklearn_tags__()


def centred(X: Any) -> Any:
    return X - np.mean(X, axis=0)


def shares(distances: Any) -> Any:
    return distances / distances.max()


NESTED: dict[str, Any] = {
    "first step": make_pipeline(Centred(), LogisticRegression()),
    "step": make_pipeline(StandardScaler(), Centred(), LogisticRegression()),
    "column transformer": make_pipeline(
        ColumnTransformer([("own", Centred(), [0])], remainder="passthrough"), LogisticRegression()
    ),
    "union": make_pipeline(FeatureUnion([("own", Centred()), ("scaled", StandardScaler())]), LogisticRegression()),
    "function in a column transformer": make_pipeline(
        ColumnTransformer([("own", make_pipeline(StandardScaler(), FunctionTransformer(centred)), [0, 1])]),
        LogisticRegression(),
    ),
    "vote": VotingClassifier([("own", make_pipeline(Centred(), LogisticRegression())), ("other", GaussianNB())]),
    "calibrated": CalibratedClassifierCV(make_pipeline(Centred(), LogisticRegression()), cv=2),
    "target": TransformedTargetRegressor(LinearRegression(), func=centred, inverse_func=centred, check_inverse=False),
    "weights": KNeighborsClassifier(weights=shares),
    "outputs": MultiOutputRegressor(make_pipeline(Centred(), LinearRegression())),
}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("name", NESTED)
def test_own_code_anywhere_in_a_model_is_not_predicted_with_other_clients_rows(name: str) -> None:
    X = np.random.default_rng(0).normal(size=(COUNT, 2))
    y = np.column_stack([X[:, 0], X[:, 1]]) if name == "outputs" else (X[:, 0] > 0).astype(int)
    found = opened(NESTED[name].fit(X, y), "joblib")
    assert not found.by_row
    signature = Signature("matrix", (TensorSpec("input-0", "FP64", (-1, 2)),), (TensorSpec("predict", "FP64", (-1,)),))
    assert not model_of(replace(found, signature=signature), None).can_join


def test_functions_of_the_library_do_not_keep_rows_apart() -> None:
    X = np.random.default_rng(0).normal(size=(COUNT, 4))
    for step in (SelectKBest(f_classif, k=2), FeatureAgglomeration(2), FunctionTransformer(np.abs)):
        assert opened(make_pipeline(step, LogisticRegression()).fit(X, X[:, 0] > 0), "joblib").by_row


def test_clusters_use_one_thread_wherever_they_were_fitted() -> None:
    model = KMeans(2, n_init=1, random_state=0).fit(np.random.default_rng(0).normal(size=(COUNT, 2)))
    model._n_threads = 64
    found = opened(model, "joblib").estimator
    assert found is not None
    assert found._n_threads == 1


def test_predictions_in_a_list_are_one_output() -> None:
    class Listed(BaseEstimator):  # type: ignore[misc]
        def predict(self, X: Any) -> list[float]:
            return [float(value) for value in X[:, 0]]

    answers = MethodFunctions(methods_of(Listed())).answers(np.array([[1.5], [2.5]]), "predict")
    assert {name: array.tolist() for name, array in answers.items()} == {"predict": [1.5, 2.5]}
