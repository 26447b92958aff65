"""Gaussian mixtures and covariances."""

from __future__ import annotations

from typing import Any

from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import dense


def check_covariance(model: Any) -> None:
    """Check that the matrices are as wide as a row: scipy's Mahalanobis distance reads the precision without a check,
    and a model that stores none computes it from the covariance."""
    known = vars(model)
    if "covariance_" in known:
        width = known["n_features_in_"]
        dense(known["location_"], width)
        dense(known["covariance_"], width, width)
        if known.get("precision_") is not None:
            dense(known["precision_"], width, width)


ENTRIES = (
    *of("sklearn.covariance._elliptic_envelope", "EllipticEnvelope", check_covariance),
    *of("sklearn.covariance._empirical_covariance", "EmpiricalCovariance", check_covariance),
    *of("sklearn.covariance._graph_lasso", "GraphicalLasso GraphicalLassoCV", check_covariance),
    *of("sklearn.covariance._robust_covariance", "MinCovDet", check_covariance),
    *of("sklearn.covariance._shrunk_covariance", "LedoitWolf OAS ShrunkCovariance", check_covariance),
    *of("sklearn.mixture._bayesian_mixture", "BayesianGaussianMixture"),
    *of("sklearn.mixture._gaussian_mixture", "GaussianMixture"),
)
