"""Histogram gradient boosting: compiled code follows nodes and sets of bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import check_branches, check_indices
from mlmodel_server.registry.entry import of


def check_predictor(predictor: Any) -> None:
    """Check the nodes of one tree."""
    nodes = predictor.nodes
    inner = nodes["is_leaf"] == 0
    check_branches(np.concatenate((nodes["left"][inner], nodes["right"][inner])), len(nodes))
    bitsets = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
    check_indices(bitsets, min(len(predictor.raw_left_cat_bitsets), len(predictor.binned_left_cat_bitsets)))


def check_ensemble(ensemble: Any) -> None:
    """Check that no tree reads a column that the ensemble lacks: only the ensemble checks the width of a table."""
    for predictor in np.ravel(getattr(ensemble, "_predictors", ())):
        check_indices(predictor.nodes["feature_idx"], getattr(ensemble, "n_features_in_", 0))


ENTRIES = (
    *of("sklearn.ensemble._hist_gradient_boosting.binning", "_BinMapper"),
    *of(
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting",
        "HistGradientBoostingClassifier HistGradientBoostingRegressor",
        check_ensemble,
    ),
    *of("sklearn.ensemble._hist_gradient_boosting.predictor", "TreePredictor", check_predictor),
)
