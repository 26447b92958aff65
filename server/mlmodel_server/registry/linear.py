"""Linear models, discriminant analysis and regression that numpy computes."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

_SCORING = {"scoring": None, "cv": None}

ENTRIES = (
    *of("sklearn.cross_decomposition._pls", "CCA PLSCanonical PLSRegression PLSSVD"),
    *of("sklearn.discriminant_analysis", "LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis"),
    *of("sklearn.isotonic", "IsotonicRegression"),
    *of("sklearn.kernel_ridge", "KernelRidge"),
    *of("sklearn.linear_model._base", "LinearRegression"),
    *of("sklearn.linear_model._bayes", "ARDRegression BayesianRidge"),
    *of(
        "sklearn.linear_model._coordinate_descent",
        "ElasticNet ElasticNetCV Lasso LassoCV MultiTaskElasticNet MultiTaskElasticNetCV MultiTaskLasso "
        "MultiTaskLassoCV",
    ),
    *of("sklearn.linear_model._glm.glm", "GammaRegressor PoissonRegressor TweedieRegressor"),
    *of("sklearn.linear_model._huber", "HuberRegressor"),
    *of("sklearn.linear_model._least_angle", "Lars LarsCV LassoLars LassoLarsCV LassoLarsIC"),
    *of("sklearn.linear_model._logistic", "LogisticRegression LogisticRegressionCV", unneeded=_SCORING),
    *of("sklearn.linear_model._omp", "OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV"),
    *of("sklearn.linear_model._passive_aggressive", "PassiveAggressiveClassifier PassiveAggressiveRegressor"),
    *of("sklearn.linear_model._perceptron", "Perceptron"),
    *of("sklearn.linear_model._quantile", "QuantileRegressor"),
    *of("sklearn.linear_model._ransac", "RANSACRegressor"),
    *of("sklearn.linear_model._ridge", "Ridge RidgeCV RidgeClassifier RidgeClassifierCV", unneeded=_SCORING),
    *of("sklearn.linear_model._stochastic_gradient", "SGDClassifier SGDOneClassSVM SGDRegressor"),
    *of("sklearn.linear_model._theil_sen", "TheilSenRegressor"),
)
