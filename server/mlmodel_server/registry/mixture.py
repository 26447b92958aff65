"""Gaussian mixtures and covariances."""

from __future__ import annotations

from typing import Any

from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import dense


def check_covariance(model: Any) -> None:
    """Check that the precision is as wide as a row: scipy's Mahalanobis distance reads it without a check."""
    known = vars(model)
    if "covariance_" not in known:
        return
    location = dense(known["location_"], None)
    width = known.get("n_features_in_", len(location))
    dense(location, width)
    for name in ("covariance_", "precision_"):
        if known.get(name) is not None:
            dense(known[name], width, width)


ENTRIES = (
    *of("sklearn.covariance._elliptic_envelope", "EllipticEnvelope", check_covariance),
    *of("sklearn.covariance._empirical_covariance", "EmpiricalCovariance", check_covariance),
    *of("sklearn.covariance._graph_lasso", "GraphicalLasso GraphicalLassoCV", check_covariance),
    *of("sklearn.covariance._robust_covariance", "MinCovDet", check_covariance),
    *of("sklearn.covariance._shrunk_covariance", "LedoitWolf OAS ShrunkCovariance", check_covariance),
    *of("sklearn.mixture._bayesian_mixture", "BayesianGaussianMixture"),
    *of("sklearn.mixture._gaussian_mixture", "GaussianMixture"),
)
