"""scikit-learn estimators and pipelines, which :mod:`~mlmodel_server.loading.trust` read from skops or joblib."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np

from mlmodel_server.errors import RefusedModel, RequestError
from mlmodel_server.formats import documents, learnt, methods, unserved
from mlmodel_server.formats.frame import Frames
from mlmodel_server.formats.opened import (
    FILLS,
    MATRIX,
    PREDICT,
    PREDICT_PROBA,
    Opened,
    Table,
    Task,
    names_of_classes,
)
from mlmodel_server.formats.prepare import has_own_code, is_by_row, parts, prepare
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec, datatype_of, missing_texts

_ITERATIVE = ("NMF", "MiniBatchNMF")
"""Classes that start and stop by all rows of a call, so that a row gets another answer beside other rows."""


class EstimatorFunctions:
    """The methods of a prepared estimator, by the names of its outputs; ``rows`` makes what it takes of a table.

    A missing text is NaN to the estimator, as pandas has it, but None in the columns ``none``.
    """

    def __init__(self, estimator: Any, none: Sequence[int] = (), rows: Callable[[Table], Any] | None = None) -> None:
        self._none, self._rows = list(none), rows
        self._methods = methods.MethodFunctions(methods.methods_of(estimator))

    def __contains__(self, output: str) -> bool:
        """Whether the estimator has the method of this output."""
        return output in self._methods

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :class:`~.opened.Functions`."""
        return self._methods(self._taken(table), outputs)

    def answers(self, table: Table, method: str) -> dict[str, Array]:
        """Return all outputs of one method by name."""
        return self._methods.answers(self._taken(table), method)

    def specs(self, table: Table, only: Sequence[str] = methods.SERVED) -> tuple[TensorSpec, ...]:
        """Return the outputs, found by predicting ``table``."""
        return self._methods.specs(self._taken(table), only)

    def _taken(self, table: Table) -> Any:
        if self._rows:
            return self._rows(table)
        if isinstance(table, np.ndarray) and table.dtype == object:
            missing = missing_texts(table)
            missing[:, self._none] = False
            if missing.any():
                return np.where(missing, np.nan, table)
        return table


@dataclass(frozen=True)
class _Takes:
    """What an estimator takes: the inputs of a client, what the estimator gets for them, values that it knows by
    column, and the columns in which a missing text is None."""

    rows: documents.Rows
    layout: Literal["columns", "matrix"]
    inputs: tuple[TensorSpec, ...]
    known: Mapping[int, Any]
    none: Sequence[int] = ()
    like_dates: tuple[str, ...] = ()

    @property
    def convert(self) -> Callable[[Table], Any] | None:
        """Return the function that makes what the estimator takes of a table; None if that is the table."""
        if self.rows == "table":
            return None
        return documents.texts if self.rows == "texts" else documents.Dictionaries([spec.name for spec in self.inputs])

    def row(self, fill: float) -> Array:
        """Return a row with the known values, and ``fill`` in the other columns."""
        width = self.inputs[0].shape[-1] if self.layout == "matrix" else len(self.inputs)
        text = self.rows == "texts" or any(isinstance(value, str) for value in self.known.values())
        single = self.layout == "matrix" and self.inputs[0].datatype == "FP32"
        row: Array = np.full((1, width), fill, object if text else np.float32 if single else np.float64)
        for column, value in self.known.items():
            row[0, column] = value
        return row


def opened(estimator: Any, format: str, threads: int = 1, frame: Sequence[TensorSpec] = ()) -> Opened:
    """Return the estimator as a model. It is changed in place: see :mod:`.prepare`. ``frame`` are the columns of the
    DataFrame that it gets; if there are none, it gets arrays.

    The wrappers and boosters of XGBoost and LightGBM become models of these libraries. ``threads`` applies to them;
    scikit-learn uses the threads of the process. Raise :class:`RefusedModel` if the estimator is not fitted or has no
    method that the server calls.
    """
    estimator = _only_step(getattr(estimator, "best_estimator_", estimator))
    library = type(estimator).__module__
    if library in ("xgboost.sklearn", "lightgbm.sklearn") and hasattr(estimator, "n_features_in_"):
        booster = importlib.import_module(f".{library.partition('.')[0]}", __package__)
        return booster.opened_wrapper(estimator, format, threads)  # type: ignore[no-any-return]
    if library in ("xgboost.core", "lightgbm.basic"):
        booster = importlib.import_module(f".{library.partition('.')[0]}", __package__)
        return booster.opened_booster(estimator, format, threads)  # type: ignore[no-any-return]
    if frame:
        return _opened_on_frames(estimator, format, frame)
    if reason := unserved.reason(estimator):
        if has_own_code(estimator) and methods.methods_of(estimator):
            return _of_unknown_width(estimator, format)
        raise RefusedModel(f"the file contains no model that is served: {reason}")
    _refuse_categories(estimator)
    takes = _taken_by(estimator)
    prepared = prepare(estimator)
    functions = EstimatorFunctions(prepared, takes.none, takes.convert)
    takes = _in_single(functions, takes)
    return Opened(
        format,
        f"sklearn_{format}",
        functions,
        Signature(
            takes.layout, takes.inputs, _outputs(prepared, functions, takes), classes_of(prepared), default_of(prepared)
        ),
        task_of(prepared),
        prepared,
        example=takes.known,
        rows=takes.rows,
        by_row=_is_by_row(prepared),
        like_dates=takes.like_dates,
    )


def _taken_by(estimator: Any) -> _Takes:
    """Return what a fitted estimator takes, before :mod:`.prepare` removes the names of its columns."""
    kind = documents.takes(estimator)
    if kind in ("texts", "dictionaries"):
        inputs, known = documents.columns(estimator, kind)
        return _Takes(kind, "columns", inputs, known)
    # An isotonic regression has one column, and no count of it.
    width = getattr(estimator, "n_features_in_", 1)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    known, none = learnt.columns(estimator, width)
    if dates := [column for column, value in known.items() if isinstance(value, np.datetime64)]:
        _refuse_dates([names[column] if names else f"column-{column}" for column in dates])
    datatypes = learnt.datatypes(known)
    if not names and "BYTES" in datatypes.values():
        names = [f"column-{index}" for index in range(width)]  # as package.save calls them
    inputs = tuple(TensorSpec(name, datatypes.get(index, "FP64"), (-1,)) for index, name in enumerate(names))
    matrix = (TensorSpec(MATRIX, "FP64", (-1, width)),)
    dated = tuple(names[column] for column in learnt.like_dates(estimator, width) if names)
    return _Takes("table", "columns" if names else "matrix", inputs or matrix, known, none, dated)


def _in_single(functions: EstimatorFunctions, takes: _Takes) -> _Takes:
    """Return what the estimator takes, in float32 if it was trained on float32 and accepts nothing else."""
    if takes.layout != "matrix" or _accepts(functions, takes.row(FILLS[-1])):
        return takes
    if not _accepts(functions, takes.row(FILLS[-1]).astype(np.float32)):
        return takes
    return replace(takes, inputs=tuple(msgspec.structs.replace(spec, datatype="FP32") for spec in takes.inputs))


def _opened_on_frames(estimator: Any, format: str, inputs: Sequence[TensorSpec]) -> Opened:
    """Return an estimator that gets DataFrames with these columns, as its package says."""
    prepared = prepare(estimator, frame=True)
    found = methods.methods_of(prepared)
    outputs = tuple(TensorSpec(name, "FP64", (-1,)) for name in found)  # its package knows their names and types
    return Opened(
        format,
        f"sklearn_{format}",
        EstimatorFunctions(prepared, rows=Frames(inputs)),
        Signature("columns", tuple(inputs), outputs, classes_of(prepared), default_of(prepared), frame=True),
        task_of(prepared),
        prepared,
        by_row=_is_by_row(prepared),
    )


def _is_by_row(prepared: Any) -> bool:
    """Whether the answer to a row is known to be the same beside other rows. Functions and classes that are not of a
    library may compute with all rows of a call, such as a mean."""
    if has_own_code(prepared) or any(type(part).__name__ in _ITERATIVE for part in parts(prepared)):
        return False
    return is_by_row(prepared)


def _accepts(functions: EstimatorFunctions, row: Array) -> bool:
    try:
        functions.specs(row)
    except Exception:  # anything that an estimator raises
        return False
    return True


def _of_unknown_width(estimator: Any, format: str) -> Opened:
    """Return a model of the author's own code, which need not know its number of columns: its package does."""
    prepared = prepare(estimator)
    outputs = tuple(TensorSpec(name, "FP64", (-1,)) for name in methods.methods_of(prepared))
    signature = Signature("columns", (), outputs, classes_of(prepared), default_of(prepared))
    return Opened(
        format,
        f"sklearn_{format}",
        EstimatorFunctions(prepared),
        signature,
        task_of(prepared),
        prepared,
        by_row=_is_by_row(prepared),
    )


def default_of(estimator: Any) -> tuple[str, ...]:
    """Return the outputs of a request that names none; empty if that is ``predict``."""
    found = methods.methods_of(estimator)
    return () if PREDICT in found else methods.named(methods.natural(list(found)))


def _only_step(estimator: Any) -> Any:
    """Return the last step of a pipeline whose other steps do nothing, else the estimator."""
    if type(estimator).__name__ != "Pipeline":
        return estimator
    *before, last = [step for _, step in estimator.steps]
    idle = all(step is None or (isinstance(step, str) and step == "passthrough") for step in before)
    return last if idle and not isinstance(last, str) and methods.methods_of(last) else estimator


def _refuse_categories(estimator: Any) -> None:
    """Raise :class:`RefusedModel` for a booster within the estimator that was fitted on categories of a DataFrame: on
    the arrays of a server it would take their values for codes."""
    for part in parts(estimator):
        library = type(part).__module__.partition(".")[0]
        if library == "lightgbm" and hasattr(part, "_Booster"):
            has_categories = bool(getattr(part._Booster, "pandas_categorical", None))
        elif library == "xgboost" and hasattr(part, "n_features_in_"):
            booster = importlib.import_module(".xgboost", __package__)
            has_categories = bool(booster.categories_of(part.get_booster()))
        else:
            continue
        if has_categories:
            name, whole = type(part).__name__, type(estimator).__name__
            raise RefusedModel(
                f"its {name} was fitted on categories of a DataFrame within a {whole}: encode them with an "
                f"OrdinalEncoder in a ColumnTransformer, or save the {name} alone"
            )


def _refuse_dates(columns: Sequence[str]) -> None:
    """Raise :class:`RefusedModel` for a file whose encoders know dates: it does not say how they are written, and which
    other columns are dates."""
    listed = ", ".join(repr(name[:40]) for name in columns[:5])
    raise RefusedModel(
        f"the model was fitted on dates ({listed}), and a file does not describe them: write a package with "
        "`mlmodel package FILE --data rows.csv --dates COLUMN --out DIR`, or package.save(model, X, y, DIR)"
    )


def task_of(estimator: Any) -> Task:
    """Return the task of the estimator, as scikit-learn declares it; of a class that is none of scikit-learn's, by its
    classes."""
    from sklearn.base import is_classifier, is_regressor

    try:
        return "classification" if is_classifier(estimator) else "regression" if is_regressor(estimator) else "other"
    except AttributeError:
        return "classification" if hasattr(estimator, "classes_") else "other"


def _outputs(estimator: Any, functions: EstimatorFunctions, takes: _Takes) -> tuple[TensorSpec, ...]:
    for fill in FILLS:
        try:
            return functions.specs(takes.row(fill))
        except RequestError as error:  # its answer is larger than a response
            raise RefusedModel(str(error)) from None
        except Exception:  # noqa: S112  # it is not a valid row of this model
            continue
    # Derive the outputs without a prediction.
    classes = getattr(estimator, "classes_", None)
    datatype = datatype_of(np.asarray(classes).dtype) if classes is not None else "FP64"
    if PREDICT not in functions:
        return tuple(TensorSpec(name, "FP64", (-1, -1)) for name in default_of(estimator))
    outputs: tuple[TensorSpec, ...] = (TensorSpec(PREDICT, datatype, (-1,)),)
    if PREDICT_PROBA in functions and classes is not None and not isinstance(classes, list):
        outputs += (TensorSpec(PREDICT_PROBA, "FP64", (-1, len(np.asarray(classes)))),)
    return outputs


def classes_of(estimator: Any) -> tuple[str, ...]:
    """Return the classes in the order of the columns of ``predict_proba``; empty unless it classifies one target.

    Raise :class:`RefusedModel` if no response can have one of them, also of several targets.
    """
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return ()
    if isinstance(classes, list):
        for of_target in classes:
            names_of_classes(np.ravel(of_target))
        return ()
    return names_of_classes(classes)
