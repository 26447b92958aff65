"""Every estimator that scikit-learn has, in the variants that its own tests make: what is saved is opened again.

The machine that reads pickles knows the constructors that fitted estimators use, and no others: here it shows whether
those are all.
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
SLOWER = {"TSNE", "MDS"}  # nothing in them that others have not


def _fitted(estimator: Any) -> tuple[Any, Any] | None:
    """The estimator and the rows that it was fitted on; None when it takes none of those at hand."""
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=7)
    for table in (*TABLES, TEXTS, DICTIONARIES):
        for target in TARGETS:
            try:
                return estimator.fit(table, target) if target is not None else estimator.fit(table), table
            except Exception:  # it wants others
                continue
    return None


def _instances() -> list[Any]:
    found = []
    for name, cls in all_estimators():
        if name in SLOWER:
            continue
        try:
            found += [pytest.param(instance, id=name) for instance in _construct_instances(cls)]
        except BaseException as error:  # pytest's Skipped is no Exception
            print(f"{name} is made in another way ({type(error).__name__})")
    return found


@pytest.mark.parametrize("estimator", _instances())
def test_an_estimator_is_opened_and_answers_the_same(estimator: Any) -> None:
    made = _fitted(estimator)
    if made is None:
        pytest.skip("it takes none of the tables at hand")
    fitted, rows = made
    for protocol in (None, 5, 2):
        buffer = io.BytesIO()
        joblib.dump(fitted, buffer, protocol=protocol)
        opened = open_artefact(buffer.getvalue(), "model.joblib")
        for method in ("predict", "predict_proba", "transform"):
            try:
                expected = getattr(fitted, method)(rows)
            except Exception:  # not this one's
                continue
            found = getattr(opened, method)(rows)
            for one, other in zip(_arrays(expected), _arrays(found), strict=True):
                np.testing.assert_allclose(one, other) if one.dtype.kind == "f" else np.testing.assert_array_equal(
                    one, other
                )


def _arrays(answer: Any) -> list[Any]:
    answers = answer if isinstance(answer, (list, tuple)) else [answer]
    return [np.asarray(each.toarray() if hasattr(each, "toarray") else each) for each in answers]
