"""``POST /invocations``, as in MLflow's scoring server: a table as JSON or CSV.

Source: the documentation of MLflow 3, "Local inference server". The response is that of :func:`.v1.encode`.
"""

from __future__ import annotations

import csv
import io
import re
from math import inf, isinf
from typing import Any

from mlmodel_server.errors import RequestError
from mlmodel_server.protocol import jsonbody, rows, v1
from mlmodel_server.tensors import EXACT_INTEGER, InferRequest, Tensor, about_dates, kind, quoted

CSV = b"text/csv"
MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
"""Cells that are missing values, quoted or not: those of ``pandas.read_csv``, which MLflow's server calls."""

_INTEGER = re.compile(r"[+-]?\d{1,400}", re.ASCII)
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def decode(body: bytes, content_type: bytes, specs: rows.Specs) -> InferRequest:
    """Parse a request: CSV when ``content_type``, without its parameters, is ``text/csv``; else JSON.

    Raise :class:`RequestError` 400, which names the feature and the row.
    """
    if content_type == CSV:
        return _of_csv(body, specs)
    value = jsonbody.parse(body)
    if not isinstance(value, dict) or sum(form in value for form in _FORMS) != 1:
        raise RequestError(f"send an object with exactly one of {', '.join(_FORMS)}")
    v1.reject_outputs(value)
    if "dataframe_split" in value:
        return rows.request(_of_split(value["dataframe_split"], specs))
    if "dataframe_records" in value:
        return rows.request(rows.tensors(value["dataframe_records"], specs))
    return v1.of_object(value, specs)


def _of_split(split: Any, specs: rows.Specs) -> list[Tensor]:
    if not isinstance(split, dict) or not isinstance(split.get("data"), list):
        raise RequestError('dataframe_split must be an object like {"columns": ["a"], "data": [[1], [2]]}')
    names = split.get("columns", [spec.name for spec in specs])
    if not isinstance(names, list) or not all(isinstance(name, (str, int)) for name in names):
        raise RequestError("dataframe_split: columns must be an array of names")
    return rows.table([str(name) for name in names], split["data"], specs)


def _of_csv(body: bytes, specs: rows.Specs) -> InferRequest:
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise RequestError("the body is not CSV in UTF-8: send a line of names and a line for each row") from None
    header, *cells = [line for line in lines if line] or [[]]
    names = {spec.name for spec in specs}
    if not header or (all(map(_is_number, header)) and not names.issuperset(header)):
        raise RequestError("the first line of the CSV must be the names of the features")
    if (separator := _separator(header)) and header[0] not in names:
        raise RequestError(f"the CSV is separated by {separator!r}: separate its values by commas")
    if not cells:
        raise RequestError(
            "the request has no rows: send a line of names and a line for each row (curl -d removes the line ends of a "
            "file: use --data-binary)"
        )
    kinds = {spec.name: kind(spec.datatype) for spec in specs}
    # Columns of a model with one input may have any names. For other models, rows.table rejects unknown names.
    other = kind(specs[0].datatype) if len(specs) == 1 else str
    types = [kinds.get(name, other) for name in header]
    for index, row in enumerate(cells):
        if len(row) != len(header):
            raise RequestError(
                f"row {index} has {len(row)} values, but the first line of the CSV has {len(header)} names"
            )
        for column, text in enumerate(row):
            row[column] = _value(text, types[column], index, header[column])
    return rows.request(rows.table(header, list(cells), specs))


def _separator(header: list[str]) -> str:
    """Return what separates the names instead of a comma; "" if nothing does."""
    return next((other for other in ";\t|" if len(header) == 1 and other in header[0]), "")


def _value(text: str, element: type, row: int, name: str) -> Any:
    """Return the value of a cell; None if it is missing. Of a column of integers or booleans it may be another number,
    which is checked like one in JSON."""
    if element is str:
        return None if text in MISSING else text
    text = text.strip()
    if text in MISSING:
        return None
    if text in ("true", "false", "True", "False", "TRUE", "FALSE"):
        return text.lower() == "true"
    try:
        number: int | float = float(text)
    except ValueError:
        number = inf
    if (element is int or abs(number) >= EXACT_INTEGER) and _INTEGER.fullmatch(text):
        number = int(text)
    if "_" in text or isinf(number):
        expected = {float: "a number", int: "an integer", bool: "true or false"}[element]
        raise RequestError(f"row {row}: feature {quoted(name)} must be {expected}{about_dates(text)}")
    return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
