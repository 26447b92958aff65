"""XGBoost and LightGBM. :mod:`~mlmodel_server.loading.rebuild` checks a booster before the library reads it, in joblib
files and in those of skops."""

from __future__ import annotations

from mlmodel_server.registry.entry import of, opaque

ENTRIES = (
    *of("lightgbm.basic", "Booster", contents=opaque),
    *of(
        "lightgbm.sklearn",
        "LGBMClassifier LGBMModel LGBMRanker LGBMRegressor",
        parameters=("classes_",),
    ),
    *of("xgboost.core", "Booster", contents=opaque),
    *of(
        "xgboost.sklearn",
        "XGBClassifier XGBModel XGBRFClassifier XGBRFRegressor XGBRanker XGBRegressor",
        parameters=("missing", "n_classes_"),
    ),
)
