"""Verified compile of many kinds of estimators: each is compiled and predicts the same, or is kept with a reason.

Prints one line for each (``pytest -rP`` or ``-s`` shows them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlmodel_server.compile import OnnxFunctions, compilable, compile_in_child, timing
from mlmodel_server.engine.model import Model
from mlmodel_server.formats.prepare import prepare
from mlmodel_server.formats.sklearn import EstimatorFunctions, classes_of, opened
from mlmodel_server.manifest import Signature
from mlmodel_server.package.table import specs_of, tensors_of
from mlmodel_server.tensors import Array

SEED = 7
pytestmark = pytest.mark.filterwarnings("ignore")  # of training: these models need not be good


def tumours() -> tuple[Array, Array]:
    """Two classes, 30 numbers."""
    data = load_breast_cancer()
    return data.data, data.target


def flowers() -> tuple[Array, Array]:
    """Three classes with text labels, 4 numbers."""
    data = load_iris()
    return data.data, data.target_names[data.target]


def diabetes() -> tuple[Array, Array]:
    """A number from 10 numbers."""
    data = load_diabetes()
    return data.data, data.target


def two_targets() -> tuple[Array, Array]:
    X, y = diabetes()
    return X, np.stack([y, y**2], axis=1)


def two_labels() -> tuple[Array, Array]:
    X, y = tumours()
    return X, np.stack([y, X[:, 0] > 14], axis=1).astype(int)


def with_holes() -> tuple[Array, Array]:
    X, y = tumours()
    return np.where(np.random.default_rng(SEED).random(X.shape) < 0.1, np.nan, X), y


def customers() -> tuple[pd.DataFrame, Array]:
    """Two classes, columns of numbers, texts and truth values."""
    random = np.random.default_rng(SEED)
    table = pd.DataFrame(
        {
            "age": random.normal(40, 12, 600).round(1),
            "city": random.choice(["Bern", "Kyjiw", "Oslo", "Tromsø"], 600),
            "income": random.lognormal(10, 1, 600).round(),
            "kind": random.choice(["a", "b"], 600),
            "visits": random.integers(0, 6, 600),
            "member": random.random(600) < 0.3,
        }
    )
    return table, np.where((table["age"] > 42) ^ (table["city"] == "Oslo") ^ table["member"], "yes", "no")


def mixed(texts: Any, last: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    parts = [("numbers", numbers, ["age", "income"]), ("texts", texts, ["city", "kind"])]
    return make_pipeline(
        ColumnTransformer([*parts, ("codes", OneHotEncoder(), ["visits"])], remainder="passthrough"), last
    )


def scaled(*steps: Any) -> Any:
    return make_pipeline(StandardScaler(), *steps)


Data = Callable[[], tuple[Any, Array]]
FOREST = RandomForestClassifier(20, random_state=SEED)
BOTH = [("linear", scaled(LogisticRegression())), ("forest", FOREST)]
NUMBERS = [("linear", Ridge()), ("forest", RandomForestRegressor(10, random_state=SEED))]

COMPILED: list[tuple[str, Any, Data]] = [
    ("logistic regression", scaled(LogisticRegression()), tumours),
    ("logistic regression, 3 classes", LogisticRegression(max_iter=500), flowers),
    ("min-max scaler", make_pipeline(MinMaxScaler(clip=True), LogisticRegression()), tumours),
    ("max-abs scaler", make_pipeline(MaxAbsScaler(), LogisticRegression()), tumours),
    ("robust scaler", make_pipeline(RobustScaler(), LogisticRegression()), tumours),
    ("normalizer", make_pipeline(Normalizer(), LogisticRegression()), tumours),
    ("power transformer", make_pipeline(PowerTransformer(), LogisticRegression()), flowers),
    ("log1p", make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()), tumours),
    ("bins", make_pipeline(KBinsDiscretizer(4), LogisticRegression()), flowers),
    ("polynomials", make_pipeline(PolynomialFeatures(3), StandardScaler(), LogisticRegression()), flowers),
    ("PCA", scaled(PCA(5, whiten=True), LogisticRegression()), tumours),
    ("SVD", scaled(TruncatedSVD(3), LogisticRegression()), flowers),
    ("union", scaled(FeatureUnion([("a", PCA(3)), ("b", SelectKBest(k=5))]), LogisticRegression()), tumours),
    ("ridge classifier", RidgeClassifier(), tumours),
    ("SGD", scaled(SGDClassifier(loss="log_loss", random_state=SEED)), flowers),
    ("perceptron", scaled(Perceptron(random_state=SEED)), flowers),
    ("linear SVC", scaled(LinearSVC()), flowers),
    ("LDA", LinearDiscriminantAnalysis(), tumours),
    ("QDA", QuadraticDiscriminantAnalysis(reg_param=0.1), tumours),
    ("SVC", scaled(SelectKBest(k=10), SVC()), tumours),
    ("SVC, 3 classes", SVC(), flowers),
    ("SVC, polynomial", scaled(SVC(kernel="poly")), flowers),
    ("SVC, linear", scaled(SVC(kernel="linear")), tumours),
    ("NuSVC", NuSVC(), flowers),
    ("neural network", scaled(MLPClassifier((20,), max_iter=100, random_state=SEED)), flowers),
    ("Gaussian Bayes", GaussianNB(), tumours),
    ("multinomial Bayes", MultinomialNB(), tumours),
    ("complement Bayes", ComplementNB(), flowers),
    ("Bernoulli Bayes", scaled(BernoulliNB()), flowers),
    ("tree", DecisionTreeClassifier(random_state=SEED), flowers),
    ("random forest", RandomForestClassifier(100, random_state=SEED), tumours),
    ("random forest, missing numbers", FOREST, with_holes),
    ("random forest behind PCA", scaled(PCA(4), FOREST), tumours),
    ("extra trees", ExtraTreesClassifier(30, max_depth=6, random_state=SEED), flowers),
    ("gradient boosting", GradientBoostingClassifier(random_state=SEED), tumours),
    ("gradient boosting, 3 classes", GradientBoostingClassifier(n_estimators=30, random_state=SEED), flowers),
    ("histogram boosting", HistGradientBoostingClassifier(), tumours),
    ("histogram boosting, missing numbers", HistGradientBoostingClassifier(max_iter=30), with_holes),
    (
        "histogram boosting, categories",
        HistGradientBoostingClassifier(categorical_features=["city", "kind"]),
        customers,
    ),
    ("AdaBoost", AdaBoostClassifier(n_estimators=20, random_state=SEED), flowers),
    ("bagging", BaggingClassifier(scaled(LinearSVC()), 5, max_features=0.5, random_state=SEED), tumours),
    ("isolation forest", IsolationForest(n_estimators=50, random_state=SEED), tumours),
    ("one-class SVM", OneClassSVM(), flowers),
    ("calibrated by a sigmoid", CalibratedClassifierCV(scaled(LinearSVC()), cv=3), flowers),
    ("calibrated by steps", CalibratedClassifierCV(FOREST, method="isotonic", cv=3), tumours),
    ("one against the rest", OneVsRestClassifier(LogisticRegression()), flowers),
    ("vote by probability", VotingClassifier(BOTH, voting="soft", weights=[1, 2]), tumours),
    ("vote by label", VotingClassifier([*BOTH, ("bayes", GaussianNB())]), flowers),
    ("stack", StackingClassifier(BOTH, cv=3), flowers),
    ("two labels", MultiOutputClassifier(scaled(LogisticRegression())), two_labels),
    ("one-hot, unknown ignored", mixed(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()), customers),
    ("one-hot, unknown rejected", mixed(OneHotEncoder(), LogisticRegression()), customers),
    (
        "one-hot, rare ones together",
        mixed(OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=150, drop="first"), SVC()),
        customers,
    ),
    ("codes", mixed(OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), FOREST), customers),
    ("means of the target", mixed(TargetEncoder(), LogisticRegression()), customers),
    ("linear regression", LinearRegression(), diabetes),
    ("linear regression, 2 targets", LinearRegression(), two_targets),
    ("elastic net", ElasticNet(0.1), diabetes),
    ("Poisson regression", PoissonRegressor(), diabetes),
    ("partial least squares", PLSRegression(), diabetes),
    ("logarithm of the target", TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), diabetes),
    ("SVR", scaled(SVR()), diabetes),
    ("neural network, number", scaled(MLPRegressor(max_iter=100, random_state=SEED)), diabetes),
    ("random forest, 2 targets", RandomForestRegressor(20, random_state=SEED), two_targets),
    ("gradient boosting, number", GradientBoostingRegressor(random_state=SEED), diabetes),
    ("histogram boosting, Poisson", HistGradientBoostingRegressor(loss="poisson"), diabetes),
    ("bagging, number", BaggingRegressor(random_state=SEED), diabetes),
    ("vote, number", VotingRegressor(NUMBERS), diabetes),
    ("stack, number", StackingRegressor(NUMBERS, cv=3), diabetes),
    ("ridge per target", MultiOutputRegressor(Ridge()), two_targets),
    ("LightGBM", lightgbm.LGBMClassifier(verbose=-1), flowers),
    ("LightGBM, missing numbers", lightgbm.LGBMClassifier(verbose=-1), with_holes),
    ("LightGBM in a pipeline", scaled(lightgbm.LGBMRegressor(verbose=-1)), diabetes),
    ("XGBoost", xgboost.XGBClassifier(), tumours),
    ("XGBoost, missing numbers", xgboost.XGBClassifier(), with_holes),
    ("XGBoost in a pipeline", scaled(xgboost.XGBRegressor()), diabetes),
]

KEPT: list[tuple[str, Any, Data, str]] = [
    ("nearest neighbours", KNeighborsClassifier(), flowers, "KNeighborsClassifier is not converted"),
    ("Gaussian process", GaussianProcessRegressor(alpha=0.1), diabetes, "GaussianProcessRegressor is not converted"),
    ("SVC with probabilities", scaled(SVC(probability=True)), flowers, "use CalibratedClassifierCV(SVC())"),
    (
        "quantiles",
        scaled(QuantileTransformer(n_quantiles=50), Ridge()),
        diabetes,
        "QuantileTransformer is not converted",
    ),
    ("forest, 2 labels", FOREST, two_labels, "RandomForestClassifier with several targets is not converted"),
    ("boosting on a model", GradientBoostingRegressor(init=Ridge()), diabetes, "with another model as init"),
    (
        "a user's function",
        make_pipeline(FunctionTransformer(lambda X: X[:, :3]), Ridge()),
        diabetes,
        "a function of the user is not converted",
    ),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """OpenMP's threads spin while they wait for each other: on a busy machine that takes a hundred times longer."""
    with threadpool_limits(1):
        yield


def fitted(estimator: Any, data: Data) -> tuple[Any, Any, Signature, Array]:
    """Return the estimator to convert, its prediction functions, its signature, and the model's table."""
    X, y = data()
    estimator = estimator.fit(X, y)
    layout, tensors = tensors_of(X)
    if not isinstance(X, pd.DataFrame):
        bare = opened(estimator, "joblib")
        assert bare.signature is not None
        return (
            estimator,
            bare.functions,
            compilable(bare.signature) or bare.signature,
            np.asarray(Model(bare.functions, bare.signature).table(tensors)),
        )
    prepared = prepare(estimator)
    functions = EstimatorFunctions(prepared)
    inputs = specs_of(tensors)
    table = np.asarray(Model(functions, Signature(layout, inputs, ())).table(tensors))
    signature = Signature(layout, inputs, functions.specs(table), classes_of(prepared))
    return prepared, functions, compilable(signature) or signature, table


@pytest.mark.parametrize(("estimator", "data"), [pytest.param(*rest, id=name) for name, *rest in COMPILED])
def test_compiled(estimator: Any, data: Data, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator, functions, signature, table = fitted(estimator, data)
    monkeypatch.setattr(timing, "faster", lambda *_: True)  # this test is about the answers; benchmarks are about time
    verdict, onnx = compile_in_child(estimator, signature, table[::2], functions=functions, seconds=0.05)
    print(f"{request.node.callspec.id}: {verdict.sentence()}")
    assert onnx is not None
    assert verdict.rows >= 2000
    compiled = OnnxFunctions(onnx, signature)
    for spec in signature.outputs:  # on the rows that compiling did not see
        expected, got = (predict(table[1::2], (spec.name,))[0] for predict in (functions, compiled))
        assert got.shape == expected.shape
        if expected.dtype.kind == "f":
            tolerance = 1e-4 if np.float32 in (expected.dtype, table.dtype) else 1e-8
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance / 1e3 * np.abs(expected).max())
        else:
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("estimator", "data", "reason"), [pytest.param(*rest, id=name) for name, *rest in KEPT])
def test_kept(estimator: Any, data: Data, reason: str, request: pytest.FixtureRequest) -> None:
    estimator, functions, signature, table = fitted(estimator, data)
    verdict, onnx = compile_in_child(estimator, signature, table[::2], functions=functions, seconds=0.05)
    print(f"{request.node.callspec.id}: {verdict.sentence()}")
    assert onnx is None
    assert verdict.chosen == "original"
    assert reason in verdict.reason
