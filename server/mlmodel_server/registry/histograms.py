"""Histogram gradient boosting: compiled code follows nodes and sets of bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_branches, check_indices, check_lengths
from mlmodel_server.registry.entry import ABSENT, of
from mlmodel_server.registry.rules import dense, only

_MODULE = "sklearn.ensemble._hist_gradient_boosting"
_WORDS = 8  # of 32 bits: one for each of 256 categories


def check_predictor(predictor: Any) -> None:
    """Check the nodes of one tree."""
    nodes = dense(predictor.nodes, None, kinds="V")
    if not len(nodes):
        raise Damaged(OUT_OF_RANGE)
    inner = nodes["is_leaf"] == 0
    check_branches(np.concatenate((nodes["left"][inner], nodes["right"][inner])), len(nodes))
    sets = [dense(getattr(predictor, name), None, _WORDS, kinds="u") for name in _SETS]
    bitsets = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
    check_indices(bitsets, min(map(len, sets)))


_SETS = ("raw_left_cat_bitsets", "binned_left_cat_bitsets")


def check_bins(mapper: Any) -> None:
    """Check that each column has thresholds, and that categories fit into a set of bits."""
    known = vars(mapper)
    if "is_categorical_" not in known:
        return
    categorical = dense(known["is_categorical_"], None, kinds="bu")
    check_lengths(len(categorical), known["bin_thresholds_"])
    for column in np.flatnonzero(categorical):
        categories = dense(known["bin_thresholds_"][column], None, kinds="fiu")
        if not ((categories >= 0) & (categories < 32 * _WORDS)).all():
            raise Damaged(OUT_OF_RANGE)


def check_ensemble(ensemble: Any) -> None:
    """Check that no tree reads a column or set of bits that its ensemble lacks."""
    known = vars(ensemble)
    if "_predictors" not in known:
        return
    width, mapper = known["n_features_in_"], only(known["_bin_mapper"], f"{_MODULE}.binning._BinMapper")
    categorical = np.asarray(mapper.is_categorical_)
    check_lengths(width, categorical)
    _check_preprocessor(known.get("_preprocessor"), width)
    for predictors in known["_predictors"]:
        check_lengths(known["n_trees_per_iteration_"], predictors)
        for predictor in predictors:
            nodes = only(predictor, f"{_MODULE}.predictor.TreePredictor").nodes
            inner = nodes["is_leaf"] == 0
            check_indices(nodes["feature_idx"][inner], width)
            splits = inner & (nodes["is_categorical"] != 0)
            if not categorical[nodes["feature_idx"][splits]].all():
                raise Damaged(OUT_OF_RANGE)


def _check_preprocessor(preprocessor: Any, width: int) -> None:
    """Check that the table keeps its width: an encoder of the categories, and a function that checks the numbers."""
    if preprocessor is None:
        return
    only(preprocessor, "sklearn.compose._column_transformer.ColumnTransformer")
    steps = preprocessor.transformers_
    dropped = [(name, step) for name, step, _ in steps[2:]]
    names = [name for name, *_ in steps[:2]]
    if (
        names != ["encoder", "numerical"]
        or dropped not in ([], [("remainder", "drop")])
        or preprocessor.n_features_in_ != width
    ):
        raise Damaged("it prepares its columns in an unknown way")
    only(steps[0][1], "sklearn.preprocessing._encoders.OrdinalEncoder")
    only(steps[1][1], "sklearn.preprocessing._function_transformer.FunctionTransformer")
    function, masks = steps[1][1].func, [dense(columns, width, kinds="b") for _, _, columns in steps[:2]]
    name = getattr(getattr(function, "func", function), "__name__", None)  # a partial function has another inside
    if name not in (None, "check_array") or (masks[0] == masks[1]).any():
        raise Damaged("it prepares its columns in an unknown way")


ENTRIES = (
    *of(f"{_MODULE}.binning", "_BinMapper", check_bins),
    *of(
        f"{_MODULE}.gradient_boosting",
        "HistGradientBoostingClassifier HistGradientBoostingRegressor",
        check_ensemble,
        unneeded={"scoring": "loss", "_scorer": None, "_raw_predict": ABSENT},  # the last is left by a scorer of a name
    ),
    *of(f"{_MODULE}.predictor", "TreePredictor", check_predictor),
)
