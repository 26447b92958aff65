"""Every estimator of scikit-learn, in the variants of scikit-learn's tests, is saved and loads again.

The interpreter of pickles has only the constructors that fitted estimators use: this test shows whether these are all.
"""

from __future__ import annotations

import io
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.utils import all_estimators
from sklearn.utils._test_common.instance_generator import _construct_instances

from mlmodel_server.loading.trust import open_artefact

X, Y = make_classification(60, 6, random_state=7)
TABLES: tuple[Any, ...] = (X, np.abs(X), X[:, :1], X[:, 0], X @ X.T)
TARGETS: tuple[Any, ...] = (Y, np.c_[Y, 1 - Y], Y + 0.5, Y + 1.0, None)
TEXTS, DICTIONARIES = ["a good day", "a bad day"] * 30, [{"a": 1.0}, {"b": 2.0}] * 30
SLOWER = {"TSNE", "MDS"}  # they contain nothing that others do not


def _fitted(estimator: Any) -> tuple[Any, Any] | None:
    """Return the estimator and the rows that it was fitted on; None if it accepts none of the tables."""
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=7)
    for table in (*TABLES, TEXTS, DICTIONARIES):
        for target in TARGETS:
            try:
                return estimator.fit(table, target) if target is not None else estimator.fit(table), table
            except Exception:  # it requires others
                continue
    return None


def _instances() -> list[Any]:
    parameters = []
    for name, cls in all_estimators():
        if name in SLOWER:
            continue
        try:
            parameters += [pytest.param(instance, id=name) for instance in _construct_instances(cls)]
        except BaseException as error:  # pytest's Skipped is not an Exception
            print(f"{name} cannot be constructed ({type(error).__name__})")
    return parameters


@pytest.mark.parametrize("estimator", _instances())
def test_an_estimator_loads_and_predicts_the_same(estimator: Any) -> None:
    fitted_with_rows = _fitted(estimator)
    if fitted_with_rows is None:
        pytest.skip("it accepts none of the tables")
    fitted, rows = fitted_with_rows
    for protocol in (None, 5, 2):
        buffer = io.BytesIO()
        joblib.dump(fitted, buffer, protocol=protocol)
        opened = open_artefact(buffer.getvalue(), "model.joblib")
        for method in ("predict", "predict_proba", "transform"):
            try:
                expected = getattr(fitted, method)(rows)
            except Exception:  # it does not have this method
                continue
            got = getattr(opened, method)(rows)
            for one, other in zip(_arrays(expected), _arrays(got), strict=True):
                np.testing.assert_allclose(one, other) if one.dtype.kind == "f" else np.testing.assert_array_equal(
                    one, other
                )


def _arrays(output: Any) -> list[Any]:
    parts = output if isinstance(output, (list, tuple)) else [output]
    return [np.asarray(part.toarray() if hasattr(part, "toarray") else part) for part in parts]
