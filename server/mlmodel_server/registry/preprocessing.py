"""Transformers of columns: scaling, encoding, imputation, selection."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of("sklearn.compose._column_transformer", "ColumnTransformer make_column_selector"),
    *of("sklearn.compose._target", "TransformedTargetRegressor"),
    *of("sklearn.feature_selection._from_model", "SelectFromModel"),
    *of("sklearn.feature_selection._rfe", "RFE RFECV"),
    *of("sklearn.feature_selection._sequential", "SequentialFeatureSelector"),
    *of(
        "sklearn.feature_selection._univariate_selection",
        "GenericUnivariateSelect SelectFdr SelectFpr SelectFwe SelectKBest SelectPercentile",
    ),
    *of("sklearn.feature_selection._variance_threshold", "VarianceThreshold"),
    *of("sklearn.impute._base", "MissingIndicator SimpleImputer"),
    *of("sklearn.impute._iterative", "IterativeImputer"),
    *of("sklearn.impute._knn", "KNNImputer"),
    *of(
        "sklearn.preprocessing._data",
        "Binarizer KernelCenterer MaxAbsScaler MinMaxScaler Normalizer PowerTransformer QuantileTransformer "
        "RobustScaler StandardScaler",
    ),
    *of("sklearn.preprocessing._discretization", "KBinsDiscretizer"),
    *of("sklearn.preprocessing._encoders", "OneHotEncoder OrdinalEncoder"),
    *of("sklearn.preprocessing._function_transformer", "FunctionTransformer"),
    *of("sklearn.preprocessing._label", "LabelBinarizer LabelEncoder MultiLabelBinarizer"),
    *of("sklearn.preprocessing._polynomial", "PolynomialFeatures SplineTransformer"),
    *of("sklearn.preprocessing._target_encoder", "TargetEncoder"),
)
