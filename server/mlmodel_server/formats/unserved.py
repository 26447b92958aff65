"""Why a fitted estimator is not served, and what to use instead."""

from __future__ import annotations

from typing import Any

from mlmodel_server.formats import documents, methods

_LABELS = ("LabelBinarizer", "LabelEncoder", "MultiLabelBinarizer")


def reason(estimator: Any) -> str:
    """Return in one sentence why no method of the estimator is served; "" if one is."""
    if not hasattr(estimator, "get_params"):
        return f"{type(estimator).__name__} is not a model of scikit-learn: save a fitted estimator or pipeline"
    last = methods.last(estimator)
    name, found = type(last).__name__, methods.methods_of(estimator)
    if name == "LocalOutlierFactor" and not last.novelty:
        return (
            "LocalOutlierFactor with novelty=False scores only the rows that it was fitted on: set novelty=True, and "
            "fit again"
        )
    if name in _LABELS:
        return f"{name} transforms labels, not rows: serve the model, which returns the labels that it was fitted on"
    if not found:
        return _without_method(last, name)
    kind = documents.takes(estimator)
    if kind is None and not hasattr(estimator, "X_thresholds_"):
        return _unknown_rows(estimator)
    return "" if kind in (None, "table") or _is_fitted(estimator) else _not_fitted(estimator)


def _without_method(estimator: Any, name: str) -> str:
    listed = ", ".join(methods.SERVED)
    if hasattr(estimator, "fit_predict"):
        return (
            f"{name} gives a cluster only to the rows that it was fitted on: serve a classifier that was fitted on its "
            "labels, such as KNeighborsClassifier().fit(X, model.labels_)"
        )
    if hasattr(estimator, "fit_transform"):
        return f"{name} transforms only the rows that it was fitted on: use a model with transform, such as PCA"
    if hasattr(estimator, "covariance_"):
        return f"{name} estimates a covariance, and scores no row: use EllipticEnvelope, which has score_samples"
    return f"{name} has none of the methods {listed}: save a fitted estimator or pipeline of scikit-learn"


def _unknown_rows(estimator: Any) -> str:
    first = next(documents.vectorizers(estimator), estimator)
    if type(first).__name__ == "FeatureHasher":
        return "a FeatureHasher does not keep the names of its features: use a DictVectorizer"
    if type(first).__name__ == "PatchExtractor":
        return "a PatchExtractor takes images, not rows of a table"
    return _not_fitted(estimator)


def _not_fitted(estimator: Any) -> str:
    return f"the {type(estimator).__name__} is not fitted: call fit first"


def _is_fitted(estimator: Any) -> bool:
    """Whether an estimator was fitted, as scikit-learn sees it."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True
