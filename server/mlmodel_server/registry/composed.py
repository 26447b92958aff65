"""Models that consist of models: pipelines, searches, calibration, several classes or outputs."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of(
        "sklearn.calibration",
        "CalibratedClassifierCV _CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    ),
    *of("sklearn.dummy", "DummyClassifier DummyRegressor"),
    *of("sklearn.frozen._frozen", "FrozenEstimator"),
    *of("sklearn.metrics._scorer", "_CurveScorer _PassthroughScorer _Scorer"),
    *of("sklearn.model_selection._classification_threshold", "FixedThresholdClassifier TunedThresholdClassifierCV"),
    *of("sklearn.model_selection._search", "GridSearchCV RandomizedSearchCV"),
    *of("sklearn.model_selection._search_successive_halving", "HalvingGridSearchCV HalvingRandomSearchCV"),
    *of(
        "sklearn.model_selection._split",
        "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut "
        "PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold StratifiedKFold "
        "StratifiedShuffleSplit TimeSeriesSplit _CVIterableWrapper",
    ),
    *of("sklearn.multiclass", "OneVsOneClassifier OneVsRestClassifier OutputCodeClassifier _ConstantPredictor"),
    *of("sklearn.multioutput", "ClassifierChain MultiOutputClassifier MultiOutputRegressor RegressorChain"),
    *of("sklearn.pipeline", "FeatureUnion Pipeline"),
    *of("sklearn.semi_supervised._label_propagation", "LabelPropagation LabelSpreading"),
    *of("sklearn.semi_supervised._self_training", "SelfTrainingClassifier"),
)
