"""The categories of a DataFrame in an XGBoost model: checked before XGBoost follows their offsets, and read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_lengths, integers, whole

_INTEGERS = range(9, 17)
"""XGBoost's numbers for arrays of integers; it accepts no other categories but texts."""


def check(categories: Mapping[str, Any], width: int) -> None:
    """Raise ValueError unless ``cats`` of a model is sound: every offset and index is within its array."""
    columns = categories.get("enc", [])
    if not columns:
        check_lengths(0, categories.get("sorted_idx", []))
        return
    check_lengths(width, columns)
    sizes = [_size(column) for column in columns]
    segments = integers(categories["feature_segments"])
    if not np.array_equal(segments, np.cumsum([0, *sizes])):
        raise Damaged(OUT_OF_RANGE)
    order = integers(categories["sorted_idx"])
    check_lengths(int(segments[-1]), order)
    for start, end in itertools.pairwise(segments):
        if not np.array_equal(np.sort(order[start:end]), np.arange(end - start)):
            raise Damaged(OUT_OF_RANGE)


def _size(column: Mapping[str, Any]) -> int:
    values = integers(column["values"])
    if "offsets" not in column:
        if whole(column["type"]) not in _INTEGERS:
            raise Damaged("it has categories that are neither texts nor integers")
        return len(values)
    offsets = integers(column["offsets"])
    if len(offsets) and (offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any()):
        raise Damaged(OUT_OF_RANGE)
    return max(0, len(offsets) - 1)


def read(model: Mapping[str, Any]) -> dict[int, list[Any]]:
    """Return the categories by column, of a whole model as ``save_raw`` writes it.

    Raise :class:`RefusedModel` if it lacks them: the codes in its trees then depend on the DataFrame of each request.
    """
    learner = model["learner"]
    if "c" not in learner.get("feature_types", ()):
        return {}
    booster = learner["gradient_booster"]
    columns = booster.get("gbtree", booster).get("model", {}).get("cats", {}).get("enc", [])  # dart has a gbtree
    if not columns and learner.get("feature_names"):
        raise RefusedModel(
            "it was trained on categories of a DataFrame but does not have them, because XGBoost before 3.1 does not "
            "save them: train it with XGBoost 3.1 or newer, or on an array of codes"
        )
    known = {index: _values(column) for index, column in enumerate(columns)}
    return {index: values for index, values in known.items() if values}


def _values(column: Mapping[str, Any]) -> list[Any]:
    """Return the categories of a column: integers, or texts as signed bytes with the offset of each."""
    values: Sequence[int] = column.get("values", [])
    if "offsets" not in column:
        return list(values)
    data, ends = bytes(value & 0xFF for value in values), column["offsets"]
    if not data.isascii():
        raise RefusedModel(
            "it has categories with other letters than ASCII, of which XGBoost saves only a part: "
            "rename these categories before training"
        )
    return [data[start:end].decode("ascii") for start, end in itertools.pairwise(ends)]
