"""Convert predictors that are a formula: linear models, neural networks, Bayes, discriminants, nearest centres."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.compile.graph import Columns, Graph, Prediction, argmax, converts, either, normalised, pair, sigmoid
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.tensors import Array


def _linear(graph: Graph, estimator: Any, matrix: str) -> str:
    product = graph.add("MatMul", matrix, np.atleast_2d(estimator.coef_).T)
    return graph.add("Add", product, np.asarray(estimator.intercept_, dtype=np.float64))


@converts("sklearn.LinearModel", "sklearn.BaseSGDRegressor")
def _linear_regressor(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    return Prediction(_linear(graph, estimator, table.matrix(graph)))


@converts("sklearn._PLS")
def _partial_least_squares(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    return Prediction(_linear(graph, estimator, graph.add("Sub", table.matrix(graph), estimator._x_mean)))


@converts("sklearn._GeneralizedLinearRegressor")
def _generalized_linear(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    raw = _linear(graph, estimator, table.matrix(graph))
    logarithmic = type(estimator._base_loss.link).__name__ == "LogLink"
    return Prediction(graph.add("Exp", raw) if logarithmic else raw)


@converts("sklearn.LinearClassifierMixin")
def _linear_classifier(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    classes = estimator.classes_
    if len(np.atleast_2d(estimator.coef_)) != (1 if len(classes) == 2 else len(classes)):
        raise Unsupported(f"{type(estimator).__name__} with several targets is not converted")
    scores = _linear(graph, estimator, table.matrix(graph))
    loss = getattr(estimator, "loss", None)
    proba = ""
    if len(classes) == 2:
        if loss in (None, "log_loss"):
            proba = pair(graph, sigmoid(graph, scores))
        return either(graph, classes, graph.add("Greater", scores, 0.0), proba=proba, scores=scores)
    if loss is None:
        proba = graph.add("Softmax", scores, axis=1)
    elif loss == "log_loss":  # SGDClassifier: one class against the rest
        proba = normalised(graph, sigmoid(graph, scores), len(classes))
    return argmax(graph, classes, scores, proba=proba, scores=scores)


@converts("sklearn.BaseMultilayerPerceptron")
def _perceptron(graph: Graph, network: Any, table: Columns) -> Prediction:
    values = table.matrix(graph)
    activations = [network.activation] * (network.n_layers_ - 2) + [network.out_activation_]
    for weights, intercepts, activation in zip(network.coefs_, network.intercepts_, activations, strict=True):
        values = graph.add("Add", graph.add("MatMul", values, weights), intercepts)
        if activation == "softmax":
            values = graph.add("Softmax", values, axis=1)
        elif activation == "logistic":
            values = sigmoid(graph, values)
        elif activation != "identity":
            values = graph.add({"tanh": "Tanh", "relu": "Relu"}[activation], values)
    binarizer = getattr(network, "_label_binarizer", None)
    if binarizer is None:
        return Prediction(values)
    if binarizer.y_type_.startswith("multilabel"):
        raise Unsupported(f"{type(network).__name__} with several targets is not converted")
    if network.n_outputs_ > 1:
        return argmax(graph, network.classes_, values, proba=values)
    return either(graph, network.classes_, graph.add("Greater", values, 0.5), proba=pair(graph, values))


def _bayes(graph: Graph, classes: Array, likelihood: str) -> Prediction:
    """Return the prediction from the joint log likelihood, [rows, classes]."""
    total = graph.add("ReduceLogSumExp", likelihood, np.array([1]), keepdims=1)
    proba = graph.add("Exp", graph.add("Sub", likelihood, total))
    return argmax(graph, classes, likelihood, proba=proba)


@converts("sklearn.GaussianNB")
def _gaussian_bayes(graph: Graph, bayes: Any, table: Columns) -> Prediction:
    rows = graph.add("Unsqueeze", table.matrix(graph), np.array([1]))
    distance = graph.add("Sub", rows, bayes.theta_[None])
    weighted = graph.add("Div", graph.add("Mul", distance, distance), bayes.var_[None])
    exponent = graph.add("Mul", graph.add("ReduceSum", weighted, np.array([2]), keepdims=0), -0.5)
    constant = np.log(bayes.class_prior_) - 0.5 * np.log(2 * np.pi * bayes.var_).sum(axis=1)
    return _bayes(graph, bayes.classes_, graph.add("Add", exponent, constant))


@converts("sklearn.MultinomialNB", "sklearn.ComplementNB")
def _multinomial_bayes(graph: Graph, bayes: Any, table: Columns) -> Prediction:
    likelihood = graph.add("MatMul", table.matrix(graph), bayes.feature_log_prob_.T)
    if type(bayes).__name__ == "MultinomialNB":
        likelihood = graph.add("Add", likelihood, bayes.class_log_prior_)
    return _bayes(graph, bayes.classes_, likelihood)


@converts("sklearn.BernoulliNB")
def _bernoulli_bayes(graph: Graph, bayes: Any, table: Columns) -> Prediction:
    matrix = table.matrix(graph)
    if bayes.binarize is not None:
        present = graph.add("Greater", matrix, float(bayes.binarize))
        matrix = graph.add("Where", present, 1.0, 0.0)
    absent = np.log(1 - np.exp(bayes.feature_log_prob_))
    weighted = graph.add("MatMul", matrix, (bayes.feature_log_prob_ - absent).T)
    return _bayes(graph, bayes.classes_, graph.add("Add", weighted, bayes.class_log_prior_ + absent.sum(axis=1)))


@converts("sklearn.QuadraticDiscriminantAnalysis")
def _quadratic_discriminant(graph: Graph, model: Any, table: Columns) -> Prediction:
    matrix = table.matrix(graph)
    parts = []
    for mean, rotation, scaling, prior in zip(
        model.means_, model.rotations_, model.scalings_, model.priors_, strict=True
    ):
        turned = graph.add("MatMul", graph.add("Sub", matrix, mean), rotation * scaling**-0.5)
        distance = graph.over_columns("ReduceSum", graph.add("Mul", turned, turned))
        half = graph.add("Mul", graph.add("Add", distance, float(np.log(scaling).sum())), -0.5)
        parts.append(graph.add("Add", half, float(np.log(prior))))
    likelihood = graph.concat(parts)
    return argmax(graph, model.classes_, likelihood, proba=graph.add("Softmax", likelihood, axis=1))


@converts("sklearn._BaseKMeans")
def _nearest_centre(graph: Graph, model: Any, table: Columns) -> Prediction:
    centres = model.cluster_centers_
    doubled = graph.add("MatMul", table.matrix(graph), -2.0 * centres.T)
    distances = graph.add("Add", doubled, (centres**2).sum(axis=1))
    return Prediction(graph.add("ArgMin", distances, axis=1, keepdims=0))
