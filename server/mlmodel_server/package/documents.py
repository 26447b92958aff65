"""Texts and dictionaries as the inputs of a model that takes them instead of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlmodel_server.errors import UsageError
from mlmodel_server.formats.documents import Rows, vectorizers
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, Tensor, TensorSpec, is_missing


def tensors_of(kind: Rows, signature: Signature, X: Any, estimator: Any) -> list[Tensor]:
    """Return ``X`` as the inputs of the signature: a list, an array or a Series of texts, or a list of dictionaries.

    A key that a dictionary lacks is a missing text, or 0, as for a DictVectorizer. Keys that the model does not know
    are left out, as it ignores them. Raise :class:`UsageError` if ``X`` is something else.
    """
    if hasattr(X, "columns"):
        raise UsageError("the model takes texts, not a table: pass one column of the DataFrame, such as X['text']")
    rows = list(X)
    if not rows:
        raise UsageError("X has no rows: pass some rows")
    expected: tuple[type, str] = (str, "a text") if kind == "texts" else (Mapping, "a dictionary")
    for index, row in enumerate(rows):
        if not isinstance(row, expected[0]):
            raise UsageError(f"row {index} of X is not {expected[1]}: pass rows like those that it was fitted on")
    if kind == "dictionaries":
        _check_keys(signature, rows, {found.separator for found in vectorizers(estimator)})
    if kind == "texts":
        return [Tensor(signature.inputs[0].name, "BYTES", _objects(rows))]
    return [_column(spec, [row.get(spec.name) for row in rows]) for spec in signature.inputs]


def _check_keys(signature: Signature, rows: list[Any], separators: set[str]) -> None:
    """Raise :class:`UsageError` for a key that a DictVectorizer splits, as it does ``city=Rome``: it then knows the key
    under another name."""
    known = {spec.name for spec in signature.inputs}
    for key in dict.fromkeys(key for row in rows for key in row):
        for separator in separators:
            if isinstance(key, str) and separator in key and key not in known and key.partition(separator)[0] in known:
                raise UsageError(
                    f"the key {key[:40]!r} has {separator[:8]!r}, which separates a key from its text in a "
                    "DictVectorizer: rename the key, and fit again"
                )


def _column(spec: TensorSpec, values: list[Any]) -> Tensor:
    text = spec.datatype == "BYTES"
    for index, value in enumerate(values):
        if value is not None and isinstance(value, str) != text:
            raise UsageError(
                f"row {index} of X has a {type(value).__name__} as {spec.name[:40]!r}, which the model knows "
                f"{'with texts' if text else 'as a number'}: give a key values of one type, and fit again"
            )
    if text:
        return Tensor(spec.name, "BYTES", _objects([None if is_missing(value) else value for value in values]))
    return Tensor(spec.name, "FP64", np.array([0.0 if value is None else float(value) for value in values]))


def _objects(values: list[Any]) -> Array:
    array: Array = np.empty(len(values), object)
    array[:] = [str(value) if isinstance(value, str) else value for value in values]
    return array
