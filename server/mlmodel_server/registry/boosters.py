"""XGBoost and LightGBM. :mod:`~mlmodel_server.loading.rebuild` checks a booster before the library reads it."""

from __future__ import annotations

from mlmodel_server.registry.entry import of, opaque

ENTRIES = (
    *of("lightgbm.basic", "Booster", contents=opaque, formats=("joblib",)),
    *of(
        "lightgbm.sklearn",
        "LGBMClassifier LGBMModel LGBMRanker LGBMRegressor",
        formats=("joblib",),
        parameters=("classes_",),
    ),
    *of("xgboost.core", "Booster", contents=opaque, formats=("joblib",)),
    *of(
        "xgboost.sklearn",
        "XGBClassifier XGBModel XGBRFClassifier XGBRFRegressor XGBRanker XGBRegressor",
        formats=("joblib",),
        parameters=("missing", "n_classes_"),
    ),
)
