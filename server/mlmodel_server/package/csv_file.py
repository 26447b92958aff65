"""The rows of a CSV file, as a model takes them: for the command line, which has no DataFrame."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel, RequestError, UsageError, not_installed
from mlmodel_server.formats import dates, documents
from mlmodel_server.formats.frame import NULLABLE, NUMBERS, TEXTS, Frames
from mlmodel_server.tensors import Column, TensorSpec
from mlmodel_server.texts import guess

DTYPES = (*sorted(NUMBERS), *sorted(NULLABLE), *TEXTS, "category")
"""The dtypes of pandas that a column of a CSV file may get, beside those of dates: see :func:`is_dtype`."""

SEPARATORS = {";": "';'", "\t": "'\\t'", "|": "'|'"}
"""Separators that are not commas, and how they are typed in a shell."""

_LIKE_DATES = 100
"""Number of values that decide whether a column of texts looks like dates."""


@dataclass(frozen=True)
class CsvFile:
    """A CSV file, and what only its user knows of it: the column of the label (None: it has none), the columns of
    dates, the dtypes of columns, and the separator ("": a comma; another one is an error that names it)."""

    path: Path
    label: str | None = None
    dates: Sequence[str] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    separator: str = ""

    def rows(self, model: Any) -> tuple[Any, Any]:
        """Return the rows as the model takes them, and the labels; None without a label. ``model`` is an estimator of
        scikit-learn, or the path of another model.

        Raise :class:`UsageError` with what to change.
        """
        table = self._table()
        y, X = (None, table) if self.label is None else (table[self.label].to_numpy(), table.drop(columns=self.label))
        kind = "table" if isinstance(model, Path) else documents.takes(getattr(model, "best_estimator_", model))
        if kind == "texts":
            return self._texts(X), y
        if kind == "dictionaries":
            return [row.dropna().to_dict() for _, row in X.astype(object).iterrows()], y
        names = getattr(model, "feature_names_in_", None)
        if names is None:
            return X if isinstance(model, Path) else X.to_numpy(), y  # a file of a booster may name its columns
        absent = [str(name) for name in names if name not in X.columns]
        if absent:
            listed = ", ".join(f"{name!r}{guess(name, map(str, X.columns))}" for name in absent[:5])
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise UsageError(
                f"{self.path} lacks the column(s) {listed}{more}, which the model was fitted on: add or rename them"
            )
        return X[list(names)], y

    def _table(self) -> Any:
        table = self._read()
        known = list(map(str, table.columns))
        named = [("--label", [self.label] if self.label else []), ("--dates", self.dates), ("--dtypes", self.dtypes)]
        for option, names in named:
            for name in names:
                if name not in known:
                    raise UsageError(
                        f"{self.path} has no column {name!r}{guess(name, known)}: give {option} one of "
                        f"{', '.join(known[:20])}"
                    )
        import pandas as pd

        for name in self.dates:
            try:
                table[name] = pd.to_datetime(table[name], format="ISO8601")
            except ValueError:
                dtype = shlex.quote(f"{name}=datetime64[us, UTC]")
                raise UsageError(
                    f"column {name!r} of {self.path} has a value that is not a date in ISO 8601, such as 2024-03-01, "
                    f"or several offsets: change it, or give --dtypes {dtype} with the time zone of the training"
                ) from None
        for name, dtype in self.dtypes.items():
            if dtype == "category":  # pandas' reader would make texts of numbers
                table[name] = table[name].astype(dtype)
            elif dates.DTYPE.fullmatch(dtype):
                table[name] = self._dates(name, dtype, table[name])
        return table

    def _dates(self, name: str, dtype: str, texts: Any) -> Any:
        """Return a column of texts as dates of this dtype, as a server makes them."""
        column = Column(dtype, format=dates.format_of(dtype))
        table: Any = np.empty((len(texts), 1), object)
        table[:, 0] = [text if isinstance(text, str) else None for text in texts]
        try:
            return Frames([TensorSpec(name, "BYTES", (-1,), column)])(table)[name]
        except RequestError as error:
            raise UsageError(f"{self.path}: {error}") from None
        except RefusedModel:
            raise UsageError(
                f"the time zone in {dtype!r} is unknown here: give --dtypes another, such as UTC"
            ) from None

    def _read(self) -> Any:
        try:
            import pandas as pd
        except ImportError:
            raise UsageError(not_installed("reading a CSV file", "pandas", "cli")) from None
        dtypes: dict[str, Any] = {name: dtype for name, dtype in self.dtypes.items() if dtype != "category"}
        dtypes |= {name: str for name, dtype in dtypes.items() if dates.DTYPE.fullmatch(dtype)}
        try:
            self._check_separator()
            return pd.read_csv(self.path, sep=self.separator or ",", dtype=dtypes)
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}: give a CSV file with a header") from None
        except UnicodeDecodeError:
            raise UsageError(f"{self.path} is not in UTF-8: convert it, such as with iconv -f latin1 -t utf8") from None
        except (ValueError, TypeError, OverflowError) as error:  # pandas' parser errors are ValueErrors
            self._check_dtypes(dtypes)
            raise UsageError(
                f"{self.path} is not a CSV table ({str(error).splitlines()[0]}): give a CSV file with a header"
            ) from None

    def _check_separator(self) -> None:
        """Raise :class:`UsageError` if the header has no comma, but another separator."""
        if self.separator:
            return
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = next(csv.reader([file.readline(1 << 20)]), [])
        found = [separator for separator in SEPARATORS if len(header) == 1 and separator in header[0]]
        if found:
            typed = SEPARATORS[max(found, key=header[0].count)]
            raise UsageError(f"{self.path} is separated by {typed}, not by commas: add --separator {typed}")

    def _check_dtypes(self, dtypes: Mapping[str, str]) -> None:
        """Raise :class:`UsageError`, which names the column, if one cannot have its dtype."""
        import pandas as pd

        for name, dtype in dtypes.items():
            try:
                pd.read_csv(self.path, sep=self.separator or ",", usecols=[name], dtype={name: dtype})
            except (ValueError, TypeError, OverflowError):
                nullable = {plain: own for own, plain in NULLABLE.items()}.get(dtype)
                hint = f", such as {nullable} if values are missing" if nullable and dtype in NULLABLE.values() else ""
                raise UsageError(
                    f"column {name!r} of {self.path} has a value that {dtype} cannot hold: give --dtypes another{hint}"
                ) from None

    def _texts(self, table: Any) -> Any:
        """Return the column of texts: the one called ``text``, else the only one."""
        if documents.TEXT in table.columns or len(table.columns) == 1:
            texts = table[documents.TEXT] if documents.TEXT in table.columns else table.iloc[:, 0]
            return texts.fillna("").astype(str)
        raise UsageError(
            f"{self.path} has the columns {', '.join(map(str, table.columns[:10]))}, but the model takes one text for "
            "each row: name the column of texts 'text'"
        )


def is_dtype(dtype: str) -> bool:
    """Whether a column of a CSV file may get this dtype of pandas."""
    return dtype in DTYPES or dates.DTYPE.fullmatch(dtype) is not None


def like_dates(X: Any) -> list[str]:
    """Return the columns of text of a DataFrame whose values are dates in ISO 8601."""
    if not hasattr(X, "columns"):
        return []
    found = []
    for name in X.columns:
        if str(X[name].dtype) in TEXTS:
            values = X[name].dropna().head(_LIKE_DATES).tolist()
            if values and all(isinstance(value, str) and dates.is_date(value) for value in values):
                found.append(str(name))
    return found
