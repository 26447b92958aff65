"""The methods of an estimator as outputs: what each is called on the wire, and which a request gets that names none.

It knows scikit-learn's names, and imports nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlmodel_server.errors import RequestError
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA
from mlmodel_server.tensors import Array, TensorSpec, datatype_of

KNEIGHBORS = "kneighbors"
FURTHER = ("decision_function", "score_samples", "transform", KNEIGHBORS)
"""Methods beside those that a compiled model has."""

SERVED = (PREDICT, PREDICT_PROBA, *FURTHER)
"""Methods whose answers are outputs of every model that has them."""

CHOSEN = ("predict_log_proba", "predict_joint_log_proba")
"""Further methods, which are outputs if a package or MLflow's description names them."""

_NATURAL = (PREDICT, "transform", KNEIGHBORS, "score_samples", "decision_function", PREDICT_PROBA)
"""The method of a request that names no output is the first of these that the estimator has."""

_PARTS = {KNEIGHBORS: ("kneighbors_distances", "kneighbors_indices")}
"""The outputs of a method that returns several arrays."""

_SEVERAL = (PREDICT_PROBA, "predict_log_proba")
"""Methods that return a list with an array for each target, if there are several."""

_TARGET = re.compile(rf"({'|'.join(_SEVERAL)})_(\d{{1,4}})")
_RANDOM = {"BernoulliRBM": ("score_samples",)}
"""Methods by class whose answer to a row depends on chance and on the other rows."""

MAX_NUMBERS = 4 << 20
"""Maximum numbers in one output of a response, beside ``predict`` and the probabilities: also of a sparse matrix, which
is sent dense."""

Call = Callable[[Any], Any]


def methods_of(estimator: Any) -> dict[str, Call]:
    """Return the methods of a fitted estimator that can be outputs, by name, in the order of :data:`SERVED`.

    A pipeline has the ``kneighbors`` of its last step, called with what the steps before it return.
    """
    random = _RANDOM.get(type(last(estimator)).__name__, ())
    found = {name: getattr(estimator, name, None) for name in (*SERVED, *CHOSEN) if name not in random}
    if found[KNEIGHBORS] is None and hasattr(last(estimator), KNEIGHBORS):
        found[KNEIGHBORS] = _after_steps(estimator)
    return {name: method for name, method in found.items() if method is not None}


def last(estimator: Any) -> Any:
    """Return the last step of a pipeline, else the estimator."""
    return estimator.steps[-1][1] if type(estimator).__name__ == "Pipeline" and estimator.steps else estimator


def _after_steps(pipeline: Any) -> Call:
    before, search = pipeline[:-1], pipeline[-1]
    return lambda rows: search.kneighbors(before.transform(rows))


def natural(methods: Sequence[str]) -> str:
    """Return the method of a request that names no output; "" if no method can be an output."""
    return next((name for name in _NATURAL if name in methods), "")


def named(method: str) -> tuple[str, ...]:
    """Return the outputs of a method of which the number of arrays is known before it is called."""
    return _PARTS.get(method, (method,))


def outputs_of_method(method: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``outputs`` that are answers of ``method``."""
    return tuple(name for name in outputs if _source(name)[0] == method)


def methods_behind(outputs: Sequence[str]) -> list[str]:
    """Return the methods whose answers these outputs are, each once."""
    return list(dict.fromkeys(_source(output)[0] for output in outputs))


def _source(output: str) -> tuple[str, int | None]:
    """Return the method of an output, and which of several arrays of its answer it is; None is the whole answer."""
    for method, names in _PARTS.items():
        if output in names:
            return method, names.index(output)
    match = _TARGET.fullmatch(output)
    return (match[1], int(match[2])) if match else (output, None)


class MethodFunctions:
    """The outputs of an estimator. Several outputs of one method come from one call of it."""

    def __init__(self, methods: dict[str, Call]) -> None:
        self._methods = methods
        self._sources: dict[str, tuple[Call, int | None]] = {
            name: (method, None) for name, method in methods.items() if name not in _PARTS
        }

    def __contains__(self, output: str) -> bool:
        """Whether the estimator has the method of this output."""
        return _source(output)[0] in self._methods

    def __call__(self, rows: Any, outputs: Sequence[str]) -> list[Array]:
        """Return one array for each of ``outputs``, in that order, for ``rows`` as the estimator takes them.

        Raise :class:`RequestError` if an answer is larger than a response may be.
        """
        answers: list[Array] = []
        whole: dict[Call, Any] = {}
        for name in outputs:
            method, part = self._sources.get(name) or self._resolved(name)
            if part is None:
                answers.append(_array(name, method(rows)))
                continue
            if method not in whole:
                whole[method] = method(rows)
            answers.append(_array(name, whole[method][part]))
        return answers

    def _resolved(self, output: str) -> tuple[Call, int | None]:
        method, part = _source(output)
        source = self._sources[output] = self._methods[method], part
        return source

    def answers(self, rows: Any, method: str) -> dict[str, Array]:
        """Return all outputs of one method by name: several for the neighbours, and for the probabilities of several
        targets (``predict_proba_0``, …)."""
        answer = self._methods[method](rows)
        if method in _PARTS:
            return {name: _array(name, part) for name, part in zip(_PARTS[method], answer, strict=True)}
        if isinstance(answer, list) and method in _SEVERAL:
            return {f"{method}_{index}": _array(method, part) for index, part in enumerate(answer)}
        return {method: _array(method, answer)}

    def specs(self, rows: Any, only: Sequence[str] = SERVED) -> tuple[TensorSpec, ...]:
        """Call each method with ``rows`` to return the outputs of the estimator. One whose answer is not a tensor
        with a row for each of ``rows`` is left out, unless it is the default one. Raise what it raises."""
        names = [name for name in only if name in self._methods]
        specs: list[TensorSpec] = []
        for method in names:
            try:
                found = self.answers(rows, method)
            except Exception:
                if method == natural(names):
                    raise
                continue
            if method != natural(names) and not is_by_row(found, rows):
                continue
            specs += [
                TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:])) for name, array in found.items()
            ]
        return tuple(specs)


def is_by_row(answers: dict[str, Array], rows: Any) -> bool:
    """Whether the outputs of a method have a row for each of ``rows``: ``VotingClassifier.transform`` may not."""
    return all(array.shape[:1] == (len(rows),) for array in answers.values())


def _array(name: str, answer: Any) -> Array:
    """Return an answer as a tensor: dense, and of one type."""
    if name == PREDICT or name.startswith(PREDICT_PROBA):
        return np.asarray(answer)
    rows, *_ = shape = answer.shape if hasattr(answer, "shape") else np.shape(answer)
    if np.prod(shape, dtype=np.float64) > MAX_NUMBERS:
        smaller = "send fewer rows" if rows > 1 else "train the model with fewer columns"
        raise RequestError(
            f"{name} of {rows} rows has {' x '.join(map(str, shape))} numbers, and a response has at most "
            f"{MAX_NUMBERS:,}: {smaller}, or request another output",
            413,
        )
    array: Array = answer.toarray() if hasattr(answer, "toarray") else np.asarray(answer)
    if array.dtype != object or all(isinstance(value, str) for value in array.ravel().tolist()):
        return array
    try:
        numbers: Array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise RequestError(
            f"{name} returns texts and numbers in one table, which no tensor has: request another output, or end the "
            "model with a step that encodes the texts"
        ) from None
    if not all(
        value == number
        for value, number in zip(array.ravel().tolist(), numbers.ravel().tolist(), strict=True)
        if value == value
    ):
        raise RequestError(
            f"{name} returns whole numbers that are not exact as floating-point numbers: request another output"
        )
    return numbers
