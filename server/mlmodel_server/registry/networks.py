"""Neural networks."""

from __future__ import annotations

from typing import Any

from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import whole_number


def check_layers(model: Any) -> None:
    """Check the number of layers: with none, the network would write into the rows of the request."""
    known = vars(model)
    if "coefs_" in known:
        layers = len(known["coefs_"]) + 1
        whole_number(known["n_layers_"], max(layers, 2), layers)


ENTRIES = (
    *of("sklearn.neural_network._multilayer_perceptron", "MLPClassifier MLPRegressor", check_layers),
    *of("sklearn.neural_network._rbm", "BernoulliRBM"),
    *of("sklearn.neural_network._stochastic_optimizers", "AdamOptimizer SGDOptimizer"),
)
