"""scikit-learn estimators and pipelines, which :mod:`~mlmodel_server.loading.trust` read from skops or joblib."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import learnt
from mlmodel_server.formats.frame import Frames
from mlmodel_server.formats.opened import FILLS, MATRIX, METHODS, PREDICT, PREDICT_PROBA, Opened, Table, Task
from mlmodel_server.formats.prepare import parts, prepare
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec, datatype_of, missing_texts


class EstimatorFunctions:
    """The methods of a prepared estimator, by the names of its outputs; ``rows`` makes what it takes of a table.

    A missing text is NaN to the estimator, as pandas has it, but None in the columns ``none``.
    """

    def __init__(self, estimator: Any, none: Sequence[int] = (), rows: Callable[[Table], Any] | None = None) -> None:
        self._none, self._rows = list(none), rows
        self._methods = {name: getattr(estimator, name) for name in METHODS if hasattr(estimator, name)}

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :class:`~.opened.Functions`."""
        taken = self._taken(table)
        return [np.asarray(self._methods[name](taken)) for name in outputs]

    def _taken(self, table: Table) -> Any:
        if self._rows:
            return self._rows(table)
        if isinstance(table, np.ndarray) and table.dtype == object:
            missing = missing_texts(table)
            missing[:, self._none] = False
            if missing.any():
                return np.where(missing, np.nan, table)
        return table


def opened(estimator: Any, format: str, threads: int = 1, frame: Sequence[TensorSpec] = ()) -> Opened:
    """Return the estimator as a model. It is changed in place: see :mod:`.prepare`. ``frame`` are the columns of the
    DataFrame that it gets; if there are none, it gets arrays.

    The wrappers and boosters of XGBoost and LightGBM become models of these libraries. ``threads`` applies to them;
    scikit-learn uses the threads of the process. Raise :class:`RefusedModel` if the estimator is not fitted or cannot
    predict.
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
    # An isotonic regression has one column, and no count of it.
    width = 1 if hasattr(estimator, "X_thresholds_") else getattr(estimator, "n_features_in_", None)
    if takes_texts(estimator):
        raise RefusedModel(TAKES_TEXTS)
    if not isinstance(width, int) or not hasattr(estimator, PREDICT):
        raise RefusedModel(
            "the file contains no fitted scikit-learn model with a predict method: save a fitted estimator or pipeline"
        )
    _refuse_categories(estimator)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]  # prepare removes them
    known, none = learnt.columns(estimator, width)
    datatypes = learnt.datatypes(known)
    if not names and "BYTES" in datatypes.values():
        names = [f"column-{index}" for index in range(width)]  # as package.save calls them
    inputs = tuple(TensorSpec(name, datatypes.get(index, "FP64"), (-1,)) for index, name in enumerate(names))
    layout: Literal["columns", "matrix"] = "columns" if names else "matrix"
    prepared = prepare(estimator)
    signature = Signature(
        layout,
        inputs or (TensorSpec(MATRIX, "FP64", (-1, width)),),
        _outputs(prepared, width, known),
        classes_of(prepared),
    )
    return Opened(
        format,
        f"sklearn_{format}",
        EstimatorFunctions(prepared, none),
        signature,
        task_of(prepared),
        prepared,
        example=known,
    )


def _opened_on_frames(estimator: Any, format: str, inputs: Sequence[TensorSpec]) -> Opened:
    """Return an estimator that gets DataFrames with these columns, as its package says."""
    prepared = prepare(estimator, frame=True)
    several = isinstance(
        getattr(prepared, "classes_", None), list
    )  # probabilities of several targets are several tensors
    names = [name for name in ((PREDICT,) if several else (PREDICT, PREDICT_PROBA)) if hasattr(prepared, name)]
    outputs = tuple(TensorSpec(name, "FP64", (-1,)) for name in names)  # its package knows their types
    return Opened(
        format,
        f"sklearn_{format}",
        EstimatorFunctions(prepared, rows=Frames(inputs)),
        Signature("columns", tuple(inputs), outputs, classes_of(prepared), frame=True),
        task_of(prepared),
        prepared,
    )


TAKES_TEXTS = (
    "its first step takes a list of texts, which is not a table: make it a step of a ColumnTransformer, such as "
    "ColumnTransformer([('text', TfidfVectorizer(), 'text')]), fit the model on a DataFrame with the column text, "
    "and write a package with package.save(model, X, y, DIR)"
)


def takes_texts(estimator: Any) -> bool:
    """Whether a model that predicts was fitted on a list of texts, so that it does not know a number of columns."""
    return (
        hasattr(estimator, PREDICT)
        and not hasattr(estimator, "n_features_in_")
        and any(hasattr(part, "build_analyzer") for part in parts(estimator))
    )


def _only_step(estimator: Any) -> Any:
    """Return the last step of a pipeline whose other steps do nothing, else the estimator."""
    if type(estimator).__name__ != "Pipeline":
        return estimator
    *before, last = [step for _, step in estimator.steps]
    idle = all(step is None or (isinstance(step, str) and step == "passthrough") for step in before)
    return last if idle and hasattr(last, PREDICT) else estimator


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


def task_of(estimator: Any) -> Task:
    """Return the task of the estimator, as scikit-learn declares it."""
    from sklearn.base import is_classifier, is_regressor

    return "classification" if is_classifier(estimator) else "regression" if is_regressor(estimator) else "other"


def _outputs(estimator: Any, width: int, known: Mapping[int, Any]) -> tuple[TensorSpec, ...]:
    text = any(isinstance(value, str) for value in known.values())
    for fill in FILLS:
        row: Array = np.full((1, width), fill, object if text else np.float64)
        for column, value in known.items():
            row[0, column] = value
        with contextlib.suppress(Exception):  # it is not a valid row of this model
            return outputs_of(estimator, row)
    else:  # derive the outputs without a prediction
        classes = getattr(estimator, "classes_", None)
        datatype = datatype_of(np.asarray(classes).dtype) if classes is not None else "FP64"
        outputs: tuple[TensorSpec, ...] = (TensorSpec(PREDICT, datatype, (-1,)),)
        if hasattr(estimator, PREDICT_PROBA) and not isinstance(classes, list):
            outputs += (TensorSpec(PREDICT_PROBA, "FP64", (-1, len(np.asarray(classes)))),)
        return outputs


def outputs_of(estimator: Any, table: Array) -> tuple[TensorSpec, ...]:
    """Predict ``table`` to return the outputs of the model: ``predict``, and ``predict_proba`` if it exists."""
    outputs = []
    for name in (PREDICT, PREDICT_PROBA):
        if hasattr(estimator, name):
            array = getattr(estimator, name)(table)
            if isinstance(array, list):  # probabilities of several targets are several tensors
                continue
            array = np.asarray(array)
            outputs.append(TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:])))
    return tuple(outputs)


def classes_of(estimator: Any) -> tuple[str, ...]:
    """Return the classes in the order of the columns of ``predict_proba``; empty unless it classifies one target."""
    classes = getattr(estimator, "classes_", None)
    if classes is None or isinstance(classes, list):
        return ()
    return tuple(str(label) for label in classes)
