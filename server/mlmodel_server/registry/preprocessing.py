"""Transformers of columns: scaling, encoding, imputation, selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged, check_lengths
from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import OUT_OF_RANGE, check_indices, dense, only, ordered, whole_number

_OPTIONS = frozenset(
    {"a_max", "a_min", "axis", "copy", "decimals", "keepdims", "max", "min", "nan", "neginf", "posinf"}
)


def check_one_hot(encoder: Any) -> None:
    """Check the numbers of columns: the encoder makes a sparse matrix from them without a check."""
    known = vars(encoder)
    if "categories_" not in known:
        return
    width = known["n_features_in_"]
    groups, drops = known["_default_to_infrequent_mappings"] if _groups(known) else [None] * width, _drops(known, width)
    check_lengths(width, known["categories_"], groups)
    for categories, group, drop, columns in zip(
        known["categories_"], groups, drops, known["_n_features_outs"], strict=True
    ):
        count = len(_sorted(categories))
        if group is not None:
            check_indices(dense(group, None, kinds="i"), count)
            count = int(group.max()) + 1 if len(group) else count
        if drop is not None:
            whole_number(drop, 0, count - 1)
        whole_number(columns, count - (drop is not None), count + (group is not None))


def _groups(known: dict[str, Any]) -> bool:
    return bool(known.get("_infrequent_enabled")) and "_default_to_infrequent_mappings" in known


def _drops(known: dict[str, Any], width: int) -> list[Any]:
    drops = known.get("_drop_idx_after_grouping")
    return [None] * width if drops is None else list(dense(drops, width, kinds="Oi"))


def _sorted(categories: Any) -> Any:
    """Return categories if they are sorted, as a search in numbers requires. Others are looked up in a dictionary."""
    dense(categories, None, kinds="biufOSUmM")
    known = categories[categories == categories] if categories.dtype.kind in "fmM" else categories
    if categories.dtype.kind in "biufmM" and not (known[:-1] < known[1:]).all():
        raise Damaged("it has categories that are not sorted")
    return categories


_MAX_COLUMNS = 1 << 20  # that a file of any size may ask for


def check_polynomial(transformer: Any) -> None:
    """Check the number of columns: more would contain what the memory had before."""
    known = vars(transformer)
    if "_n_out_full" not in known:
        return
    lowest, highest = whole_number(known["_min_degree"], 0, 1 << 10), whole_number(known["_max_degree"], 0, 1 << 10)
    whole_number(known["_n_out_full"], 0, _MAX_COLUMNS)
    shared = (known["interaction_only"], known["include_bias"])
    for degree, columns in ((0, known["_n_out_full"]), (lowest, known["n_output_features_"])):
        if columns != transformer._num_combinations(known["n_features_in_"], degree, highest, *shared):
            raise Damaged("it has a number of columns that does not fit its degree")


def check_targets(encoder: Any) -> None:
    """Check that each column has an encoding: a column without one would contain what the memory had before."""
    known = vars(encoder)
    if "encodings_" in known:
        classes = len(known["classes_"]) if known["target_type_"] == "multiclass" else 1
        check_lengths(known["n_features_in_"] * classes, known["encodings_"])


def check_labels(binarizer: Any) -> None:
    """Check the columns of labels, from which the binarizer makes a sparse matrix without a check."""
    cached = vars(binarizer).get("_cached_dict")
    if cached is not None:
        if not isinstance(cached, dict):
            raise Damaged(OUT_OF_RANGE)
        ordered(cached.values(), len(binarizer.classes_))


def check_spline_columns(transformer: Any) -> None:
    """Check that each column has a spline."""
    known = vars(transformer)
    if "bsplines_" in known:
        check_lengths(known["n_features_in_"], known["bsplines_"])
        for spline in known["bsplines_"]:
            only(spline, "scipy.interpolate._bsplines.BSpline")


def check_function(transformer: Any) -> None:
    """Check the options of a function of numpy: with ``where``, its answer would contain what the memory had before."""
    for name in ("kw_args", "inv_kw_args"):
        unknown = set(vars(transformer).get(name) or ()) - _OPTIONS
        if unknown:
            raise Damaged(f"it calls a function with an option other than {', '.join(sorted(_OPTIONS))}")


def check_bins(discretizer: Any) -> None:
    """Check that each column has edges that are sorted."""
    known = vars(discretizer)
    if "bin_edges_" in known:
        check_lengths(known["n_features_in_"], known["bin_edges_"])
        for edges in known["bin_edges_"]:
            if not (np.diff(dense(edges, None)) >= 0).all():
                raise Damaged("it has edges of bins that are not sorted")


_SCORING = {"scoring": None, "cv": None}

ENTRIES = (
    *of("sklearn.compose._column_transformer", "ColumnTransformer make_column_selector"),
    *of("sklearn.compose._target", "TransformedTargetRegressor"),
    *of("sklearn.feature_selection._from_model", "SelectFromModel"),
    *of("sklearn.feature_selection._rfe", "RFE RFECV", unneeded=_SCORING),
    *of("sklearn.feature_selection._sequential", "SequentialFeatureSelector", unneeded=_SCORING),
    *of(
        "sklearn.feature_selection._univariate_selection",
        "GenericUnivariateSelect SelectFdr SelectFpr SelectFwe SelectKBest SelectPercentile",
    ),
    *of("sklearn.feature_selection._variance_threshold", "VarianceThreshold"),
    *of("sklearn.impute._base", "MissingIndicator SimpleImputer"),
    *of("sklearn.impute._iterative", "IterativeImputer _ImputerTriplet"),
    *of("sklearn.impute._knn", "KNNImputer"),
    *of(
        "sklearn.preprocessing._data",
        "Binarizer KernelCenterer MaxAbsScaler MinMaxScaler Normalizer PowerTransformer QuantileTransformer "
        "RobustScaler StandardScaler",
    ),
    *of("sklearn.preprocessing._discretization", "KBinsDiscretizer", check_bins),
    *of("sklearn.preprocessing._encoders", "OneHotEncoder", check_one_hot),
    *of("sklearn.preprocessing._encoders", "OrdinalEncoder"),
    *of("sklearn.preprocessing._function_transformer", "FunctionTransformer", check_function),
    *of("sklearn.preprocessing._label", "LabelBinarizer LabelEncoder"),
    *of("sklearn.preprocessing._label", "MultiLabelBinarizer", check_labels),
    *of("sklearn.preprocessing._polynomial", "PolynomialFeatures", check_polynomial),
    *of("sklearn.preprocessing._polynomial", "SplineTransformer", check_spline_columns),
    *of("sklearn.preprocessing._target_encoder", "TargetEncoder", check_targets),
)
