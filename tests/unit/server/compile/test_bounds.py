"""Bounds of a graph: no limit is left unchecked that a request within the bounds of the input can exceed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from mlmodel_server.compile.convert import convert
from mlmodel_server.compile.domain import SAFE, Domain
from mlmodel_server.compile.functions import DOMAIN, GUARD, compilable
from mlmodel_server.formats.sklearn import opened
from mlmodel_server.tensors import Array

FOREST = RandomForestClassifier(4, random_state=1)
TREE = DecisionTreeClassifier(max_depth=3, random_state=1)


def converted(steps: list[Any], scale: float = 1.0) -> tuple[onnxruntime.InferenceSession, Array]:
    X, y = load_iris(return_X_y=True)
    model = opened(make_pipeline(*steps).fit(X * scale, y), "joblib")
    signature = compilable(model.signature) if model.signature else None
    assert signature is not None
    onnx, _ = convert(model.estimator, signature, Domain())
    return onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"]), X * scale


def is_guarded(session: onnxruntime.InferenceSession) -> bool:
    return GUARD in {output.name for output in session.get_outputs()}


@pytest.mark.parametrize(
    ("steps", "scale", "guarded"),
    [
        ([StandardScaler(), PCA(3), FOREST], 1.0, False),
        ([SimpleImputer(), RobustScaler(), TruncatedSVD(2), FOREST], 1.0, False),
        ([MinMaxScaler(), FeatureUnion([("a", PCA(2)), ("b", MaxAbsScaler())]), LogisticRegression()], 1.0, False),
        ([PolynomialFeatures(3), StandardScaler(), LogisticRegression()], 1.0, False),
        ([StackingClassifier([("a", FOREST), ("b", TREE)], TREE, cv=2)], 1.0, False),
        ([StandardScaler(), FOREST], 1e-9, False),
        ([StandardScaler(), FOREST], 1e-30, True),
        ([PolynomialFeatures(3), FOREST], 1.0, True),
        ([FunctionTransformer(np.exp), LogisticRegression()], 1.0, True),
        ([ColumnTransformer([("e", FunctionTransformer(np.exp), [0])], remainder="passthrough"), TREE], 1.0, True),
        ([PowerTransformer(), LogisticRegression()], 1.0, True),
        ([Normalizer(), LogisticRegression()], 1.0, True),
    ],
    ids=str,
)
def test_only_limits_that_a_request_may_exceed_are_checked(steps: list[Any], scale: float, guarded: bool) -> None:
    session, X = converted(steps, scale)
    assert is_guarded(session) is guarded
    limits = msgspec.json.decode(session.get_modelmeta().custom_metadata_map[DOMAIN], type=Domain).steps
    assert limits
    random = np.random.default_rng(1)
    rows = X[random.integers(len(X), size=200)] * 10.0 ** random.uniform(-20, 20, size=(200, 4))
    rows[:, :] *= np.sign(random.normal(size=rows.shape))
    rows = np.concatenate([rows, np.eye(4) * (SAFE**0.5 * 0.999), np.full((1, 4), SAFE**0.5 * 0.499)])
    rows = rows[(rows**2).sum(axis=1) < SAFE]
    rejected = 0
    for row in rows:
        for name, step in limits.items():
            (numbers,) = session.run([name], {"numbers": row[None]})
            rejected += any(limit.rejects(numbers) for limit in step)
    assert guarded or not rejected
