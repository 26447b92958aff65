"""Functions and types that a model file may name, none of which is an instance of a class with a state."""

from __future__ import annotations

VALUES = {
    "builtins": "bool float int object str",
    "numpy": (
        "absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_count bitwise_or "
        "bitwise_xor bool bytes_ cbrt ceil character clip clongdouble complex128 complex64 complexfloating "
        "conjugate copysign cos cosh datetime64 deg2rad degrees divide divmod equal exp exp2 expm1 fabs flexible "
        "float16 float32 float64 float_power floating floor floor_divide fmax fmin fmod frexp gcd generic "
        "greater greater_equal heaviside hypot inexact int16 int32 int64 int8 integer invert isfinite isinf "
        "isnan isnat lcm ldexp left_shift less less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and "
        "logical_not logical_or logical_xor longdouble longlong matmul matvec maximum mean median minimum modf "
        "multiply nan_to_num negative nextafter not_equal number object_ positive power rad2deg radians "
        "reciprocal record remainder right_shift rint round sign signbit signedinteger sin sinh spacing sqrt "
        "square str_ subtract tan tanh timedelta64 trunc uint16 uint32 uint64 uint8 ulonglong unsignedinteger "
        "vecdot vecmat void"
    ),
    "scipy._lib.array_api_compat.numpy._aliases": "asarray",
    "scipy.special._special_ufuncs": "expit logit",
    "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "sklearn.feature_selection._univariate_selection": "chi2 f_classif f_regression r_regression",
    "sklearn.metrics._classification": (
        "accuracy_score balanced_accuracy_score brier_score_loss d2_brier_score d2_log_loss_score f1_score "
        "jaccard_score log_loss matthews_corrcoef precision_score recall_score"
    ),
    "sklearn.metrics._ranking": "average_precision_score roc_auc_score top_k_accuracy_score",
    "sklearn.metrics._regression": (
        "d2_absolute_error_score explained_variance_score max_error mean_absolute_error "
        "mean_absolute_percentage_error mean_gamma_deviance mean_poisson_deviance mean_squared_error "
        "mean_squared_log_error median_absolute_error r2_score root_mean_squared_error "
        "root_mean_squared_log_error"
    ),
    "sklearn.metrics._scorer": "negative_likelihood_ratio positive_likelihood_ratio",
    "sklearn.metrics.cluster._supervised": (
        "adjusted_mutual_info_score adjusted_rand_score completeness_score fowlkes_mallows_score "
        "homogeneity_score mutual_info_score normalized_mutual_info_score rand_score v_measure_score"
    ),
    "sklearn.preprocessing._function_transformer": "_identity",
}
"""By module: number types, and numerical functions that are harmless with any arguments. A file gets the object."""

NAMES = {
    "_codecs": "encode",
    "builtins": "bytearray bytes complex frozenset range set slice",
    "collections": "OrderedDict defaultdict",
    "functools": "partial",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy.ma.core": "_mareconstruct",
    "numpy.random": "Generator RandomState",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
    "numpy.random._sfc64": "SFC64",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "numpy.random.mtrand": "RandomState",
    "sklearn._loss._loss": "__pyx_unpickle_CyHalfMultinomialLoss",
    "sklearn.cluster._kmeans": "_kmeans_single_elkan _kmeans_single_lloyd",
    "sklearn.linear_model._sgd_fast": "__pyx_unpickle_Classification __pyx_unpickle_Regression",
    "sklearn.metrics._classification": (
        "class_likelihood_ratios classification_report cohen_kappa_score confusion_matrix fbeta_score "
        "hamming_loss hinge_loss multilabel_confusion_matrix precision_recall_fscore_support zero_one_loss"
    ),
    "sklearn.metrics._dist_metrics": "__pyx_unpickle_DistanceMetric newObj",
    "sklearn.metrics._ranking": (
        "auc confusion_matrix_at_thresholds coverage_error dcg_score det_curve "
        "label_ranking_average_precision_score label_ranking_loss metric_at_thresholds ndcg_score "
        "precision_recall_curve roc_curve"
    ),
    "sklearn.metrics._regression": "d2_pinball_score d2_tweedie_score mean_pinball_loss mean_tweedie_deviance",
    "sklearn.metrics._scorer": "check_scoring get_scorer get_scorer_names make_scorer",
    "sklearn.metrics.cluster._bicluster": "consensus_score",
    "sklearn.metrics.cluster._supervised": "homogeneity_completeness_v_measure pair_confusion_matrix",
    "sklearn.metrics.cluster._unsupervised": (
        "calinski_harabasz_score davies_bouldin_score silhouette_samples silhouette_score"
    ),
    "sklearn.metrics.pairwise": (
        "euclidean_distances nan_euclidean_distances pairwise_distances pairwise_distances_argmin "
        "pairwise_distances_argmin_min pairwise_distances_chunked pairwise_kernels"
    ),
    "sklearn.neighbors._ball_tree": "newObj",
    "sklearn.neighbors._kd_tree": "newObj",
    "sklearn.utils.validation": "check_array",
}
"""By module: constructors that :mod:`~mlmodel_server.loading.rebuild` calls after a check, and functions that an
estimator keeps from its training but does not need for a prediction. A file gets only the name."""
