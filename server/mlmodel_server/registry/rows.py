"""The rows of the census: how to make one small fitted model of each class, and on what it is trained.

``python -m hack.census`` trains each row, serves it in every format, and compares the served answers with the
library's. A class that predicts and has no row here fails the census. Pure data: nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Target = Literal[
    "texts", "two", "classes", "number", "positive", "unit", "numbers", "several", "sparse", "grades", "nothing"
]
"""What is predicted: two labels as text; the classes 0 and 1; three classes; a number; a number above 0; a number
between 0 and 1; two numbers; two labels per row; a class where most are unknown; grades of groups; nothing."""

Role = Literal["predictor", "step", "alone", "other"]
"""``step``: has no ``predict``, and is tried as a step of a pipeline. ``alone``: has no ``predict``, and is tried by
what it has instead. ``other``: neither; ``reason`` says why."""


@dataclass(frozen=True)
class New:
    """An object in the arguments of a row: the class ``path`` with these arguments."""

    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One model of a class. ``path`` is its public name; ``variant`` distinguishes several rows of a class. ``accepts``
    are kinds of values besides finite numbers: ``missing``, ``categories`` (of pandas), ``texts`` (the columns of a
    table with text), or instead of a table: ``documents`` (a list of texts), ``dictionaries``. ``above_zero``: it
    accepts no negative numbers. ``columns``: how many of the columns it gets, 0 is all. ``rounds``: a booster that its
    library's ``train`` makes, with ``arguments`` as parameters. ``fit`` are arguments of its ``fit`` or ``train``."""

    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    target: Target = "nothing"
    variant: str = ""
    accepts: tuple[str, ...] = ()
    above_zero: bool = False
    columns: int = 0
    rounds: int = 0
    fit: Mapping[str, Any] = field(default_factory=dict)
    role: Role = "predictor"
    reason: str = ""

    @property
    def name(self) -> str:
        """The name of the class, and of the variant."""
        name = self.path.rpartition(".")[2]
        if self.rounds:
            name = f"{self.path.partition('.')[0]} booster"
        return f"{name} ({self.variant})" if self.variant else name

    @property
    def library(self) -> str:
        """The library of the class."""
        return self.path.partition(".")[0]


def _new(path: str, **arguments: Any) -> New:
    return New(f"sklearn.{path}", arguments)


def _row(path: str, target: Target = "nothing", variant: str = "", /, **arguments: Any) -> Row:
    return Row(f"sklearn.{path}", arguments, target, variant)


def _xgb(name: str, target: Target, variant: str = "", /, **arguments: Any) -> Row:
    arguments = {"n_estimators": 8, "max_depth": 3, "n_jobs": 1, "enable_categorical": True} | arguments
    return Row(f"xgboost.{name}", arguments, target, variant, ("missing", "categories"))


def _lgb(name: str, target: Target, variant: str = "", /, **arguments: Any) -> Row:
    arguments = {"n_estimators": 8, "num_leaves": 7, "min_child_samples": 5, "n_jobs": 1, "verbose": -1} | arguments
    return Row(f"lightgbm.{name}", arguments, target, variant, ("missing", "categories"))


def _booster(library: str, target: Target, variant: str, /, **parameters: Any) -> Row:
    if library == "lightgbm":
        parameters = {"num_leaves": 7, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1, "seed": 1} | parameters
    else:
        parameters = {"max_depth": 3, "nthread": 1, "seed": 1} | parameters
    return Row(f"{library}.Booster", parameters, target, variant, ("missing", "categories"), rounds=8)


_TREE = _new("tree.DecisionTreeClassifier", max_depth=3, random_state=1)
_REGRESSION_TREE = _new("tree.DecisionTreeRegressor", max_depth=3, random_state=1)
_LOGISTIC = _new("linear_model.LogisticRegression", max_iter=300)
_RIDGE = _new("linear_model.Ridge")
_BAYES = _new("naive_bayes.GaussianNB")
_SEARCHED = {"max_depth": [2, 3]}
_HALVING = "model_selection._search_successive_halving"
_MISSING = ("missing",)
_ANY = ("missing", "categories")

_LINEAR: tuple[Row, ...] = (
    _row("linear_model.LogisticRegression", "texts", max_iter=300),
    _row("linear_model.LogisticRegression", "classes", "three classes", max_iter=300, C=0.5),
    _row("linear_model.LogisticRegressionCV", "classes", Cs=3, cv=3, max_iter=200, use_legacy_attributes=False),
    _row("linear_model.RidgeClassifier", "classes"),
    _row("linear_model.RidgeClassifier", "several", "two targets"),
    _row("linear_model.RidgeClassifierCV", "texts"),
    _row("linear_model.SGDClassifier", "classes", random_state=1),
    _row("linear_model.SGDClassifier", "texts", "log_loss", loss="log_loss", random_state=1),
    _row("linear_model.SGDClassifier", "classes", "modified_huber", loss="modified_huber", random_state=1),
    _row("linear_model.Perceptron", "classes", random_state=1),
    _row("linear_model.PassiveAggressiveClassifier", "classes", random_state=1),
    _row("linear_model.LinearRegression", "number"),
    _row("linear_model.LinearRegression", "numbers", "two targets"),
    _row("linear_model.Ridge", "number"),
    _row("linear_model.RidgeCV", "number"),
    _row("linear_model.Lasso", "number", alpha=0.01),
    _row("linear_model.LassoCV", "number", cv=3),
    _row("linear_model.ElasticNet", "number", alpha=0.01),
    _row("linear_model.ElasticNetCV", "number", cv=3),
    _row("linear_model.Lars", "number"),
    _row("linear_model.LarsCV", "number", cv=3),
    _row("linear_model.LassoLars", "number", alpha=0.01),
    _row("linear_model.LassoLarsCV", "number", cv=3),
    _row("linear_model.LassoLarsIC", "number"),
    _row("linear_model.OrthogonalMatchingPursuit", "number"),
    _row("linear_model.OrthogonalMatchingPursuitCV", "number", cv=3),
    _row("linear_model.BayesianRidge", "number"),
    _row("linear_model.ARDRegression", "number"),
    _row("linear_model.HuberRegressor", "number", max_iter=300),
    _row("linear_model.QuantileRegressor", "number", alpha=0.01),
    _row("linear_model.TheilSenRegressor", "number", random_state=1, max_subpopulation=200),
    _row("linear_model.RANSACRegressor", "number", random_state=1),
    _row("linear_model.SGDRegressor", "number", random_state=1),
    _row("linear_model.PassiveAggressiveRegressor", "number", random_state=1),
    _row("linear_model.PoissonRegressor", "positive"),
    _row("linear_model.GammaRegressor", "positive"),
    _row("linear_model.TweedieRegressor", "positive", power=1.5),
    _row("linear_model.TweedieRegressor", "number", "identity", power=0),
    _row("linear_model.MultiTaskLasso", "numbers", alpha=0.01),
    _row("linear_model.MultiTaskLassoCV", "numbers", cv=3),
    _row("linear_model.MultiTaskElasticNet", "numbers", alpha=0.01),
    _row("linear_model.MultiTaskElasticNetCV", "numbers", cv=3),
    _row("linear_model.SGDOneClassSVM", "nothing", random_state=1),
)

_TREES: tuple[Row, ...] = (
    replace(_row("tree.DecisionTreeClassifier", "texts", max_depth=4, random_state=1), accepts=_MISSING),
    replace(_row("tree.DecisionTreeClassifier", "several", "two targets", max_depth=4), accepts=_MISSING),
    replace(_row("tree.DecisionTreeRegressor", "number", max_depth=4, random_state=1), accepts=_MISSING),
    replace(_row("tree.DecisionTreeRegressor", "numbers", "two targets", max_depth=4), accepts=_MISSING),
    replace(_row("tree.ExtraTreeClassifier", "classes", max_depth=4, random_state=1), accepts=_MISSING),
    replace(_row("tree.ExtraTreeRegressor", "number", max_depth=4, random_state=1), accepts=_MISSING),
    replace(
        _row("ensemble.RandomForestClassifier", "classes", n_estimators=5, max_depth=4, random_state=1),
        accepts=_MISSING,
    ),
    replace(
        _row("ensemble.RandomForestClassifier", "several", "two targets", n_estimators=5, max_depth=4, random_state=1),
        accepts=_MISSING,
    ),
    replace(
        _row("ensemble.RandomForestRegressor", "number", n_estimators=5, max_depth=4, random_state=1), accepts=_MISSING
    ),
    replace(
        _row("ensemble.ExtraTreesClassifier", "texts", n_estimators=5, max_depth=4, random_state=1), accepts=_MISSING
    ),
    replace(
        _row("ensemble.ExtraTreesRegressor", "number", n_estimators=5, max_depth=4, random_state=1), accepts=_MISSING
    ),
    _row("ensemble.GradientBoostingClassifier", "classes", n_estimators=5, random_state=1),
    _row("ensemble.GradientBoostingClassifier", "texts", "exponential", n_estimators=5, loss="exponential"),
    _row("ensemble.GradientBoostingRegressor", "number", n_estimators=5, random_state=1),
    _row("ensemble.GradientBoostingRegressor", "number", "own start", n_estimators=5, init=_RIDGE),
    replace(_row("ensemble.HistGradientBoostingClassifier", "classes", max_iter=5), accepts=_ANY),
    replace(
        _row("ensemble.HistGradientBoostingClassifier", "texts", "two classes", max_iter=5, early_stopping=True),
        accepts=_ANY,
    ),
    replace(_row("ensemble.HistGradientBoostingRegressor", "number", max_iter=5), accepts=_ANY),
    replace(
        _row("ensemble.HistGradientBoostingRegressor", "positive", "poisson", max_iter=5, loss="poisson"), accepts=_ANY
    ),
    _row("ensemble.AdaBoostClassifier", "classes", n_estimators=4, random_state=1),
    _row("ensemble.AdaBoostRegressor", "number", n_estimators=4, random_state=1),
    replace(
        _row("ensemble.BaggingClassifier", "classes", estimator=_TREE, n_estimators=4, random_state=1),
        accepts=_MISSING,
    ),
    _row(
        "ensemble.BaggingClassifier",
        "texts",
        "columns",
        estimator=_LOGISTIC,
        n_estimators=3,
        max_features=0.6,
        random_state=1,
    ),
    replace(
        _row("ensemble.BaggingRegressor", "number", estimator=_REGRESSION_TREE, n_estimators=4, random_state=1),
        accepts=_MISSING,
    ),
    replace(_row("ensemble.IsolationForest", "nothing", n_estimators=5, random_state=1), accepts=_MISSING),
)

_KERNELS: tuple[Row, ...] = (
    _row("svm.SVC", "classes"),
    _row("svm.SVC", "texts", "linear", kernel="linear"),
    _row("svm.SVC", "classes", "poly", kernel="poly", degree=2),
    _row("svm.SVC", "texts", "probability", probability=True, random_state=1),
    _row("svm.SVC", "classes", "break_ties", break_ties=True, decision_function_shape="ovr"),
    _row("svm.NuSVC", "texts", nu=0.3),
    _row("svm.LinearSVC", "classes", random_state=1, max_iter=200),
    _row("svm.SVR", "number"),
    _row("svm.SVR", "number", "sigmoid", kernel="sigmoid"),
    _row("svm.NuSVR", "number"),
    _row("svm.LinearSVR", "number", random_state=1, max_iter=200),
    _row("svm.OneClassSVM", "nothing"),
    _row("kernel_ridge.KernelRidge", "number", kernel="rbf"),
    _row("gaussian_process.GaussianProcessClassifier", "classes", random_state=1),
    _row("gaussian_process.GaussianProcessRegressor", "number", alpha=0.1, normalize_y=True, random_state=1),
    _row("neighbors.KNeighborsClassifier", "classes"),
    _row("neighbors.KNeighborsClassifier", "texts", "kd_tree, distance", algorithm="kd_tree", weights="distance"),
    _row("neighbors.KNeighborsRegressor", "number"),
    _row("neighbors.KNeighborsRegressor", "numbers", "ball_tree", algorithm="ball_tree", metric="manhattan"),
    _row("neighbors.RadiusNeighborsClassifier", "classes", radius=1e9, outlier_label="most_frequent"),
    _row("neighbors.RadiusNeighborsRegressor", "number", radius=1e9),
    _row("neighbors.NearestCentroid", "classes"),
    _row("neighbors.LocalOutlierFactor", "nothing", novelty=True),
)

_STATISTICS: tuple[Row, ...] = (
    _row("naive_bayes.GaussianNB", "classes"),
    _row("naive_bayes.BernoulliNB", "texts"),
    replace(_row("naive_bayes.MultinomialNB", "classes"), above_zero=True),
    replace(_row("naive_bayes.ComplementNB", "classes"), above_zero=True),
    replace(_row("naive_bayes.CategoricalNB", "texts", min_categories=1200), above_zero=True),
    _row("discriminant_analysis.LinearDiscriminantAnalysis", "classes"),
    _row("discriminant_analysis.QuadraticDiscriminantAnalysis", "texts", reg_param=0.1),
    _row("cross_decomposition.PLSRegression", "numbers", n_components=2),
    _row("cross_decomposition.PLSCanonical", "numbers", n_components=1),
    _row("cross_decomposition.CCA", "numbers", n_components=1),
    replace(_row("isotonic.IsotonicRegression", "number", out_of_bounds="clip"), columns=1),
    _row("neural_network.MLPClassifier", "classes", hidden_layer_sizes=(6,), max_iter=60, random_state=1),
    _row("neural_network.MLPClassifier", "several", "two labels", hidden_layer_sizes=(4,), max_iter=40, random_state=1),
    _row("neural_network.MLPRegressor", "number", hidden_layer_sizes=(6,), max_iter=60, random_state=1),
    replace(_row("dummy.DummyClassifier", "texts"), accepts=_MISSING),
    replace(_row("dummy.DummyRegressor", "number"), accepts=_MISSING),
    _row("mixture.GaussianMixture", "nothing", n_components=2, random_state=1, reg_covar=1e-3),
    _row("mixture.BayesianGaussianMixture", "nothing", n_components=2, random_state=1, max_iter=50, reg_covar=1e-3),
    _row("covariance.EllipticEnvelope", "nothing", random_state=1, support_fraction=0.9),
    _row("cluster.KMeans", "nothing", n_clusters=3, n_init=1, random_state=1),
    _row("cluster.MiniBatchKMeans", "nothing", n_clusters=3, n_init=1, random_state=1),
    _row("cluster.BisectingKMeans", "nothing", n_clusters=3, random_state=1),
    _row("cluster.Birch", "nothing", n_clusters=3, threshold=0.3),
    _row("cluster.MeanShift", "nothing", bandwidth=3.0),
    _row("cluster.AffinityPropagation", "nothing", random_state=1, damping=0.9, max_iter=500),
    _row("semi_supervised.LabelPropagation", "sparse", kernel="knn"),
    _row("semi_supervised.LabelSpreading", "sparse", kernel="knn"),
)

_COMPOSED: tuple[Row, ...] = (
    _row("calibration.CalibratedClassifierCV", "texts", estimator=_LOGISTIC, cv=3),
    _row("calibration.CalibratedClassifierCV", "classes", "isotonic", estimator=_BAYES, cv=3, method="isotonic"),
    _row("calibration.CalibratedClassifierCV", "classes", "temperature", estimator=_LOGISTIC, method="temperature"),
    _row("ensemble.VotingClassifier", "classes", estimators=[("a", _TREE), ("b", _LOGISTIC)], voting="soft"),
    _row("ensemble.VotingClassifier", "texts", "hard", estimators=[("a", _TREE), ("b", _LOGISTIC)]),
    _row("ensemble.VotingRegressor", "number", estimators=[("a", _REGRESSION_TREE), ("b", _RIDGE)]),
    _row("ensemble.StackingClassifier", "texts", estimators=[("a", _TREE), ("b", _BAYES)], cv=3),
    _row("ensemble.StackingRegressor", "number", estimators=[("a", _REGRESSION_TREE), ("b", _RIDGE)], cv=3),
    _row("multiclass.OneVsRestClassifier", "classes", estimator=_LOGISTIC),
    _row("multiclass.OneVsOneClassifier", "classes", estimator=_LOGISTIC),
    _row("multiclass.OutputCodeClassifier", "classes", estimator=_LOGISTIC, random_state=1),
    _row("multioutput.MultiOutputClassifier", "several", estimator=_LOGISTIC),
    _row("multioutput.MultiOutputRegressor", "numbers", estimator=_RIDGE),
    _row("multioutput.ClassifierChain", "several", estimator=_LOGISTIC, random_state=1),
    _row("multioutput.RegressorChain", "numbers", estimator=_RIDGE, random_state=1),
    _row("semi_supervised.SelfTrainingClassifier", "sparse", estimator=_LOGISTIC),
    _row("compose.TransformedTargetRegressor", "positive", regressor=_RIDGE),
    _row(
        "compose.TransformedTargetRegressor",
        "positive",
        "scaled",
        regressor=_RIDGE,
        transformer=_new("preprocessing.StandardScaler"),
    ),
    _row("model_selection.GridSearchCV", "texts", estimator=_TREE, param_grid=_SEARCHED, cv=2),
    _row(
        "model_selection.RandomizedSearchCV",
        "number",
        estimator=_REGRESSION_TREE,
        param_distributions=_SEARCHED,
        n_iter=2,
        cv=2,
        random_state=1,
    ),
    _row("model_selection.FixedThresholdClassifier", "two", estimator=_LOGISTIC, threshold=0.3),
    _row("model_selection.TunedThresholdClassifierCV", "two", estimator=_LOGISTIC, cv=3, thresholds=20),
    _row("feature_selection.RFE", "texts", estimator=_LOGISTIC, n_features_to_select=2),
    _row("feature_selection.RFECV", "number", estimator=_RIDGE, cv=2),
    _row(
        "pipeline.Pipeline",
        "texts",
        steps=[("scale", _new("preprocessing.StandardScaler")), ("predict", _LOGISTIC)],
    ),
    _row(
        "pipeline.Pipeline",
        "number",
        "boosting",
        steps=[
            ("scale", _new("preprocessing.StandardScaler")),
            ("predict", New("xgboost.XGBRegressor", {"n_estimators": 5, "n_jobs": 1})),
        ],
    ),
    _row(
        "pipeline.Pipeline",
        "classes",
        "lightgbm",
        steps=[
            ("scale", _new("preprocessing.StandardScaler")),
            ("predict", New("lightgbm.LGBMClassifier", {"n_estimators": 5, "n_jobs": 1, "verbose": -1})),
        ],
    ),
    _row("frozen.FrozenEstimator", "texts", estimator=_TREE),
)

_XGBOOST_REGRESSIONS: dict[str, Target] = {
    "reg:absoluteerror": "number",
    "reg:gamma": "positive",
    "reg:logistic": "unit",
    "reg:pseudohubererror": "number",
    "reg:squaredlogerror": "positive",
    "reg:tweedie": "positive",
    "count:poisson": "positive",
    "survival:cox": "positive",
}

_XGBOOST_OBJECTIVES: dict[str, Target] = {
    "binary:logistic": "two",
    "binary:logitraw": "two",
    "binary:hinge": "two",
    "multi:softprob": "classes",
    "multi:softmax": "classes",
    "reg:squarederror": "number",
    "reg:logistic": "unit",
    "count:poisson": "positive",
    "survival:cox": "positive",
    "rank:ndcg": "grades",
}

_LIGHTGBM_REGRESSIONS: dict[str, Target] = {
    "regression_l1": "number",
    "huber": "number",
    "fair": "number",
    "poisson": "positive",
    "quantile": "number",
    "mape": "number",
    "gamma": "positive",
    "tweedie": "positive",
    "cross_entropy": "unit",
    "cross_entropy_lambda": "unit",
}

_LIGHTGBM_OBJECTIVES: dict[str, Target] = {
    "binary": "two",
    "multiclass": "classes",
    "regression": "number",
    "poisson": "positive",
    "cross_entropy": "unit",
    "lambdarank": "grades",
}


def _several(target: Target) -> dict[str, int]:
    return {"num_class": 3} if target == "classes" else {}


_XGBOOST: tuple[Row, ...] = (
    _xgb("XGBClassifier", "two"),
    _xgb("XGBClassifier", "classes", "three classes"),
    _xgb("XGBClassifier", "classes", "multi:softmax", objective="multi:softmax"),
    _xgb("XGBClassifier", "two", "binary:hinge", objective="binary:hinge"),
    _xgb("XGBClassifier", "two", "binary:logitraw", objective="binary:logitraw"),
    _xgb("XGBClassifier", "two", "missing=-999", missing=-999.0),
    _xgb("XGBClassifier", "two", "scale_pos_weight", scale_pos_weight=4.0),
    replace(
        _xgb("XGBClassifier", "two", "early stopping", early_stopping_rounds=2, n_estimators=30),
        fit={"eval_set": True, "verbose": False},
    ),
    _xgb("XGBClassifier", "two", "dart", booster="dart", rate_drop=0.3, random_state=1),
    replace(_xgb("XGBClassifier", "two", "gblinear", booster="gblinear", enable_categorical=False), accepts=_MISSING),
    _xgb("XGBClassifier", "several", "two labels", enable_categorical=False),
    _xgb("XGBRegressor", "number"),
    _xgb("XGBRegressor", "number", "missing=-999", missing=-999.0),
    _xgb("XGBRegressor", "number", "missing=0", missing=0.0),
    _xgb("XGBRegressor", "number", "base_score", base_score=3.0),
    _xgb("XGBRegressor", "numbers", "two targets", enable_categorical=False),
    _xgb("XGBRegressor", "numbers", "multi_output_tree", multi_strategy="multi_output_tree", enable_categorical=False),
    replace(_xgb("XGBRegressor", "number", "gblinear", booster="gblinear", enable_categorical=False), accepts=_MISSING),
    _xgb("XGBRegressor", "number", "dart", booster="dart", rate_drop=0.3, random_state=1),
    *(
        _xgb("XGBRegressor", target, objective, objective=objective)
        for objective, target in _XGBOOST_REGRESSIONS.items()
    ),
    _xgb("XGBRegressor", "number", "reg:quantileerror", objective="reg:quantileerror", quantile_alpha=0.7),
    _xgb("XGBRegressor", "number", "several quantiles", objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]),
    replace(
        _xgb("XGBRegressor", "number", "early stopping", early_stopping_rounds=2, n_estimators=30),
        fit={"eval_set": True, "verbose": False},
    ),
    _xgb("XGBRanker", "grades"),
    _xgb("XGBRFClassifier", "two"),
    _xgb("XGBRFRegressor", "number"),
    *(
        _booster("xgboost", target, objective, objective=objective, **_several(target))
        for objective, target in _XGBOOST_OBJECTIVES.items()
    ),
    _booster("xgboost", "number", "base_score", objective="reg:squarederror", base_score=3.0),
    _booster("xgboost", "number", "dart", objective="reg:squarederror", booster="dart", rate_drop=0.3),
    replace(
        _booster("xgboost", "number", "gblinear", objective="reg:squarederror", booster="gblinear"), accepts=_MISSING
    ),
    replace(
        _booster("xgboost", "number", "early stopping", objective="reg:squarederror"),
        rounds=30,
        fit={"early_stopping_rounds": 2},
    ),
)

_LIGHTGBM: tuple[Row, ...] = (
    _lgb("LGBMClassifier", "two"),
    _lgb("LGBMClassifier", "texts", "text labels"),
    _lgb("LGBMClassifier", "classes", "three classes"),
    _lgb("LGBMClassifier", "classes", "multiclassova", objective="multiclassova"),
    _lgb("LGBMClassifier", "two", "class_weight", class_weight="balanced"),
    _lgb("LGBMClassifier", "two", "boost_from_average=False", boost_from_average=False),
    _lgb("LGBMClassifier", "two", "zero_as_missing", zero_as_missing=True),
    replace(
        _lgb("LGBMClassifier", "two", "early stopping", early_stopping_round=2, n_estimators=30),
        fit={"eval_set": True},
    ),
    _lgb("LGBMClassifier", "two", "dart", boosting_type="dart", random_state=1),
    _lgb("LGBMClassifier", "two", "rf", boosting_type="rf", bagging_freq=1, bagging_fraction=0.7, random_state=1),
    replace(_lgb("LGBMClassifier", "two", "linear_tree", linear_tree=True), accepts=_MISSING),
    _lgb("LGBMRegressor", "number"),
    replace(_lgb("LGBMRegressor", "number", "linear_tree", linear_tree=True), accepts=_MISSING),
    _lgb("LGBMRegressor", "number", "use_missing=False", use_missing=False),
    *(
        _lgb("LGBMRegressor", target, objective, objective=objective)
        for objective, target in _LIGHTGBM_REGRESSIONS.items()
    ),
    _lgb("LGBMRegressor", "number", "reg_sqrt", reg_sqrt=True),
    _lgb("LGBMRanker", "grades"),
    _lgb("LGBMRanker", "grades", "rank_xendcg", objective="rank_xendcg", random_state=1),
    _lgb("LGBMModel", "number", objective="regression"),
    *(
        _booster("lightgbm", target, objective, objective=objective, **_several(target))
        for objective, target in _LIGHTGBM_OBJECTIVES.items()
    ),
    _booster("lightgbm", "two", "sigmoid", objective="binary", sigmoid=2.0),
    _booster("lightgbm", "number", "reg_sqrt", objective="regression", reg_sqrt=True),
    replace(
        _booster("lightgbm", "number", "early stopping", objective="regression"),
        rounds=30,
        fit={"early_stopping_rounds": 2},
    ),
)


def _step(path: str, /, **arguments: Any) -> Row:
    return Row(f"sklearn.{path}", arguments, "texts", role="step")


_STEPS: tuple[Row, ...] = (
    replace(_step("kernel_approximation.AdditiveChi2Sampler"), above_zero=True),
    _step("neural_network.BernoulliRBM", n_components=3, n_iter=2, random_state=1),
    _step("preprocessing.Binarizer"),
    _step(
        "compose.ColumnTransformer",
        transformers=[("a", _new("preprocessing.StandardScaler"), [0, 1])],
        remainder="passthrough",
    ),
    replace(_step("feature_extraction.text.CountVectorizer"), accepts=("texts",)),
    replace(_step("feature_extraction.text.TfidfVectorizer"), accepts=("texts",)),
    replace(_step("feature_extraction.text.HashingVectorizer", n_features=32), accepts=("texts",)),
    _step("decomposition.DictionaryLearning", n_components=2, max_iter=5, random_state=1),
    _step("decomposition.FactorAnalysis", n_components=2, random_state=1),
    _step("decomposition.FastICA", n_components=2, random_state=1),
    _step("cluster.FeatureAgglomeration", n_clusters=2),
    _step("pipeline.FeatureUnion", transformer_list=[("a", _new("preprocessing.StandardScaler"))]),
    replace(_step("preprocessing.FunctionTransformer"), accepts=_MISSING),
    _step("random_projection.GaussianRandomProjection", n_components=2, random_state=1),
    _step("feature_selection.GenericUnivariateSelect", param=60),
    _step("decomposition.IncrementalPCA", n_components=2),
    _step("manifold.Isomap", n_components=2, n_neighbors=8),
    _step("preprocessing.KBinsDiscretizer", n_bins=3, quantile_method="averaged_inverted_cdf"),
    replace(_step("impute.KNNImputer", n_neighbors=3), accepts=_MISSING),
    _step("neighbors.KNeighborsTransformer", n_neighbors=3),
    _step("decomposition.KernelPCA", n_components=2, kernel="rbf"),
    replace(_step("decomposition.LatentDirichletAllocation", n_components=2, random_state=1), above_zero=True),
    _step("manifold.LocallyLinearEmbedding", n_components=2, n_neighbors=8, random_state=1),
    replace(_step("preprocessing.MaxAbsScaler"), accepts=()),
    _step("preprocessing.MinMaxScaler"),
    _step("decomposition.MiniBatchDictionaryLearning", n_components=2, max_iter=5, random_state=1),
    replace(_step("decomposition.MiniBatchNMF", n_components=2, random_state=1), above_zero=True),
    _step("decomposition.MiniBatchSparsePCA", n_components=2, max_iter=5, random_state=1),
    replace(_step("impute.MissingIndicator", features="all"), accepts=_MISSING),
    replace(_step("decomposition.NMF", n_components=2, random_state=1, max_iter=400), above_zero=True),
    _step("neighbors.NeighborhoodComponentsAnalysis", n_components=2, max_iter=5, random_state=1),
    _step("preprocessing.Normalizer"),
    _step("kernel_approximation.Nystroem", n_components=5, random_state=1),
    _step("preprocessing.OneHotEncoder", handle_unknown="ignore", max_categories=5),
    _step("preprocessing.OrdinalEncoder", handle_unknown="use_encoded_value", unknown_value=-1),
    _step("decomposition.PCA", n_components=2),
    replace(_step("cross_decomposition.PLSSVD", n_components=1), target="two"),
    _step("kernel_approximation.PolynomialCountSketch", n_components=8, random_state=1),
    _step("preprocessing.PolynomialFeatures"),
    _step("preprocessing.PowerTransformer"),
    _step("preprocessing.QuantileTransformer", n_quantiles=20),
    _step("kernel_approximation.RBFSampler", n_components=5, random_state=1),
    _step("neighbors.RadiusNeighborsTransformer", radius=1e9),
    _step("ensemble.RandomTreesEmbedding", n_estimators=3, max_depth=2, random_state=1),
    _step("preprocessing.RobustScaler"),
    _step("feature_selection.SelectFdr", alpha=0.9),
    _step("feature_selection.SelectFpr", alpha=0.9),
    _step("feature_selection.SelectFwe", alpha=0.9),
    _step("feature_selection.SelectFromModel", estimator=_LOGISTIC),
    _step("feature_selection.SelectKBest", k=2),
    _step("feature_selection.SelectPercentile", percentile=50),
    _step("feature_selection.SequentialFeatureSelector", estimator=_BAYES, n_features_to_select=2, cv=2),
    replace(_step("impute.SimpleImputer"), accepts=_MISSING),
    replace(_step("kernel_approximation.SkewedChi2Sampler", n_components=5, random_state=1), above_zero=True),
    _step("decomposition.SparsePCA", n_components=2, max_iter=5, random_state=1),
    _step("random_projection.SparseRandomProjection", n_components=2, random_state=1),
    _step("preprocessing.SplineTransformer", n_knots=3),
    _step("preprocessing.StandardScaler"),
    _step("preprocessing.TargetEncoder", random_state=1),
    _step("feature_extraction.text.TfidfTransformer"),
    _step("decomposition.TruncatedSVD", n_components=2, random_state=1),
    _step("feature_selection.VarianceThreshold"),
)

_ALONE: tuple[Row, ...] = (
    *(replace(row, role="alone", variant="alone") for row in _STEPS if "texts" not in row.accepts),
    *(
        Row(f"sklearn.{path}", arguments, role="alone")
        for path, arguments in (
            ("neighbors.NearestNeighbors", {"n_neighbors": 3}),
            ("neighbors.KernelDensity", {}),
            ("decomposition.SparseCoder", {"dictionary": New("numpy.eye", {"N": 5}), "transform_alpha": 0.1}),
        )
    ),
)


def _of_documents(name: str, first: New, target: Target, last: New, variant: str = "documents") -> Row:
    return Row(
        "sklearn.pipeline.Pipeline",
        {"steps": [("first", first), ("last", last)]},
        target,
        name,
        accepts=(variant,),
    )


_WORDS, _KEYS = _new("feature_extraction.text.TfidfVectorizer"), _new("feature_extraction.DictVectorizer")
_DOCUMENTS: tuple[Row, ...] = (
    _of_documents("tf-idf", _WORDS, "texts", _LOGISTIC),
    _of_documents("tf-idf, regression", _WORDS, "number", _RIDGE),
    _of_documents(
        "counts",
        _new("feature_extraction.text.CountVectorizer", ngram_range=(1, 2)),
        "classes",
        _new("naive_bayes.MultinomialNB"),
    ),
    _of_documents(
        "hashing",
        _new("feature_extraction.text.HashingVectorizer", n_features=64),
        "texts",
        _new("linear_model.SGDClassifier", random_state=1),
    ),
    _of_documents("dictionaries", _KEYS, "texts", _LOGISTIC, "dictionaries"),
    *(
        Row(f"sklearn.feature_extraction.{path}", arguments, variant="alone", accepts=(kind,), role="alone")
        for path, arguments, kind in (
            ("text.CountVectorizer", {}, "documents"),
            ("text.TfidfVectorizer", {}, "documents"),
            ("text.HashingVectorizer", {"n_features": 32}, "documents"),
            ("DictVectorizer", {}, "dictionaries"),
        )
    ),
)

_NO_PREDICT = "has neither predict nor transform for rows that it was not fitted on"
_LABELS = "transforms labels, not rows"
_COVARIANCE = "estimates a covariance, and scores no row"

_OTHERS: tuple[Row, ...] = tuple(
    Row(f"sklearn.{path}", role="other", reason=reason)
    for reason, paths in (
        (
            _NO_PREDICT,
            (
                "cluster.AgglomerativeClustering",
                "cluster.DBSCAN",
                "cluster.HDBSCAN",
                "cluster.OPTICS",
                "cluster.SpectralBiclustering",
                "cluster.SpectralClustering",
                "cluster.SpectralCoclustering",
                "manifold.ClassicalMDS",
                "manifold.MDS",
                "manifold.SpectralEmbedding",
                "manifold.TSNE",
            ),
        ),
        (
            _COVARIANCE,
            (
                "covariance.EmpiricalCovariance",
                "covariance.GraphicalLasso",
                "covariance.GraphicalLassoCV",
                "covariance.LedoitWolf",
                "covariance.MinCovDet",
                "covariance.OAS",
                "covariance.ShrunkCovariance",
            ),
        ),
        (
            _LABELS,
            ("preprocessing.LabelBinarizer", "preprocessing.LabelEncoder", "preprocessing.MultiLabelBinarizer"),
        ),
        ("does not keep the names of its features", ("feature_extraction.FeatureHasher",)),
        ("takes images, not rows of a table", ("feature_extraction.image.PatchExtractor",)),
        ("takes a kernel, not rows of a table", ("preprocessing.KernelCenterer",)),
    )
    for path in paths
)

ROWS: tuple[Row, ...] = (
    *_LINEAR, *_TREES, *_KERNELS, *_STATISTICS, *_COMPOSED, *_XGBOOST, *_LIGHTGBM, *_STEPS, *_ALONE, *_DOCUMENTS,
    *_OTHERS,
    _xgb("XGBModel", "number"),
    # By their own module: their public name exists only after an import from sklearn.experimental.
    _row(f"{_HALVING}.HalvingGridSearchCV", "texts", estimator=_TREE, param_grid=_SEARCHED, cv=2, random_state=1),
    _row(
        f"{_HALVING}.HalvingRandomSearchCV",
        "number",
        estimator=_REGRESSION_TREE,
        param_distributions=_SEARCHED,
        cv=2,
        random_state=1,
    ),
)  # fmt: skip
"""One or several rows of every class."""
