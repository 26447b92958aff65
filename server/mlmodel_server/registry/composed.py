"""Models that consist of models: pipelines, searches, calibration, several classes or outputs."""

from __future__ import annotations

from typing import Any

from mlmodel_server.formats.trees import check_lengths
from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import ordered


def check_chain(chain: Any) -> None:
    """Check that each column of the answer has its place: one without would contain what the memory had before."""
    known = vars(chain)
    if "order_" in known:
        ordered(known["order_"], len(known["order_"]))
        check_lengths(len(known["order_"]), known["estimators_"])


_OF_SEARCHES: dict[str, Any] = {
    "param_distributions": {},
    "param_grid": {},
    "scoring": None,
    "scorer_": None,
    "refit": True,
    "cv": None,
}
"""A search predicts with its best estimator."""

ENTRIES = (
    *of(
        "sklearn.calibration",
        "CalibratedClassifierCV _CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    ),
    *of("sklearn.dummy", "DummyClassifier DummyRegressor"),
    *of("sklearn.frozen._frozen", "FrozenEstimator"),
    *of("sklearn.metrics._scorer", "_CurveScorer _PassthroughScorer _Scorer"),
    *of("sklearn.model_selection._classification_threshold", "FixedThresholdClassifier TunedThresholdClassifierCV"),
    *of("sklearn.model_selection._search", "GridSearchCV RandomizedSearchCV", unneeded=_OF_SEARCHES),
    *of(
        "sklearn.model_selection._search_successive_halving",
        "HalvingGridSearchCV HalvingRandomSearchCV",
        unneeded=_OF_SEARCHES,
    ),
    *of(
        "sklearn.model_selection._split",
        "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut "
        "PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold StratifiedKFold "
        "StratifiedShuffleSplit TimeSeriesSplit _CVIterableWrapper",
    ),
    *of("sklearn.multiclass", "OneVsOneClassifier OneVsRestClassifier OutputCodeClassifier _ConstantPredictor"),
    *of("sklearn.multioutput", "ClassifierChain RegressorChain", check_chain),
    *of("sklearn.multioutput", "MultiOutputClassifier MultiOutputRegressor"),
    *of("sklearn.pipeline", "FeatureUnion Pipeline"),
    *of("sklearn.semi_supervised._label_propagation", "LabelPropagation LabelSpreading"),
    *of("sklearn.semi_supervised._self_training", "SelfTrainingClassifier"),
)
