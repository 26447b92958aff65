"""The tables of the census: one for each kind of data that users train on, with the seeds fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SEED = 20261128
TRAINED, ASKED = 150, 40
"""Rows to train on, and further rows to predict."""

Array = NDArray[Any]

MATRICES = ("float64", "close", "single", "counts", "missing", "sentinel")
FRAMES = ("named", "integers", "booleans", "texts", "categories", "mixed")
TABLES = (*MATRICES, *FRAMES)
LISTS = ("documents", "dictionaries")
KINDS = (*TABLES, *LISTS)
NUMERIC = ("float64", "close", "single", "counts", "named", "integers", "booleans", "sentinel")
"""Kinds with finite numbers only: every estimator can be trained on them as they are."""

DESCRIPTIONS = {
    "float64": "an array of floats",
    "close": "an array of floats that differ only beyond float32",
    "single": "an array of float32",
    "counts": "an array of numbers from 0, most of them whole",
    "missing": "an array with missing numbers",
    "sentinel": "an array with -999 for missing, and zeros",
    "named": "a DataFrame of floats",
    "integers": "a DataFrame of int64 and int32",
    "booleans": "a DataFrame of booleans",
    "texts": "a DataFrame of texts",
    "categories": "a DataFrame of floats, and pandas categories of texts and of integers",
    "mixed": "a DataFrame of floats with missing ones, integers, booleans, texts and categories",
    "documents": "a list of texts",
    "dictionaries": "a list of dictionaries with numbers and texts",
}


@dataclass(frozen=True)
class Data:
    """A table in the library's own type, and numbers from which targets are made. ``trained`` and ``asked`` are rows;
    ``edges`` are single rows that clients send and some models reject, by what they contain."""

    kind: str
    trained: Any
    asked: Any
    edges: dict[str, Any]
    hidden: Array


def table_of(kind: str, columns: int = 0) -> Data:
    """Return the table of a kind, with its first ``columns`` columns (0: all)."""
    random = np.random.default_rng([SEED, KINDS.index(kind)])
    table, hidden = _MAKERS[kind](random, TRAINED + ASKED)
    if columns:
        table = table.iloc[:, :columns] if isinstance(table, pd.DataFrame) else table[:, :columns]
    trained, asked = _rows(table, slice(0, TRAINED)), _rows(table, slice(TRAINED, None))
    return Data(kind, trained, asked, _edges(asked), hidden)


def _rows(table: Any, which: slice) -> Any:
    return table.iloc[which].reset_index(drop=True) if isinstance(table, pd.DataFrame) else table[which].copy()


def _floats(random: np.random.Generator, rows: int) -> tuple[Array, Array]:
    table = random.normal(size=(rows, 5)) * np.array([1.0, 3.0, 0.2, 1.0, 2.0])
    return table, table[:, 0] + 0.4 * table[:, 1] - table[:, 3] * (table[:, 4] > 0)


def _close(random: np.random.Generator, rows: int) -> tuple[Array, Array]:
    """Numbers near 2^24 + 1, where float32 has steps of 2: a model that rounds too early sees other rows."""
    offset = random.integers(0, 12, size=(rows, 5))
    table = 16777210.0 + offset + random.choice([0.0, 0.5], size=(rows, 5))
    return table, offset[:, 0] + 0.5 * offset[:, 1] - 0.3 * offset[:, 3].astype(float)


def _single(random: np.random.Generator, rows: int) -> tuple[Array, Array]:
    table, hidden = _floats(random, rows)
    return table.astype(np.float32), hidden


def _counts(random: np.random.Generator, rows: int) -> tuple[Array, Array]:
    table = random.poisson([1, 3, 0.5, 8, 2], size=(rows, 5)).astype(float)
    return table, table[:, 0] + 0.3 * table[:, 1] - 0.2 * table[:, 3]


def _missing(random: np.random.Generator, rows: int) -> tuple[Array, Array]:
    table, hidden = _floats(random, rows)
    table[random.random(table.shape) < 0.15] = np.nan
    return table, hidden


def _sentinel(random: np.random.Generator, rows: int) -> tuple[Array, Array]:
    table, hidden = _floats(random, rows)
    absent = random.random(table.shape)
    table[absent < 0.15] = -999.0
    table[absent > 0.9] = 0.0
    return table, np.where(table[:, 0] == -999, 2.0, hidden)


def _named(random: np.random.Generator, rows: int) -> tuple[pd.DataFrame, Array]:
    table, hidden = _floats(random, rows)
    return pd.DataFrame(table, columns=["amount", "age", "rate", "score", "size"]), hidden


def _integers(random: np.random.Generator, rows: int) -> tuple[pd.DataFrame, Array]:
    table = pd.DataFrame(
        {
            "count": random.integers(0, 9, rows),
            "identity": 16777210 + random.integers(0, 12, rows),  # float32 has no odd number above 2^24
            "year": random.integers(1990, 2026, rows).astype(np.int32),
            "rank": random.integers(1, 6, rows),
        }
    )
    return table, (table["count"] + 0.5 * (table["identity"] % 7) - 0.1 * (table["year"] - 2000)).to_numpy(float)


def _booleans(random: np.random.Generator, rows: int) -> tuple[pd.DataFrame, Array]:
    values = random.random((rows, 5)) > np.array([0.5, 0.3, 0.7, 0.5, 0.4])
    table = pd.DataFrame(values, columns=["member", "paid", "new", "mobile", "night"])
    return table, values @ np.array([1.0, 0.5, -0.7, 0.2, 0.1]) + random.normal(size=rows) / 5


_CITIES = np.array(["Berlin", "Zürich", "New York", "Roma"])
_COLOURS = np.array(["red", "green", "blue"])


def _texts(random: np.random.Generator, rows: int) -> tuple[pd.DataFrame, Array]:
    city, colour = random.integers(0, 4, rows), random.integers(0, 3, rows)
    table = pd.DataFrame({"city": _CITIES[city], "colour": _COLOURS[colour]}).astype(object)
    return table, city - 0.8 * colour + random.normal(size=rows) / 3


_STEPS = np.array([30, 10, 500, 7])


def _categories(random: np.random.Generator, rows: int) -> tuple[pd.DataFrame, Array]:
    """Categories of integers that are not their codes, and of texts in an order that is not the alphabet's."""
    step, colour, amount = random.integers(0, 4, rows), random.integers(0, 3, rows), random.normal(size=rows)
    table = pd.DataFrame(
        {
            "amount": amount,
            "step": pd.Categorical(_STEPS[step], categories=[500, 7, 10, 30]),
            "colour": pd.Categorical(_COLOURS[colour], categories=["red", "green", "blue"]),
            "rate": random.random(rows),
        }
    )
    return table, amount + np.array([2.0, -1.0, 0.5, 0.0])[step] - colour


def _mixed(random: np.random.Generator, rows: int) -> tuple[pd.DataFrame, Array]:
    amount, city, level = random.normal(size=rows), random.integers(0, 4, rows), random.integers(0, 2, rows)
    table = pd.DataFrame(
        {
            "amount": np.where(random.random(rows) < 0.1, np.nan, amount),
            "count": random.integers(0, 9, rows),
            "city": _CITIES[city],
            "level": pd.Categorical(np.array(["low", "high"])[level], categories=["low", "high"]),
            "member": random.random(rows) > 0.5,
        }
    )
    return table, amount + 0.2 * table["count"].to_numpy() - 0.5 * city + level * table["member"].to_numpy()


_WORDS = np.array(["good", "bad", "long", "film", "story", "actor", "Zürich", "the", "awful", "great"])


def _documents(random: np.random.Generator, rows: int) -> tuple[list[str], Array]:
    counts = random.poisson(1.0, size=(rows, len(_WORDS)))
    texts = [" ".join(random.permutation(np.repeat(_WORDS, row))) for row in counts]
    return texts, counts @ np.linspace(1, -1, len(_WORDS))


def _dictionaries(random: np.random.Generator, rows: int) -> tuple[list[dict[str, Any]], Array]:
    city, age = random.integers(0, 4, rows), random.integers(0, 90, rows)
    known = [
        {"city": str(_CITIES[c]), "age": int(a), "member": bool(a % 2), "rate": a / 7}
        for c, a in zip(city, age, strict=True)
    ]
    for row, absent in zip(known, random.choice(["city", "age", "none"], rows), strict=True):
        row.pop(str(absent), None)
    return known, city + age / 30


def is_text(dtype: Any) -> bool:
    """Whether a column of this type has texts: an object, or pandas' own type of strings."""
    return isinstance(dtype, pd.StringDtype) or (isinstance(dtype, np.dtype) and dtype.kind == "O")


_MAKERS = {
    "float64": _floats,
    "close": _close,
    "single": _single,
    "counts": _counts,
    "missing": _missing,
    "sentinel": _sentinel,
    "named": _named,
    "integers": _integers,
    "booleans": _booleans,
    "texts": _texts,
    "categories": _categories,
    "mixed": _mixed,
    "documents": _documents,
    "dictionaries": _dictionaries,
}


def _edges(asked: Any) -> dict[str, Any]:
    if isinstance(asked, pd.DataFrame):
        return _edges_of_frame(asked)
    if isinstance(asked, list):
        return _edges_of_list(asked)
    row, edges = asked[:1], {}
    for name, value in (
        ("missing", np.nan),
        ("infinite", np.inf),
        ("huge", 1e30),
        ("beyond float32", 1e39),
        ("-999", -999.0),
    ):
        if asked.dtype == np.float32 and value == 1e39:
            continue
        edge = row.copy()
        edge[0, -1] = value
        edges[name] = edge
    return edges | {"zeros": np.zeros_like(row)}


def _edges_of_list(asked: list[Any]) -> dict[str, Any]:
    if isinstance(asked[0], str):
        return {"empty": [""], "unknown": ["Atlantis"], "long": ["good bad " * 500]}
    whole = {"city": "Berlin", "age": 3, "member": True, "rate": 0.5}
    return {"empty": [{}], "unknown text": [whole | {"city": "Atlantis"}], "missing": [whole | {"age": np.nan}]}


def _edges_of_frame(asked: pd.DataFrame) -> dict[str, Any]:
    edges: dict[str, Any] = {}
    for name in asked.columns:
        column = asked[name]
        values: dict[str, Any] = {}
        if isinstance(column.dtype, pd.CategoricalDtype):
            numbers = pd.api.types.is_numeric_dtype(column.dtype.categories)
            values = {"unknown category": pd.Categorical([11 if numbers else "violet"])}
        elif is_text(column.dtype):
            values = {"unknown text": np.array(["Atlantis"], object), "empty text": np.array([""], object)}
        elif column.dtype.kind == "f":
            values = {"missing": np.array([np.nan]), "huge": np.array([1e30])}
        elif column.dtype.kind == "i":
            values = {"other integer": np.array([-5], column.dtype)}
        for what, value in values.items():
            edge = asked.dropna().iloc[:1].copy()
            edge[name] = value
            edges[f"{what} in {name}"] = edge
    return edges
