"""Save a trained model in every format that the server claims, and say what its library answers."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hack.census.models import Trained
from hack.census.tables import Array
from mlmodel_server.registry.rows import Row

FORMATS = ("joblib", "skops", "mlflow", "onnx", "json", "ubj", "text")
"""Formats of bare models. ``mlflow`` is a directory; ``json`` and ``ubj`` are XGBoost's, ``text`` is LightGBM's."""

PACKAGED = ("joblib", "skops", "own")
"""Formats of packages: ``own`` is what ``package.save`` chooses for a booster."""


class NotSaved(Exception):
    """The library or ``package.save`` does not save this model in this format."""


@dataclass(frozen=True)
class Saved:
    """A model in a file. ``answer(rows, output)`` is what its library answers for rows in the library's own type; it
    raises what the library raises, and KeyError for an output that the library does not have."""

    path: Path
    answer: Callable[[Any, str], Array]
    copy: Trained | None = None

    def again(self, rows: Any, output: str) -> Array:
        """Return what the library answers after it has read the model back: a copy has its arrays in another layout,
        and so may round the last bit of a sum differently."""
        if self.copy is None:
            return self.answer(rows, output)
        if output == "predict" and hasattr(self.copy.model, "inplace_predict"):  # XGBoost's two ways to predict
            return np.asarray(self.copy.model.inplace_predict(rows))
        return of_model(self.copy, rows, output)


def formats_of(row: Row) -> tuple[str, ...]:
    """Return the formats in which bare models of a class are saved."""
    if row.rounds:
        return {"xgboost": ("joblib", "json", "ubj", "mlflow"), "lightgbm": ("joblib", "text", "mlflow")}[row.library]
    if row.library == "xgboost":
        return ("joblib", "skops", "json", "ubj", "mlflow")
    if row.library == "lightgbm":
        return ("joblib", "skops", "text", "mlflow")
    if row.role == "alone":
        return ("joblib",)
    return (
        ("joblib", "skops")
        if row.accepts in (("documents",), ("dictionaries",))
        else ("joblib", "skops", "mlflow", "onnx")
    )


def packages_of(row: Row) -> tuple[str, ...]:
    """Return the formats in which packages of a class are saved."""
    if row.role == "alone":
        return ("skops",)
    return ("own",) if row.library != "sklearn" else ("joblib", "skops")


def save(trained: Trained, format: str, packaged: bool, compile: bool, directory: Path) -> Saved:
    """Save a model; raise :class:`NotSaved` with the reason of ``package.save``, or of the library."""
    if packaged:
        return _plain(trained, _package(trained, format, compile, directory))
    writers: dict[str, Callable[[Trained, Path], Saved]] = {
        "joblib": _joblib,
        "skops": _skops,
        "mlflow": _mlflow,
        "onnx": _onnx,
        "json": _xgboost_file,
        "ubj": _xgboost_file,
        "text": _lightgbm_file,
    }
    suffix = {"joblib": "model.joblib", "skops": "model.skops", "onnx": "model.onnx", "text": "model.txt"}
    return writers[format](trained, directory / suffix.get(format, f"model.{format}"))


def of_model(trained: Trained, rows: Any, output: str) -> Array:
    """Return what the library answers with the model in memory."""
    model = trained.model
    if trained.row.rounds:
        return _of_booster(model, rows, output)
    if output == "contributions":
        return _contributions(model, rows)
    several = re.fullmatch(r"(predict_proba)_(\d)|kneighbors_(distances|indices)", output)
    if several:
        if not several[1] and type(model).__name__ == "Pipeline":
            model, rows = model[-1], model[:-1].transform(rows)
        answer = getattr(model, several[1] or "kneighbors")(rows)
        return np.asarray(answer[int(several[2]) if several[1] else ("distances", "indices").index(several[3])])
    if not hasattr(model, output):
        raise KeyError(output)
    answer = getattr(model, output)(rows)
    array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    numbers = array.dtype == object and all(isinstance(value, (bool, int, float)) for value in array.ravel().tolist())
    return array.astype(np.float64) if numbers and output != "predict" else array


def _of_booster(booster: Any, rows: Any, output: str) -> Array:
    contributions = output == "contributions"
    if output not in ("predict", "contributions"):
        raise KeyError(output)
    if type(booster).__module__.startswith("lightgbm"):
        return np.asarray(booster.predict(rows, pred_contrib=contributions, num_threads=1))
    import xgboost

    if not contributions and not isinstance(rows, pd.DataFrame) and (np.abs(rows) > np.finfo(np.float32).max).any():
        return np.asarray(booster.inplace_predict(rows))  # a DMatrix holds no infinite number
    matrix = xgboost.DMatrix(rows, enable_categorical=True, nthread=1)
    return np.asarray(booster.predict(matrix, pred_contribs=contributions))


def _contributions(model: Any, rows: Any) -> Array:
    if type(model).__module__.startswith("lightgbm"):
        return np.asarray(model.predict(rows, pred_contrib=True))
    if not type(model).__module__.startswith("xgboost"):
        raise KeyError("contributions")
    import xgboost

    matrix = xgboost.DMatrix(rows, missing=model.missing, enable_categorical=True, nthread=1)
    range = (0, model.best_iteration + 1) if model.early_stopping_rounds else (0, 0)
    return np.asarray(model.get_booster().predict(matrix, pred_contribs=True, iteration_range=range))


def _package(trained: Trained, format: str, compile: bool, directory: Path) -> Path:
    from mlmodel_server.errors import MLModelError
    from mlmodel_server.package.write import build

    chosen = "auto" if format == "own" else format
    try:
        # As people do: with rows of a test set.
        files = build(trained.model, trained.data.asked, None, format=chosen, compile=compile)  # type: ignore[arg-type]
    except MLModelError as error:
        raise NotSaved(str(error)) from None
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def _plain(trained: Trained, path: Path) -> Saved:
    copy = replace(trained, model=pickle.loads(pickle.dumps(trained.model)))
    return Saved(path, lambda rows, output: of_model(trained, rows, output), copy)


def _joblib(trained: Trained, path: Path) -> Saved:
    import joblib

    buffer = io.BytesIO()
    joblib.dump(trained.model, buffer)
    path.write_bytes(buffer.getvalue())
    return _plain(trained, path)


def _skops(trained: Trained, path: Path) -> Saved:
    from skops import io as skops

    try:
        path.write_bytes(skops.dumps(trained.model))
    except Exception as error:
        raise NotSaved(f"skops does not save it ({type(error).__name__})") from None
    return _plain(trained, path)


_MLFLOW_TYPES = {"b": "boolean", "i": "long", "f": "double"}


def _mlflow(trained: Trained, path: Path) -> Saved:
    """Write the directory that ``mlflow.MODULE.save_model`` writes, without MLflow: it needs another pandas."""
    row, model = trained.row, trained.model
    library = "sklearn" if row.library == "sklearn" or not trained.native else row.library
    directory = path.parent / "mlflow"
    directory.mkdir()
    flavour: dict[str, Any] = {"pickled_model": "model.pkl", "serialization_format": "pickle"}
    if library == "sklearn":
        (directory / "model.pkl").write_bytes(pickle.dumps(model))
    else:
        name = {"xgboost": "model.ubj", "lightgbm": "model.lgb" if row.rounds else "model.pkl"}[library]
        kind = f"{type(model).__module__}.{type(model).__name__}"
        flavour = {"data": name, "model_class": kind}
        if name == "model.pkl":
            (directory / name).write_bytes(pickle.dumps(model))
        else:
            model.save_model(directory / name)
    described = {
        "flavors": {
            library: flavour,
            "python_function": {"loader_module": f"mlflow.{library}", "predict_fn": "predict", "model_path": "model"},
        },
        "signature": {"inputs": json.dumps(_mlflow_inputs(trained.data.trained))},
    }
    (directory / "MLmodel").write_text(json.dumps(described))  # JSON is YAML

    if library == "xgboost":
        return replace(_xgboost_file(trained, directory / "model.ubj"), path=directory)
    return _plain(trained, directory)


def _mlflow_inputs(table: Any) -> list[dict[str, Any]]:
    if not isinstance(table, pd.DataFrame):
        return [{"type": "tensor", "tensor-spec": {"dtype": str(table.dtype), "shape": [-1, table.shape[1]]}}]
    types = {}
    for name, dtype in table.dtypes.items():
        kind = "i" if str(dtype) in ("int64",) else getattr(dtype, "kind", "O")
        types[name] = "integer" if str(dtype) == "int32" else _MLFLOW_TYPES.get(kind, "string")
        if isinstance(dtype, pd.CategoricalDtype):
            types[name] = "long" if pd.api.types.is_integer_dtype(dtype.categories) else "string"
    return [{"type": type, "name": name, "required": True} for name, type in types.items()]


def _onnx(trained: Trained, path: Path) -> Saved:
    """Convert with skl2onnx. The library of an ONNX file is ONNX Runtime: its answer is compared."""
    import onnxruntime  # type: ignore[import-untyped]
    from skl2onnx import to_onnx  # type: ignore[import-untyped]

    table = trained.data.trained
    if isinstance(table, pd.DataFrame):
        raise NotSaved("people convert models of arrays")
    try:
        options = {"zipmap": False} if hasattr(trained.model, "predict_proba") else None
        data = to_onnx(trained.model, table[:1].astype(np.float32), options=options).SerializeToString()
        session = onnxruntime.InferenceSession(data)
    except Exception as error:
        raise NotSaved(f"skl2onnx does not convert it ({type(error).__name__})") from None
    path.write_bytes(data)
    entry = session.get_inputs()[0].name

    def answer(rows: Any, output: str) -> Array:
        answered = session.run([output], {entry: rows.astype(np.float32)})[0]
        if isinstance(answered, list):  # of dictionaries, by class
            return np.array([list(row.values()) for row in answered])
        return np.asarray(answered)

    return Saved(path, answer)


def _xgboost_file(trained: Trained, path: Path) -> Saved:
    import xgboost

    if not trained.native:
        raise NotSaved("the file holds only the booster, not the steps before it")
    trained.model.save_model(path)
    if trained.row.rounds:
        loaded: Any = xgboost.Booster(model_file=path)
    else:  # as people load it; the file does not hold the parameters of the wrapper
        loaded = type(trained.model)(n_jobs=1, enable_categorical=True)
        loaded.load_model(path)
    again = replace(trained, model=loaded)
    return Saved(path, lambda rows, output: of_model(again, rows, output), again)


def _lightgbm_file(trained: Trained, path: Path) -> Saved:
    import lightgbm

    if not trained.native:
        raise NotSaved("the file holds only the booster, not the steps before it")
    model = trained.model
    (model if trained.row.rounds else model.booster_).save_model(path)
    booster = lightgbm.Booster(model_file=path)

    def answer(rows: Any, output: str) -> Array:
        return _of_booster(booster, rows, output)

    return Saved(path, answer)
