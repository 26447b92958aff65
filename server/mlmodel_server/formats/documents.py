"""Models whose first step takes a list of texts or of dictionaries, and not a table: what a client sends instead.

A text is the only column of a row. A dictionary has a column for each of its keys: text if the model knows it with
texts, else a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Table
from mlmodel_server.tensors import TensorSpec

Rows = Literal["table", "texts", "dictionaries"]
"""What a model gets for the rows of a request."""

TEXT = "text"
"""The input of a model that takes texts."""

_INNER = ("best_estimator_", "estimator_", "regressor_", "estimators_", "calibrated_classifiers_")
_EXAMPLE_WORDS = 3


def takes(estimator: Any) -> Rows | None:
    """Return what a fitted estimator takes as rows; None if that is not known."""
    if isinstance(getattr(estimator, "n_features_in_", None), int):
        return "table"
    kinds: set[Rows | None] = {_kind(vectorizer) for vectorizer in vectorizers(estimator)}
    return kinds.pop() if len(kinds) == 1 else None


def _kind(vectorizer: Any) -> Rows | None:
    if hasattr(vectorizer, "build_analyzer"):
        return "texts"
    return "dictionaries" if type(vectorizer).__name__ == "DictVectorizer" else None


def vectorizers(estimator: Any) -> Iterator[Any]:
    """Yield the parts of an estimator that get its rows as a client sent them."""
    name = type(estimator).__name__
    if name == "Pipeline":
        steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
        first = next((step for step in steps if type(step).__name__ != "FunctionTransformer"), None)
        yield from () if first is None else vectorizers(first)
    elif name == "FeatureUnion":
        for _, step in estimator.transformer_list:
            if not isinstance(step, str) and type(step).__name__ != "FunctionTransformer":
                yield from vectorizers(step)
    else:
        inner = [part for key in _INNER for part in _listed(getattr(estimator, key, ()))]
        for part in inner:
            yield from vectorizers(getattr(part, "estimator", part) if _is_helper(part) else part)
        if not inner:
            yield estimator


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] if hasattr(value, "__dict__") else []


def _is_helper(part: Any) -> bool:
    return type(part).__name__ == "_CalibratedClassifier"


def columns(estimator: Any, kind: Rows) -> tuple[tuple[TensorSpec, ...], dict[int, Any]]:
    """Return the inputs of a model that takes texts or dictionaries, and by column a value that it knows.

    Raise :class:`RefusedModel` if a dictionary's key would have several types.
    """
    found = list(vectorizers(estimator))
    if kind == "texts":
        words = list(getattr(found[0], "vocabulary_", ()))[:_EXAMPLE_WORDS]
        text = " ".join(word for word in words if isinstance(word, str))
        return (TensorSpec(TEXT, "BYTES", (-1,)),), {0: text or TEXT}
    values: dict[str, Any] = {}
    for vectorizer in found:
        for key, value in _features(vectorizer):
            if type(values.setdefault(key, value)) is not type(value):
                raise RefusedModel(
                    f"its DictVectorizer knows {key[:40]!r} as a text and as a number: give the two different keys, "
                    "and fit again"
                )
    inputs = tuple(TensorSpec(key, "BYTES" if isinstance(v, str) else "FP64", (-1,)) for key, v in values.items())
    return inputs, {column: value for column, value in enumerate(values.values()) if isinstance(value, str)}


def _features(vectorizer: Any) -> Iterator[tuple[str, str | float]]:
    for feature in vectorizer.feature_names_:
        if not isinstance(feature, str):
            raise RefusedModel("its DictVectorizer has a key that is not text: use texts as keys, and fit again")
        key, separator, value = feature.partition(vectorizer.separator)
        yield key, value if separator else 0.0


def texts(table: Table) -> list[Any]:
    """Return the texts of a table with one column."""
    return [row[0] for row in _rows(table)]


class Dictionaries:
    """Turns rows into dictionaries with these keys. A missing text is a key that the dictionary lacks."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)

    def __call__(self, table: Table) -> list[dict[str, Any]]:
        """Return a dictionary for each row."""
        return [
            {key: value for key, value in zip(self._keys, row, strict=True) if value is not None}
            for row in _rows(table)
        ]


def _rows(table: Table) -> list[list[Any]]:
    assert not isinstance(table, dict)
    return table.tolist()  # type: ignore[union-attr, no-any-return]
