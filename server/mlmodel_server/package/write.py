"""``package.save``: a fitted model and some labelled rows become a directory that the server can check by itself."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from .. import manifest
from ..engine.model import Model
from ..engine.prepare import prepare
from ..errors import MLModelError, ModelFailure, UsageError
from ..formats.sklearn import EstimatorFunctions, classes_of, outputs_of
from ..loading.trust import open_artefact
from ..manifest import MANIFEST, File, Golden, Manifest, Signature
from ..protocol.tensors import Array, InferRequest, Tensor
from ..protocol.v2 import tensor_json
from .artefact import FormatChoice, dump
from .profile import predictions, profile
from .scores import scores, task_of
from .table import missing, specs_of, tensors_of

GOLDEN_ROWS = 12
LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib", "skops")


def save(
    model: Any,
    X: Any,
    y: Any,
    path: str | os.PathLike[str],
    *,
    format: FormatChoice = "auto",
    compress: int = 3,
    version: str = "",
) -> Path:
    """Write the package of ``model`` into the directory ``path`` and return it.

    ``X`` (a DataFrame or array, [rows, columns]) and ``y`` ([rows], or None) should be held-out rows: metrics are
    computed on them, the golden examples (12 rows and the model's answers) are taken from them and the reference
    profile describes them. A fitted search (``GridSearchCV``) is saved as its best estimator. The same arguments give
    the same bytes. Raises :class:`UsageError` with one sentence that says what to change.
    """
    directory = Path(path)
    files = build(model, X, y, format=format, compress=compress, version=version)
    directory.mkdir(parents=True, exist_ok=True)
    for stale in ("model.skops", "model.joblib"):
        if stale not in files:
            (directory / stale).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == MANIFEST):  # last: who sees it finds the files it lists
        (directory / f".{name}").write_bytes(files[name])
        (directory / f".{name}").replace(directory / name)
    return directory


def build(
    model: Any, X: Any, y: Any, *, format: FormatChoice = "auto", compress: int = 3, version: str = ""
) -> dict[str, bytes]:
    """The files of a package by name, as :func:`save` writes them."""
    if format not in ("auto", "skops", "joblib"):
        raise UsageError(f"format is {format!r}: use 'auto', 'skops' or 'joblib'")
    if compress not in range(10):
        raise UsageError(f"compress is {compress!r}: use 0 (none) to 9 (smallest)")
    model = getattr(model, "best_estimator_", model)
    if not hasattr(model, "predict") or not hasattr(model, "n_features_in_"):
        raise UsageError("model is not a fitted scikit-learn estimator that predicts rows of a table: call fit first")
    layout, tensors = tensors_of(X)
    labels = None if y is None else np.asarray(y)
    if labels is not None and len(labels) != len(tensors[0].array):
        raise UsageError(f"X has {len(tensors[0].array)} rows, but y has {len(labels)}: hand in one label for each row")

    predicted = _predict(model, X)
    kind, artefact = dump(model, format, compress)
    served = prepare(open_artefact(artefact, f"model.{kind}"))
    signature = Signature(layout, specs_of(tensors), (), classes_of(served))
    functions = EstimatorFunctions(served)
    table = np.asarray(Model(functions, signature).table(tensors))
    if not _same(predicted, _predict(served, table)):
        raise UsageError("the model answers differently on plain arrays than on X: fit it on X.to_numpy()")
    signature = Signature(layout, signature.inputs, outputs_of(served, table), signature.classes)
    task = task_of(model)
    name = f"model.{kind}"
    content = Manifest(
        schema=manifest.SCHEMA,
        artefact=name,
        files={name: File(manifest.sha256(artefact), len(artefact))},
        signature=signature,
        golden=_golden(Model(functions, signature), tensors, predicted),
        task=task,  # type: ignore[arg-type]
        version=version,
        libraries=_libraries(),
        metrics={} if labels is None else _scores(task, labels, predicted),
        profile=profile(tensors),
        predictions=predictions(task, predicted),
    )
    return {name: artefact, MANIFEST: content.to_bytes()}


def _predict(model: Any, X: Any) -> Array:
    try:
        return np.asarray(model.predict(X))
    except Exception as error:  # anything an estimator may raise
        raise UsageError(
            f"the model cannot predict X ({type(error).__name__}: {error}): hand in rows like those it was fitted on"
        ) from error


def _scores(task: str, labels: Array, predicted: Array) -> dict[str, Any]:
    try:
        return scores(task, labels, predicted)
    except (TypeError, ValueError) as error:  # text against numbers, missing labels
        raise UsageError(f"y does not fit what the model answers ({error}): hand in labels of the same kind") from error


def _same(before: Array, after: Array) -> bool:
    if before.dtype.kind == "f":
        return before.shape == after.shape and bool(np.allclose(before, after, rtol=1e-6, equal_nan=True))
    return np.array_equal(before, after)


def _golden(model: Model, tensors: list[Tensor], predicted: Array) -> Golden:
    """Rows without missing values, spread evenly over what the model answers, so that every class is among them."""
    complete = ~np.logical_or.reduce([missing(t.array).reshape(len(t.array), -1).any(axis=1) for t in tensors])
    keys = predicted.reshape(len(predicted), -1)[:, 0]
    order = np.argsort(keys.astype(str) if keys.dtype == object else keys, kind="stable")
    candidates = order[complete[order]]
    if not len(candidates):
        raise UsageError("every row of X has a missing value, which JSON cannot carry: hand in some complete rows")
    rows = candidates[np.linspace(0, len(candidates) - 1, min(GOLDEN_ROWS, len(candidates))).round().astype(int)]
    examples = [Tensor(t.name, t.datatype, t.array[rows]) for t in tensors]
    wanted = [spec.name for spec in model.signature.outputs]
    try:
        response = model.infer(InferRequest(None, examples, wanted))
        outputs = tuple(tensor_json(tensor) for tensor in response.outputs)
    except ModelFailure as error:
        raise UsageError(f"{error}: hand in rows like those it was fitted on") from error
    except MLModelError as error:
        raise UsageError(f"X does not make a valid request ({error})") from error
    return Golden(tuple(tensor_json(tensor) for tensor in examples), outputs)


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
