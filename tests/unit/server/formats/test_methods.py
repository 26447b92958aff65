"""Every method that an estimator has is an output, and answers what the library answers, row by row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import NMF, PCA, TruncatedSVD
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.manifold import TSNE
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, LocalOutlierFactor, NearestNeighbors
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from mlmodel_server.engine import selftest
from mlmodel_server.engine.batching import Batcher
from mlmodel_server.engine.cost import Cost
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import RefusedModel, RequestError
from mlmodel_server.formats import methods
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.protocol import rows, v2
from mlmodel_server.startup.choose import PLATFORM, choose
from mlmodel_server.tensors import Array, InferRequest, Tensor
from tests.unit.server.models import joblib_bytes

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("compiled_is_faster")]

SEED = 20261129
X = np.random.default_rng(SEED).normal(size=(60, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
TWO = np.column_stack([Y, np.digitize(X[:, 2], [-0.5, 0.5])])
TEXTS = ["a good movie", "a bad film", "good day", "awful night, really"] * 10
MOODS = ["good", "bad"] * 20
FOREST = IsolationForest(n_estimators=5, random_state=1)
PEOPLE = [{"city": "Rome", "age": 30}, {"city": "Oslo", "age": 5}, {"age": 41}, {"city": "Rome"}] * 10


def served(estimator: Any) -> Model:
    """Return the model of a joblib file, after the request that its server offers."""
    loaded = load(Memory({"model.joblib": joblib_bytes(estimator)}, "model.joblib"))
    model = model_of(loaded.opened, None)
    model.infer(v2.decode(selftest.example(model, loaded.opened.example)))
    return model


def answers(model: Model, table: Array, *outputs: str) -> dict[str, Array]:
    request = InferRequest(None, [Tensor("input-0", "FP64", table)], list(outputs) or None)
    return {tensor.name: tensor.array for tensor in model.infer(request).outputs}


def said(model: Model, body: Any, *outputs: str) -> dict[str, Array]:
    """Return the answer to rows as a client sends them in JSON."""
    request = rows.decode(json.dumps(body).encode(), model.signature.inputs)
    table = model.table(request.inputs)
    names = model.select_outputs(list(outputs) or None)
    return dict(zip(names, model.predict(table, names), strict=True))


@pytest.mark.parametrize(
    ("estimator", "outputs", "default"),
    [
        (LogisticRegression().fit(X, Y), ["predict", "predict_proba", "decision_function"], "predict"),
        (KMeans(3, n_init=1, random_state=1).fit(X), ["predict", "transform"], "predict"),
        (
            IsolationForest(n_estimators=5, random_state=1).fit(X),
            ["predict", "decision_function", "score_samples"],
            "predict",
        ),
        (PCA(2).fit(X), ["score_samples", "transform"], "transform"),
        (StandardScaler().fit(X), ["transform"], "transform"),
        (OneHotEncoder(handle_unknown="ignore").fit(X.round()), ["transform"], "transform"),
        (KernelDensity().fit(X), ["score_samples"], "score_samples"),
        (make_pipeline(StandardScaler(), PCA(2)).fit(X), ["score_samples", "transform"], "transform"),
        (SVC(random_state=1).fit(X, Y), ["predict", "decision_function"], "predict"),
        (make_pipeline(StandardScaler(), KernelDensity()).fit(X), ["score_samples"], "score_samples"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_method_is_an_output(estimator: Any, outputs: list[str], default: str) -> None:
    model = served(estimator)
    assert [spec.name for spec in model.signature.outputs] == outputs
    assert model.select_outputs(None) == (default,)
    for name in outputs:
        expected = getattr(estimator, name)(X)
        expected = expected.toarray() if hasattr(expected, "toarray") else expected
        np.testing.assert_array_equal(answers(model, X, name)[name], expected)
    assert list(answers(model, X, *reversed(outputs))) == outputs[::-1]


@pytest.mark.parametrize(
    "estimator",
    [
        NearestNeighbors(n_neighbors=3).fit(X),
        KNeighborsClassifier(3).fit(X, Y),
        LocalOutlierFactor(n_neighbors=3, novelty=True).fit(X),
    ],
    ids=lambda value: type(value).__name__,
)
def test_neighbours_are_two_outputs_of_one_call(estimator: Any) -> None:
    model = served(estimator)
    distances, indices = estimator.kneighbors(X)
    found = answers(model, X, "kneighbors_indices", "kneighbors_distances")
    np.testing.assert_array_equal(found["kneighbors_distances"], distances)
    np.testing.assert_array_equal(found["kneighbors_indices"], indices)
    calls = iter([(distances, indices)])
    functions = methods.MethodFunctions({"kneighbors": lambda _: next(calls)})
    assert len(functions(X, ("kneighbors_distances", "kneighbors_indices"))) == 2


def test_a_pipeline_has_the_neighbours_of_its_last_step() -> None:
    pipeline = make_pipeline(StandardScaler(), NearestNeighbors(n_neighbors=2)).fit(X)
    found = answers(served(pipeline), X)
    distances, indices = pipeline[-1].kneighbors(pipeline[:-1].transform(X))
    assert list(found) == ["kneighbors_distances", "kneighbors_indices"]
    np.testing.assert_array_equal(found["kneighbors_distances"], distances)
    np.testing.assert_array_equal(found["kneighbors_indices"], indices)


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(4, random_state=1), MultiOutputClassifier(LogisticRegression())],
    ids=lambda value: type(value).__name__,
)
def test_probabilities_of_several_targets_are_one_output_each(estimator: Any) -> None:
    fitted = estimator.fit(X, TWO)
    found = answers(served(fitted), X, "predict", "predict_proba_0", "predict_proba_1")
    np.testing.assert_array_equal(found["predict"], fitted.predict(X))
    for index, expected in enumerate(fitted.predict_proba(X)):
        np.testing.assert_array_equal(found[f"predict_proba_{index}"], expected)


def test_a_score_that_depends_on_chance_is_no_output() -> None:
    machine = BernoulliRBM(n_components=2, n_iter=1, random_state=1).fit(X > 0)
    assert [spec.name for spec in served(machine).signature.outputs] == ["transform"]


def test_an_answer_larger_than_a_response_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = served(HashingVectorizer(n_features=1 << 10))
    monkeypatch.setattr(methods, "MAX_NUMBERS", 3 << 10)
    assert said(model, TEXTS[:3])["transform"].shape == (3, 1024)
    with pytest.raises(
        RequestError, match=r"transform of 4 rows has 4 x 1024 numbers, .* at most 3,072: send fewer rows"
    ):
        said(model, TEXTS[:4])
    with pytest.raises(RefusedModel, match="train the model with fewer columns"):
        served(HashingVectorizer(n_features=1 << 12))


def test_texts_and_numbers_in_one_table_are_refused() -> None:
    table = np.array([["a", 1.5], ["b", 2.5]], object)
    mixed = ColumnTransformer([("keep", "passthrough", [0]), ("scale", StandardScaler(), [1])]).fit(table)
    functions = methods.MethodFunctions(methods.methods_of(mixed))
    with pytest.raises(RequestError, match="transform returns texts and numbers in one table, which no tensor has"):
        functions(table, ("transform",))
    whole = methods.MethodFunctions({"transform": lambda _: np.array([[2**60 + 1]], object)})
    with pytest.raises(RequestError, match="not exact"):
        whole(table, ("transform",))


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (DBSCAN().fit(X), "DBSCAN gives a cluster only to the rows that it was fitted on: serve a classifier"),
        (make_pipeline(StandardScaler(), DBSCAN()).fit(X), "DBSCAN gives a cluster only to the rows"),
        (TSNE(perplexity=5, max_iter=250).fit(X[:20]), "TSNE transforms only the rows that it was fitted on: use"),
        (LocalOutlierFactor().fit(X), "LocalOutlierFactor with novelty=False .* set novelty=True, and fit again"),
        (LedoitWolf().fit(X), "LedoitWolf estimates a covariance, and scores no row: use EllipticEnvelope"),
        (LabelEncoder().fit(MOODS), "LabelEncoder transforms labels, not rows"),
        (FeatureHasher(), "a FeatureHasher does not keep the names of its features: use a DictVectorizer"),
        (TfidfVectorizer(), "the TfidfVectorizer is not fitted: call fit first"),
        (make_pipeline(TfidfVectorizer(), LogisticRegression()), "the Pipeline is not fitted: call fit first"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_cannot_answer_is_refused_with_the_reason(estimator: Any, reason: str) -> None:
    with pytest.raises(RefusedModel, match=f"the file contains no model that is served: {reason}"):
        served(estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(TfidfVectorizer(), LogisticRegression()),
        make_pipeline(CountVectorizer(ngram_range=(1, 2)), SGDClassifier(random_state=1)),
        make_pipeline(HashingVectorizer(n_features=64), LinearSVC()),
        make_pipeline(FeatureUnion([("w", TfidfVectorizer()), ("c", CountVectorizer(analyzer="char"))]), LinearSVC()),
        CalibratedClassifierCV(make_pipeline(TfidfVectorizer(), LinearSVC()), cv=2),
        make_pipeline(TfidfVectorizer(), TruncatedSVD(2, random_state=1)),
        TfidfVectorizer(),
    ],
    ids=str,
)
def test_a_model_of_texts_takes_one_column_of_texts(estimator: Any) -> None:
    fitted = estimator.fit(TEXTS, MOODS)
    model = served(fitted)
    assert [(spec.name, spec.datatype, spec.shape) for spec in model.signature.inputs] == [("text", "BYTES", (-1,))]
    asked = ["good, really good", "", "zzz", "Ünïcode bad"]
    for name in (spec.name for spec in model.signature.outputs):
        expected = getattr(fitted, name)(asked)
        expected = expected.toarray() if hasattr(expected, "toarray") else expected
        for body in (asked, [{"text": text} for text in asked], [[text] for text in asked]):
            np.testing.assert_array_equal(said(model, body, name)[name], expected)
    with pytest.raises(RequestError, match="this model rejects missing values"):
        said(model, [{"text": None}])
    assert all(len(array) == 1 for array in said(model, "one text alone").values())


def test_a_model_of_dictionaries_has_a_column_for_each_key() -> None:
    fitted = make_pipeline(DictVectorizer(), Ridge()).fit(PEOPLE, np.arange(40.0))
    model = served(fitted)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [("age", "FP64"), ("city", "BYTES")]
    found = said(model, [{"age": 3, "city": "Rome"}, {"age": 4.5, "city": "Atlantis"}, {"age": 0, "city": None}])
    expected = fitted.predict([{"age": 3, "city": "Rome"}, {"age": 4.5, "city": "Atlantis"}, {}])
    np.testing.assert_array_equal(found["predict"], expected)
    with pytest.raises(RequestError, match="unknown feature 'height'"):
        said(model, [{"age": 3, "city": "Rome", "height": 1}])


def test_a_key_of_two_types_is_refused() -> None:
    with pytest.raises(RefusedModel, match="knows 'age' as a text and as a number: give the two different keys"):
        served(DictVectorizer().fit([{"age": 3}, {"age": "young"}]))


@pytest.mark.parametrize("model", [KMeans(3, n_init=1, random_state=1), NMF(2, random_state=1)], ids=str)
def test_a_model_that_accepts_only_the_float32_of_its_training_gets_float32(model: Any) -> None:
    rows = np.abs(X).astype(np.float32)
    fitted = model.fit(rows)
    served_model = served(fitted)
    assert served_model.signature.inputs[0].datatype == "FP32"
    (name,) = served_model.select_outputs(None)
    np.testing.assert_array_equal(answers(served_model, rows.astype(np.float64))[name], getattr(fitted, name)(rows))


def test_rows_of_several_requests_are_not_joined_if_they_change_each_other() -> None:
    rows = np.abs(X)
    assert served(make_pipeline(StandardScaler(), PCA(2)).fit(rows)).can_join
    model = served(make_pipeline(NMF(2, random_state=1), KMeans(2, n_init=1, random_state=1)).fit(rows))
    assert model.batchable
    assert not model.can_join
    assert Batcher(model, Cost(1.0, 1.0), max_rows=64, max_waiting=8, on_batch=print)._max_rows == 1


def test_a_compiled_model_and_the_original_answer_one_request_together() -> None:
    fitted = LogisticRegression().fit(X, Y)
    chosen = choose(load(Memory({"model.joblib": joblib_bytes(fitted)}, "model.joblib")))
    assert chosen.platform == PLATFORM
    found = answers(chosen.model, X, "decision_function", "predict_proba")
    np.testing.assert_array_equal(found["decision_function"], fitted.decision_function(X))
    np.testing.assert_array_equal(found["predict_proba"], fitted.predict_proba(X))
    np.testing.assert_allclose(answers(chosen.model, X, "predict_proba")["predict_proba"], fitted.predict_proba(X))
    assert chosen.model.further == {"decision_function"}
