"""Convert models of models: pipelines, votes, stacks, calibration, one model per class or target."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.compile.columns import elementwise
from mlmodel_server.compile.graph import (
    DOUBLE,
    INT64,
    Columns,
    Graph,
    Prediction,
    argmax,
    converts,
    labels,
    normalised,
    pair,
    predict,
    side_by_side,
    sigmoid,
    transform,
)
from mlmodel_server.compile.verdict import Unsupported


@converts("sklearn.Pipeline", checks=False)
def _pipeline(graph: Graph, pipeline: Any, table: Columns) -> Columns | Prediction:
    *steps, (_, last) = pipeline.steps
    for _, step in steps:
        if step is not None and not isinstance(step, str):  # "passthrough"
            table = transform(graph, step, table)
    if last is None or isinstance(last, str):
        return table
    return predict(graph, last, table) if hasattr(last, "predict") else transform(graph, last, table)


def _probabilities(graph: Graph, model: Any, table: Columns, classes: int) -> str:
    prediction = predict(graph, model, table)
    if not prediction.proba or not hasattr(model, "predict_proba"):
        raise Unsupported(f"the probabilities of {type(model).__name__} are not converted")
    if len(model.classes_) != classes:
        raise Unsupported(f"{type(model).__name__} that was not trained on every class is not converted")
    return prediction.proba


@converts("sklearn.VotingClassifier", checks=False)
def _voting_classifier(graph: Graph, voting: Any, table: Columns) -> Prediction:
    weights = [1.0] * len(voting.estimators_) if voting.weights is None else voting._weights_not_none
    count = len(voting.classes_)
    if voting.voting == "soft":
        parts = [_probabilities(graph, model, table, count) for model in voting.estimators_]
    else:
        parts = [_one_hot(graph, model, table, count) for model in voting.estimators_]
    weighted = [graph.add("Mul", part, float(weight)) for part, weight in zip(parts, weights, strict=True)]
    if voting.voting == "hard":
        return argmax(graph, voting.classes_, graph.sum(weighted))
    proba = graph.add("Div", graph.sum(weighted), float(np.sum(weights)))
    return argmax(graph, voting.classes_, proba, proba=proba)


def _one_hot(graph: Graph, model: Any, table: Columns, classes: int) -> str:
    index = predict(graph, model, table).index
    if not index or len(model.classes_) != classes:
        raise Unsupported(f"the vote of {type(model).__name__} is not converted")
    column = graph.add("Reshape", index, np.array([-1, 1]))
    return graph.add("Cast", graph.add("Equal", column, np.arange(classes).reshape(1, -1)), to=DOUBLE)


@converts("sklearn.VotingRegressor", checks=False)
def _voting_regressor(graph: Graph, voting: Any, table: Columns) -> Prediction:
    weights = [1.0] * len(voting.estimators_) if voting.weights is None else voting._weights_not_none
    parts = [
        graph.add("Mul", _column(graph, predict(graph, model, table).predict), float(weight))
        for model, weight in zip(voting.estimators_, weights, strict=True)
    ]
    return Prediction(graph.add("Div", graph.sum(parts), float(np.sum(weights))))


def _column(graph: Graph, values: str) -> str:
    return graph.add("Reshape", values, np.array([-1, 1]))


@converts("sklearn._BaseStacking", checks=False)
def _stacking(graph: Graph, stacking: Any, table: Columns) -> Prediction:
    parts = []
    for model, method in zip(stacking.estimators_, stacking.stack_method_, strict=True):
        if method == "predict_proba":
            count = len(stacking.classes_)
            proba = Columns.of(_probabilities(graph, model, table, count), count)
            parts.append(proba.pick([1]) if count == 2 else proba)
        elif method == "decision_function":
            parts.append(_scores(graph, model, table, len(stacking.classes_)))
        elif hasattr(stacking, "classes_"):
            raise Unsupported(f"{type(stacking).__name__} on labels is not converted")
        else:
            parts.append(Columns.of(_column(graph, predict(graph, model, table).predict), 1))
    if stacking.passthrough:
        parts.append(table)
    prediction = predict(graph, stacking.final_estimator_, side_by_side(graph, parts))
    if not hasattr(stacking, "classes_"):
        return prediction
    if not prediction.index or len(stacking.final_estimator_.classes_) != len(stacking.classes_):
        raise Unsupported(f"the vote of {type(stacking.final_estimator_).__name__} is not converted")
    named = graph.add("Gather", labels(stacking.classes_), prediction.index)
    return Prediction(named, prediction.index, prediction.proba, prediction.scores)


def _scores(graph: Graph, model: Any, table: Columns, classes: int) -> Columns:
    """Return the decision function of ``model``, [rows, classes], or [rows, 1] for two classes."""
    prediction = predict(graph, model, table)
    if not prediction.scores or len(model.classes_) != classes:
        raise Unsupported(f"the decision function of {type(model).__name__} is not converted")
    if classes == 2:
        return Columns.of(prediction.scores, 1)
    if getattr(model, "decision_function_shape", "ovr") != "ovr":
        raise Unsupported(f"{type(model).__name__} with decision_function_shape='ovo' is not converted")
    return Columns.of(prediction.scores, classes)


@converts("sklearn.BaggingClassifier", checks=False)
def _bagging_classifier(graph: Graph, bagging: Any, table: Columns) -> Prediction:
    count = len(bagging.classes_)
    parts = []
    for model, features in zip(bagging.estimators_, bagging.estimators_features_, strict=True):
        part = table.pick(features)
        vote = _probabilities if hasattr(model, "predict_proba") else _one_hot
        parts.append(vote(graph, model, part, count))
    proba = graph.add("Div", graph.sum(parts), float(bagging.n_estimators))
    return argmax(graph, bagging.classes_, proba, proba=proba)


@converts("sklearn.BaggingRegressor", checks=False)
def _bagging_regressor(graph: Graph, bagging: Any, table: Columns) -> Prediction:
    parts = [
        predict(graph, model, table.pick(features)).predict
        for model, features in zip(bagging.estimators_, bagging.estimators_features_, strict=True)
    ]
    return Prediction(graph.add("Div", graph.sum(parts), float(bagging.n_estimators)))


@converts("sklearn.CalibratedClassifierCV", checks=False)
def _calibrated(graph: Graph, calibrated: Any, table: Columns) -> Prediction:
    parts = [_calibration(graph, part, table) for part in calibrated.calibrated_classifiers_]
    proba = graph.add("Div", graph.sum(parts), float(len(parts)))
    return argmax(graph, calibrated.classes_, proba, proba=proba)


def _calibration(graph: Graph, part: Any, table: Columns) -> str:
    """Return probabilities: for each class its own curve, class against the rest, and then shares of the sum."""
    count = len(part.classes)
    if hasattr(part.estimator, "decision_function"):
        responses = _scores(graph, part.estimator, table, count)
    else:
        proba = Columns.of(_probabilities(graph, part.estimator, table, count), count)
        responses = proba.pick([1]) if count == 2 else proba
    if part.method == "temperature":
        raise Unsupported("CalibratedClassifierCV with method='temperature' is not converted")
    curve = _sigmoid if part.method == "sigmoid" else _isotonic
    curves = [
        curve(graph, calibrator, responses.column(graph, index)[0]) for index, calibrator in enumerate(part.calibrators)
    ]
    return pair(graph, curves[0]) if count == 2 else normalised(graph, graph.concat(curves), count)


def _sigmoid(graph: Graph, curve: Any, values: str) -> str:
    line = graph.add("Add", graph.add("Mul", values, float(curve.a_)), float(curve.b_))
    return sigmoid(graph, graph.add("Neg", line))


def _isotonic(graph: Graph, curve: Any, values: str) -> str:
    """Interpolate between the thresholds of an isotonic regression."""
    x, y = curve.X_thresholds_.astype(np.float64), curve.y_thresholds_.astype(np.float64)
    if curve.out_of_bounds != "clip" or len(x) < 2:
        raise Unsupported("an isotonic curve without bounds is not converted")
    inside = graph.add("Clip", graph.limit(values), float(x[0]), float(x[-1]))
    passed = graph.add("Cast", graph.add("LessOrEqual", x.reshape(1, -1), inside), to=DOUBLE)
    position = graph.add("Cast", graph.over_columns("ReduceSum", passed), to=INT64)
    low = graph.add("Sub", graph.add("Clip", position, np.array(1), np.array(len(x) - 1)), np.array(1))
    slope, x_low, y_low = (graph.add("Gather", table, low) for table in (np.diff(y) / np.diff(x), x[:-1], y[:-1]))
    return graph.add("Add", graph.add("Mul", slope, graph.add("Sub", inside, x_low)), y_low)


@converts("sklearn.OneVsRestClassifier", checks=False)
def _one_against_rest(graph: Graph, model: Any, table: Columns) -> Prediction:
    if model.label_binarizer_.y_type_ != "multiclass":
        raise Unsupported("OneVsRestClassifier with two classes or several targets is not converted")
    scores, shares = [], []
    for part in model.estimators_:
        prediction = predict(graph, part, table)
        if prediction.proba:
            shares.append(Columns.of(prediction.proba, 2).pick([1]).matrix(graph))
        if hasattr(part, "decision_function") and prediction.scores:
            scores.append(prediction.scores)
    count = len(model.estimators_)
    if count not in (len(scores), len(shares)):
        raise Unsupported("OneVsRestClassifier with a class that never or always occurs is not converted")
    decisions = graph.concat(scores if len(scores) == count else shares)
    proba = ""
    if len(shares) == count:
        joined = graph.concat(shares)
        total = graph.over_columns("ReduceSum", joined)
        proba = graph.add("Div", joined, graph.add("Where", graph.add("Equal", total, 0.0), 1.0, total))
    return argmax(graph, model.classes_, decisions, proba=proba, scores=decisions)


@converts("sklearn._MultiOutputEstimator", checks=False)
def _several_targets(graph: Graph, model: Any, table: Columns) -> Prediction:
    return Prediction(graph.concat([_column(graph, predict(graph, part, table).predict) for part in model.estimators_]))


@converts("sklearn.TransformedTargetRegressor", checks=False)
def _transformed_target(graph: Graph, model: Any, table: Columns) -> Prediction:
    inverse = model.inverse_func if model.transformer is None else None
    if inverse is None:
        raise Unsupported("TransformedTargetRegressor with a transformer is not converted")
    # A FunctionTransformer with validate=True inverts the prediction.
    return Prediction(elementwise(graph, inverse, graph.limit(predict(graph, model.regressor_, table).predict)))
