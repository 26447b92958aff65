"""Gaussian mixtures and covariances."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of("sklearn.covariance._elliptic_envelope", "EllipticEnvelope"),
    *of("sklearn.covariance._empirical_covariance", "EmpiricalCovariance"),
    *of("sklearn.covariance._graph_lasso", "GraphicalLasso GraphicalLassoCV"),
    *of("sklearn.covariance._robust_covariance", "MinCovDet"),
    *of("sklearn.covariance._shrunk_covariance", "LedoitWolf OAS ShrunkCovariance"),
    *of("sklearn.mixture._bayesian_mixture", "BayesianGaussianMixture"),
    *of("sklearn.mixture._gaussian_mixture", "GaussianMixture"),
)
