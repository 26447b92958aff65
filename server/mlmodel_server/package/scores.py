"""Scores of the model on the given rows, which the package keeps for its readers."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.tensors import Array


def scores(task: str, y: Array, predicted: Array) -> dict[str, Any]:
    """Return accuracy, precision, recall and F1 of a classifier (for the second of two classes, else the mean over
    classes), or MAE and RMSE of a regressor, in the unit of ``y``. ``y`` and ``predicted`` have shape [rows]; empty if
    a row has one label and several predictions, such as quantiles."""
    from sklearn import metrics

    if np.ndim(predicted) > np.ndim(y):
        return {}
    if task == "regression":
        return {
            "rows": len(y),
            "mae": float(metrics.mean_absolute_error(y, predicted)),
            "rmse": float(metrics.root_mean_squared_error(y, predicted)),
        }
    if task != "classification" or np.ndim(predicted) != 1:
        return {}
    labels = sorted(set(y.tolist()) | set(predicted.tolist()))
    two = len(labels) == 2
    options: dict[str, Any] = {"average": "binary", "pos_label": labels[1]} if two else {"average": "macro"}
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(y, predicted, zero_division=0.0, **options)
    return {
        "rows": len(y),
        "of": str(labels[1]) if two else "mean over classes",
        "accuracy": float(metrics.accuracy_score(y, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }
