"""The categories of a DataFrame in an XGBoost model: checked before XGBoost follows their offsets, and read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_lengths, whole

_INTEGERS = {9: "i1", 10: "u1", 11: "i2", 13: "i4", 15: "i8"}
"""XGBoost's numbers for arrays of integers; it accepts no other categories but texts, and writes no other ones."""


def checked(categories: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return the ``cats`` of a model that XGBoost gets. Raise ValueError unless each offset and index is within its
    array."""
    columns = categories["enc"]
    order, segments = _integers(categories["sorted_idx"], "i4"), _integers(categories["feature_segments"], "i4")
    if not columns:
        check_lengths(0, order, segments)
        return {"enc": [], "feature_segments": segments, "sorted_idx": order}
    check_lengths(width, columns)
    written = [_column(column) for column in columns]
    sizes = [max(0, len(column["offsets"]) - 1) if "offsets" in column else len(column["values"]) for column in written]
    if not np.array_equal(segments, np.cumsum([0, *sizes])):
        raise Damaged(OUT_OF_RANGE)
    check_lengths(int(segments[-1]), order)
    for start, end in itertools.pairwise(segments):
        if not np.array_equal(np.sort(order[start:end]), np.arange(end - start)):
            raise Damaged(OUT_OF_RANGE)
    return {"enc": written, "feature_segments": segments, "sorted_idx": order}


def _column(column: Mapping[str, Any]) -> dict[str, Any]:
    if "offsets" not in column:
        kind = whole(column["type"])
        if kind not in _INTEGERS:
            raise Damaged("it has categories that are neither texts nor integers")
        return {"type": kind, "values": _integers(column["values"], _INTEGERS[kind])}
    values, offsets = _integers(column["values"], "i1"), _integers(column["offsets"], "i4")
    inside = not len(values) if not len(offsets) else offsets[0] == 0 and offsets[-1] == len(values)
    if not inside or (np.diff(offsets) < 0).any():
        raise Damaged(OUT_OF_RANGE)
    return {"offsets": offsets, "values": values}


def _integers(values: Any, kind: str) -> Any:
    """Return the integers: in UBJSON an array of ``kind``, in JSON a list of numbers that fit into it."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype != kind:
            raise Damaged("it has an array of the wrong type")
        return values
    limits = np.iinfo(kind)
    if not isinstance(values, list) or not all(
        type(value) is int and limits.min <= value <= limits.max for value in values
    ):
        raise Damaged("it has an array of the wrong type")
    return values


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
    names = [repr(str(name)[:40]) for name in learner.get("feature_names") or range(len(columns))]
    known = {index: _values(names[index], column) for index, column in enumerate(columns)}
    return {index: values for index, values in known.items() if values}


def _values(name: str, column: Mapping[str, Any]) -> list[Any]:
    """Return the categories of the column ``name``: integers, or texts as signed bytes with the offset of each.

    XGBoost writes as many bytes as the texts have characters: of letters that take several, the end is lost.
    """
    values: Sequence[int] = column.get("values", [])
    if "offsets" not in column:
        return list(values)
    data, ends = bytes(value & 0xFF for value in values), column["offsets"]
    if not data.isascii():
        raise RefusedModel(
            f"its column {name} has categories with other letters than ASCII, of which XGBoost saves only a part: "
            "rename these categories before training, with X[column].cat.rename_categories, or encode the column with "
            "an OrdinalEncoder in a pipeline"
        )
    return [data[start:end].decode("ascii") for start, end in itertools.pairwise(ends)]
