"""Serve one combination of the census, compare it with its library, and say how it went."""

from __future__ import annotations

import contextlib
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hack.census.files import NotSaved, Saved, save
from hack.census.models import Inapplicable, Trained, trained
from hack.census.serve import Server, any_speed
from hack.census.tables import Array
from hack.census.verdicts import Case, Verdict
from mlmodel_server.compile.parity import TOLERANCE
from mlmodel_server.errors import MLModelError, ModelFailure, RequestError
from mlmodel_server.formats.opened import CONTRIBUTIONS, PREDICT_PROBA


class Differs(Exception):
    """A served answer is not the library's."""


class FalseReason(Exception):
    """A refusal says what is not so."""


def judge(case: Case) -> Verdict:
    """Return the verdict on one case. An exception that is not a refusal is a wrong answer."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), any_speed():
        warnings.simplefilter("ignore")
        try:
            model = trained(case.row, case.kind)
        except Inapplicable as error:
            return Verdict("inapplicable", str(error))
        with tempfile.TemporaryDirectory(prefix="census-") as directory:
            try:
                saved = save(model, case.format, case.packaged, case.compile, Path(directory))
            except NotSaved as error:
                return _refused(model, str(error)) if case.packaged else Verdict("not saved", str(error))
            try:
                server = Server(saved.path, case.compile)
            except MLModelError as error:
                return _refused(model, str(error))
            except Exception as error:  # the server would exit with "internal error"
                return Verdict("wrong", f"the server does not start: {type(error).__name__}: {error}"[:200])
            return _served(model, saved, server)


def _served(model: Trained, saved: Saved, server: Server) -> Verdict:
    found = Verdict("right", "", server.is_compiled, "" if server.is_compiled else _reason_of(server.verdict))
    try:
        server.ask(server.example())
    except Exception as error:
        return replace(found, outcome="example fails", reason=_said(error))
    try:
        lacking = _compare_all(model, saved, server)
        outputs = server.outputs
        for name, row in model.data.edges.items():
            _compare_edge(saved, server, name, _cut(model, row), outputs)
            # The other outputs come from the same functions as these, so one edge shows whether they are asked right.
            outputs = [output for output in outputs if output not in server.model.further]
    except Differs as difference:
        return replace(found, outcome="wrong", reason=str(difference))
    except FalseReason as reason:
        return replace(found, outcome="false reason", reason=str(reason))
    except RequestError as error:
        return _refused(model, f"request: {error}")
    return replace(found, lacking=lacking)


def _cut(model: Trained, row: Any) -> Any:
    if isinstance(row, list):
        return row
    width = model.data.trained.shape[1]
    return row.iloc[:, :width] if isinstance(row, pd.DataFrame) else row[:, :width]


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, MLModelError) else f"{type(error).__name__}: {error}"[:200]


def _reason_of(verdict: str) -> str:
    return verdict.removeprefix("not compiled: ").partition(";")[0]


def _compare_all(model: Trained, saved: Saved, server: Server) -> tuple[str, ...]:
    """Compare all outputs of all rows; return the outputs of the library that are not served."""
    rows = model.data.asked
    try:
        answers = _answers(server, rows, server.outputs)
    except ModelFailure as error:
        saved.answer(rows, server.outputs[0])
        raise Differs(f"fails on rows that the library predicts: {error}") from None
    for name, got in answers.items():
        try:
            expected = saved.answer(rows, name)
        except KeyError:
            continue  # an output that the library does not have, such as the probabilities of a booster
        _compare(saved, server, rows, name, expected, got)
    return tuple(name for name in (PREDICT_PROBA,) if name not in answers and _has(saved, rows, name))


def _answers(server: Server, rows: Any, outputs: list[str]) -> dict[str, Array]:
    """Ask as JSON, and as binary data if the server says that JSON cannot hold the answer."""
    try:
        return server.answers(rows, outputs)
    except ModelFailure as error:
        if "request binary data" not in str(error):
            raise
        return server.answers(rows, outputs, binary=True)


def _has(saved: Saved, rows: Any, name: str) -> bool:
    try:
        saved.answer(rows, name)
    except Exception:
        return False
    return True


def _compare_edge(saved: Saved, server: Server, name: str, row: Any, outputs: list[str]) -> None:
    for output in outputs:  # alone: a library may accept a row for one output and not for another
        expected = _expected(saved, row, output)
        try:
            got = _answers(server, row, [output])[output]
        except RequestError as error:
            if expected is not None and "this model rejects" in str(error) and name != "beyond float32":
                raise FalseReason(f"{name}: {error}, and the library accepts it") from None
            continue  # refused, with what to do
        except ModelFailure as error:
            if isinstance(expected, np.ndarray):
                raise Differs(f"{name}: {output} fails where the library answers: {error}") from None
            continue
        if expected is None and getattr(row, "dtype", None) == np.float32:
            expected = _expected(saved, row.astype(np.float64), output)  # see _others
        if expected is None:
            raise Differs(f"{name}: {output} is answered where the library raises")
        if isinstance(expected, np.ndarray):
            try:
                _compare(saved, server, row, output, expected, got)
            except Differs as difference:
                raise Differs(f"{name}: {difference}") from None


def _expected(saved: Saved, row: Any, output: str) -> Array | str | None:
    """Return the library's answer; None if it raises, "" if it has no such output."""
    try:
        return saved.answer(row, output)
    except KeyError:
        return ""
    except Exception:  # a library may raise anything on a row that it rejects
        return None


def _compare(saved: Saved, server: Server, rows: Any, name: str, expected: Array, got: Array) -> None:
    """Raise :class:`Differs` unless every row of an output is the library's: labels and, uncompiled, all bits; numbers
    of a compiled model as close as :mod:`mlmodel_server.compile.parity` requires."""
    if name == CONTRIBUTIONS:
        got = got.reshape(len(got), -1)
        expected = expected.reshape(len(expected), -1)
    if got.shape != expected.shape and got.size != expected.size:
        raise Differs(f"{name} has the shape {list(got.shape)} instead of {list(expected.shape)}")
    tolerance = 0.0
    if server.is_compiled:
        tolerance = TOLERANCE["single" if server.is_single or expected.dtype == np.float32 else "double"]
    right = _same(expected, got, tolerance)
    for other in _others(saved, server, rows, name):
        if right.all():
            return
        if other.size == got.size:
            right |= _same(other, got, tolerance)
    if not right.all():
        first = int(np.flatnonzero(~right)[0])
        raise Differs(
            f"{name} differs in {int((~right).sum())} of {len(right)} rows, such as "
            f"{_short(got[first])} instead of {_short(expected[first])}"
        )


def _short(value: Any) -> str:
    return str(np.asarray(value).ravel()[:4].tolist())[:80]


def _same(expected: Array, got: Array, tolerance: float) -> Array:
    """Return for each row whether it is the same; numbers may differ by ``tolerance``, relative to their size."""
    rows = len(got)
    expected, got = expected.reshape(rows, -1), got.reshape(rows, -1)
    if expected.dtype.kind != "f" or got.dtype.kind != "f":
        if (expected.dtype.kind in "OUS") != (got.dtype.kind in "OUS"):
            return np.zeros(rows, dtype=bool)
        return np.asarray((expected == got).all(axis=1))
    equal = (expected == got) | (np.isnan(expected) & np.isnan(got))
    if tolerance:
        size = np.abs(expected) + np.abs(np.where(np.isfinite(expected), expected, 0)).max(initial=0.0) / 1e3
        equal |= np.abs(expected - got) <= tolerance * size
    return np.asarray(equal.all(axis=1))


def _others(saved: Saved, server: Server, rows: Any, output: str) -> Iterator[Array]:
    """Yield the library's other answers for the same rows: its sums depend, in the last bit, on the layout of the
    table in memory and on how many rows it gets together. A file does not say that its rows were float32: the same
    numbers as float64 are the same row."""
    plain = rows if isinstance(rows, np.ndarray) else None
    if server.is_compiled:
        if plain is not None and plain.dtype == np.float32 and not server.is_single:
            with contextlib.suppress(Exception):
                yield saved.answer(plain.astype(np.float64), output)
        return
    forms: list[Any] = []
    if isinstance(rows, list):
        yield np.concatenate([saved.answer([row], output) for row in rows])
        return
    if plain is not None:
        forms = [np.asfortranarray(plain), plain.astype(np.float64)]
    else:
        with contextlib.suppress(ValueError, TypeError):
            forms = [np.ascontiguousarray(rows.to_numpy(np.float64)), np.asfortranarray(rows.to_numpy(np.float64))]
        forms.append(rows.to_numpy(object))
    for form in forms:
        with contextlib.suppress(Exception):
            yield saved.answer(form, output)
            yield saved.again(form, output)
    with contextlib.suppress(Exception):
        yield saved.again(rows, output)
    singles = [rows.iloc[[i]] if plain is None else rows[i : i + 1] for i in range(len(rows))]
    try:
        yield np.concatenate([saved.answer(single, output) for single in singles])
    except Exception:
        return


_CLAIMS: tuple[tuple[str, str], ...] = (
    (r"is not fitted", "fitted"),
    (r"refused (sklearn|numpy|scipy|xgboost|lightgbm|builtins)[.\w]*", "own"),
    (r"cannot be read .* save it again", "same version"),
    (r"predicts other values on plain arrays than on X", "plain"),
    (r"this model rejects missing", "missing"),
    (r"with the libraries of this server", "same version"),
    (r"is not installed", "installed"),
    (r"self-test: input '.*': ", "own request"),
)
"""What refusals claim, and what the census knows to be otherwise."""


def _refused(model: Trained, reason: str) -> Verdict:
    for pattern, claim in _CLAIMS:
        if re.search(pattern, reason) and _is_false(model, claim):
            return Verdict("false reason", reason)
    return Verdict("refused", reason)


def _is_false(model: Trained, claim: str) -> bool:
    """Whether a claim of a refusal is false. Each model of the census is fitted, was saved by the installed versions,
    and consists of the libraries' own classes; whether it can be fitted on plain arrays is tried."""
    if claim == "plain":
        return model.data.kind in ("categories", "mixed", "texts")
    return claim in ("fitted", "own", "same version", "installed", "missing", "own request")
