"""Neural networks."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of("sklearn.neural_network._multilayer_perceptron", "MLPClassifier MLPRegressor"),
    *of("sklearn.neural_network._rbm", "BernoulliRBM"),
    *of("sklearn.neural_network._stochastic_optimizers", "AdamOptimizer SGDOptimizer"),
)
