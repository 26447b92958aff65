"""A small fitted model of every class in the registry, and the rows to predict."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import BisectingKMeans, FeatureAgglomeration
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multioutput import ClassifierChain, RegressorChain
from sklearn.neighbors import (
    KernelDensity,
    KNeighborsClassifier,
    KNeighborsRegressor,
    LocalOutlierFactor,
    RadiusNeighborsClassifier,
)
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, PolynomialFeatures, SplineTransformer, TargetEncoder
from sklearn.svm import SVC, SVR, NuSVC, OneClassSVM
from sklearn.utils import all_estimators
from sklearn.utils._test_common.instance_generator import _construct_instances

SEED = 7
ROWS = 150  # numpy keeps small blocks of memory for itself, where MALLOC_PERTURB_ has no effect
_random = np.random.default_rng(SEED)
X = np.round(_random.normal(size=(40, 4)), 3)
LABELS = np.digitize(X[:, 0] + X[:, 1], [-0.6, 0.6])
PAIRS = np.c_[LABELS > 0, LABELS > 1].astype(int)
TEXTS = [" ".join(words) for words in _random.choice(["good", "bad", "day", "night", "long"], (40, 4))]
DICTIONARIES = [{"a": float(row[0]), f"b{row[1] > 0}": 1.0} for row in X]
CATEGORIES = _random.integers(0, 5, (40, 2)).astype(float)
_TABLES: tuple[Any, ...] = (X, np.abs(X), X[:, :1], X[:, 0], X @ X.T, TEXTS, DICTIONARIES)
_TARGETS: tuple[Any, ...] = (LABELS, PAIRS, X[:, 0], LABELS + 1.0, None)
_SLOW = {"TSNE", "MDS", "ClassicalMDS", "SpectralEmbedding"}  # they can only be fitted


def _variants() -> Iterator[tuple[Any, Any, Any]]:
    """Yield estimators with the table and target to fit: the states that default parameters do not reach."""
    for algorithm in ("brute", "kd_tree", "ball_tree"):
        yield KNeighborsClassifier(3, algorithm=algorithm, leaf_size=5), X, LABELS
        yield KNeighborsRegressor(3, algorithm=algorithm, weights="distance", leaf_size=5), X, X[:, :2]
        yield RadiusNeighborsClassifier(9.0, algorithm=algorithm, leaf_size=5), X, LABELS
        yield LocalOutlierFactor(5, novelty=True, algorithm=algorithm), X, None
    for metric, options in (("seuclidean", {"V": X.var(0)}), ("mahalanobis", {"VI": np.eye(4)})):
        for algorithm in ("brute", "ball_tree"):
            yield KNeighborsClassifier(3, algorithm=algorithm, metric=metric, metric_params=options), X, LABELS
    yield KNeighborsClassifier(3, metric_params={"w": np.ones(4)}, p=3), X, LABELS
    yield KNeighborsClassifier(3, metric="haversine", algorithm="ball_tree"), X[:, :2], LABELS
    yield KNeighborsClassifier(3, algorithm="brute"), sp.csr_matrix(X), LABELS
    yield KernelDensity(metric="manhattan", leaf_size=5), X, None
    for machine in (SVC(), SVC(kernel="linear"), NuSVC(nu=0.1), SVR(), OneClassSVM(), SVC(kernel="precomputed")):
        table = X @ X.T if machine.kernel == "precomputed" else X
        yield machine, table, LABELS
        if machine.kernel != "precomputed":
            yield type(machine)(**machine.get_params()), sp.csr_matrix(X), LABELS
    categorical = np.c_[CATEGORIES, X]
    yield HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3, categorical_features=[]), X, LABELS
    yield HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3), categorical, LABELS
    yield GradientBoostingClassifier(n_estimators=3, max_depth=2, init="zero"), X, LABELS
    yield GradientBoostingClassifier(n_estimators=3, max_depth=2, init=LogisticRegression()), X, LABELS
    yield GradientBoostingClassifier(n_estimators=3, max_depth=2), X, PAIRS[:, 0]
    yield BisectingKMeans(4), X, None
    yield FeatureAgglomeration(2), X, None
    for encoder in (
        OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=9),
        OneHotEncoder(drop="first"),
        OneHotEncoder(sparse_output=False, handle_unknown="ignore"),
        TargetEncoder(),
        KBinsDiscretizer(3, encode="onehot"),
    ):
        yield make_pipeline(encoder, LogisticRegression()), CATEGORIES, LABELS
    yield make_pipeline(OneHotEncoder(), LogisticRegression()), CATEGORIES.astype(int).astype(str), LABELS
    for transformer in (
        PolynomialFeatures((2, 3), interaction_only=True),
        PolynomialFeatures(3),
        SplineTransformer(4),
        SplineTransformer(4, extrapolation="periodic"),
        SplineTransformer(4, sparse_output=True),
    ):
        yield make_pipeline(transformer, LogisticRegression()), X, LABELS
    yield make_pipeline(CountVectorizer(), LogisticRegression()), TEXTS, LABELS
    yield make_pipeline(TfidfVectorizer(), SGDClassifier(random_state=SEED)), TEXTS, LABELS
    yield make_pipeline(DictVectorizer(), LogisticRegression()), DICTIONARIES, LABELS
    yield ClassifierChain(LogisticRegression(), order=[1, 0]), X, PAIRS
    yield RegressorChain(LogisticRegression(), order=[1, 0]), X, PAIRS
    kernel = kernels.ConstantKernel() * kernels.Matern(nu=1.5) + kernels.WhiteKernel()
    yield GaussianProcessRegressor(kernel, optimizer=None), X, X[:, 0]
    parts = [("a", SplineTransformer(3), [0, 1]), ("b", PolynomialFeatures(2), [2, 3])]
    yield make_pipeline(ColumnTransformer(parts), LogisticRegression()), X, LABELS
    yield make_pipeline(FeatureUnion([(name, part) for name, part, _ in parts]), LogisticRegression()), X, LABELS


def _boosters() -> Iterator[tuple[Any, Any, Any]]:
    from lightgbm import LGBMClassifier
    from xgboost import XGBClassifier

    yield XGBClassifier(n_estimators=3, max_depth=2, n_jobs=1), X, LABELS
    yield LGBMClassifier(n_estimators=3, min_child_samples=3, n_jobs=1, verbose=-1), X, LABELS


def _generated() -> Iterator[tuple[Any, Any, Any]]:
    """Yield each estimator with each of scikit-learn's own test parameters, on the first table that it accepts."""
    for name, cls in all_estimators():
        if name in _SLOW:
            continue
        try:
            instances = list(_construct_instances(cls))
        except BaseException:  # pytest's Skipped is not an Exception: it requires an optional library
            continue
        yield from ((instance, None, None) for instance in instances[:2])


def _fit(estimator: Any, table: Any, target: Any) -> tuple[Any, Any] | None:
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=SEED)
    for rows in [table] if table is not None else _TABLES:
        for goal in [target] if table is not None else _TARGETS:
            try:
                return (estimator.fit(rows, goal) if goal is not None else estimator.fit(rows)), rows
            except Exception:
                continue
    return None


def fitted() -> Iterator[tuple[str, Any, Any]]:
    """Yield a name, a fitted estimator, and the rows to predict."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401

    for source in (_variants(), _boosters(), _generated()):
        for index, (estimator, table, target) in enumerate(source):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = _fit(estimator, table, target)
            if found is not None:
                model, rows = found
                parts = getattr(model, "steps", [("", model)])
                yield f"{'+'.join(type(part).__name__ for _, part in parts)}/{index}", model, _repeated(rows)


def _repeated(rows: Any) -> Any:
    if isinstance(rows, list):
        return (rows * (ROWS // len(rows) + 1))[:ROWS]
    order = np.arange(ROWS) % rows.shape[0]
    return rows[order]
