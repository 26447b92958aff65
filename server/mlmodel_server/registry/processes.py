"""Gaussian processes and their kernels."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of("sklearn.gaussian_process._gpc", "GaussianProcessClassifier _BinaryGaussianProcessClassifierLaplace"),
    *of("sklearn.gaussian_process._gpr", "GaussianProcessRegressor"),
    *of(
        "sklearn.gaussian_process.kernels",
        "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation Hyperparameter Matern "
        "PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel",
    ),
)
