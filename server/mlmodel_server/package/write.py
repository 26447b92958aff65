"""``package.save``: turn a model and some labelled rows into a directory with all that a server needs to test it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from mlmodel_server import manifest
from mlmodel_server.compile import compilable, compile_in_child
from mlmodel_server.engine.model import Model
from mlmodel_server.engine.selftest import SEVERAL_ROWS
from mlmodel_server.errors import MLModelError, ModelFailure, RefusedModel, UsageError
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA, Opened, Table, layout_of
from mlmodel_server.formats.table import FORMATS
from mlmodel_server.formats.torch_common import TorchFunctions
from mlmodel_server.loading.load import placed
from mlmodel_server.loading.trust import open_model
from mlmodel_server.manifest import COMPILED, MANIFEST, Compiled, File, Golden, Manifest, Signature
from mlmodel_server.package import documents
from mlmodel_server.package.artefact import Dumped, FormatChoice, dump
from mlmodel_server.package.outputs import Wanted, answers, of_estimator, wanted
from mlmodel_server.package.profile import predictions, profile
from mlmodel_server.package.scores import scores
from mlmodel_server.package.table import category_columns, missing, specs_of, tensors_as_given, tensors_for, tensors_of
from mlmodel_server.protocol.v2 import tensor_json
from mlmodel_server.tensors import Array, InferRequest, Tensor, TensorSpec, datatype_of

GOLDEN_ROWS = 12
GOLDEN_WIDTH = 1000
"""Maximum numbers per row of an output in the golden examples."""

COMPARED_ROWS = 5000
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
    compile: bool = True,
    method: str = "",
    outputs: Sequence[str] | None = None,
) -> Path:
    """Write the package of ``model`` into the directory ``path`` and return it.

    ``model`` is a fitted estimator of scikit-learn, XGBoost or LightGBM, a booster, an ONNX, PyTorch or Keras model, or
    a file or SavedModel directory (its path, or the bytes of the file). A fitted search (``GridSearchCV``) is saved as
    its best estimator.

    ``X`` (a DataFrame or array, [rows, columns]; for a model of tensors an array, or one for each input, in a list or
    by name) and ``y`` ([rows], or None) should be held-out rows. From them come the metrics, the golden examples (12
    rows and the model's predictions) and the reference profile. ``format`` and ``compress`` apply to scikit-learn;
    other models are saved in their own format. ``compile`` adds the model compiled to ONNX if that is faster and gives
    the same predictions, so that a server starts and responds sooner. The same arguments give the same bytes.

    For a pipeline that begins with a vectorizer, ``X`` is a list, an array or a Series of texts, or a list of
    dictionaries. ``method`` is the method of scikit-learn whose answer a request gets that names no output; "" is
    ``predict``, or the one that the estimator has instead. ``outputs`` are the methods whose answers a request may name
    besides ``predict`` and ``predict_proba``: None is all that the estimator has, as long as the server does not serve
    the compiled model alone.

    Raise :class:`UsageError` with one sentence that says what to change.
    """
    directory = Path(path)
    files = build(
        model, X, y, format=format, compress=compress, version=version, compile=compile, method=method, outputs=outputs
    )
    directory.mkdir(parents=True, exist_ok=True)
    for stale in _written_before(directory) - set(files):
        (directory / stale).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == MANIFEST):  # the manifest last, after the files that it lists
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}")
        partial.write_bytes(files[name])
        partial.replace(target)
    return directory


def _written_before(directory: Path) -> set[str]:
    """Return the files of the package that is already in ``directory``, if any."""
    try:
        return set(manifest.parse((directory / MANIFEST).read_bytes()).files)
    except (OSError, MLModelError):
        return set()


def build(
    model: Any,
    X: Any,
    y: Any,
    *,
    format: FormatChoice = "auto",
    compress: int = 3,
    version: str = "",
    compile: bool = True,
    method: str = "",
    outputs: Sequence[str] | None = None,
) -> dict[str, bytes]:
    """Return the files of a package by name, as :func:`save` writes them."""
    if format not in ("auto", "skops", "joblib"):
        raise UsageError(f"format is {format!r}: use 'auto', 'skops' or 'joblib'")
    if compress not in range(10):
        raise UsageError(f"compress is {compress!r}: use 0 (none) to 9 (smallest)")
    model = getattr(model, "best_estimator_", model)
    dumped = dump(model, X, format, compress)
    try:
        opened = open_model(dumped.artefact, dumped.format, strict=not dumped.trusted)
    except RefusedModel as error:
        raise UsageError(str(error)) from error
    columns: tuple[str, ...] = ()
    if opened.categories:
        columns = category_columns(opened.categories, X)
        opened = placed(opened.categories, columns)
    signature, tensors = _inputs(opened, X)
    labels = None if y is None else np.asarray(y)
    rows = len(tensors[0].array)
    if labels is not None and len(labels) != rows:
        raise UsageError(f"X has {rows} rows, but y has {len(labels)}: pass one label for each row")

    chosen = _chosen(opened, method, outputs)
    before = _predictions_before(dumped, model, X, chosen)
    arrays = _compared(before, _outputs(opened, signature, tensors, chosen), chosen)
    signature = _with_outputs(signature, tensors, arrays, chosen)
    predicted = next(iter(arrays.values()))
    served = Model(opened.functions, signature)
    compiled, compiled_files = _compiled(opened, signature, served.table(tensors)) if compile else (None, {})
    if compiled and outputs:  # the server needs the artefact for them
        compiled = msgspec.structs.replace(compiled, decisive=False)
    files = {**dumped.files, **compiled_files}
    content = Manifest(
        schema=manifest.SCHEMA,
        artefact=dumped.name,
        files={name: File(manifest.sha256(data), len(data)) for name, data in files.items()},
        signature=signature,
        golden=_golden(served, tensors, predicted),
        task=opened.task,
        version=version,
        libraries=_libraries(dumped),
        metrics={} if labels is None or (chosen and PREDICT not in arrays) else _scores(opened.task, labels, predicted),
        profile=profile([tensor for tensor in tensors if tensor.array.ndim <= 2]),
        predictions=predictions(opened.task, predicted) if PREDICT in arrays or not chosen else {},
        compiled=compiled,
        categories=columns,
    )
    return {**files, MANIFEST: content.to_bytes()}


def _compiled(opened: Opened, signature: Signature, table: Table) -> tuple[Compiled | None, dict[str, bytes]]:
    """Return the result of compiling the model, and the file if the compiled model is faster and the same."""
    source = opened.estimator if opened.booster is None else opened.booster
    if source is None or not isinstance(table, np.ndarray) or compilable(signature) is None:
        return None, {}
    verdict, onnx = compile_in_child(source, signature, table[:COMPARED_ROWS], functions=opened.functions)
    if onnx is None:
        return Compiled(reason=verdict.reason), {}
    # A server opens the artefact of a model that explains predictions anyway: it can time both.
    decisive = verdict.decisive and opened.explain is None
    return Compiled(COMPILED, verdict.reason, verdict.rows, decisive), {COMPILED: onnx}


def _inputs(opened: Opened, X: Any) -> tuple[Signature, list[Tensor]]:
    """Return the signature of the inputs, with the outputs that the artefact declares, and ``X`` as these inputs."""
    if opened.rows != "table":
        assert opened.signature is not None
        return opened.signature, documents.tensors_of(opened.rows, opened.signature, X)
    if opened.estimator is not None:  # X has the names and types of the columns
        layout: Literal["columns", "matrix", "tensors"]
        layout, tensors = tensors_of(X)
        return Signature(layout, specs_of(tensors), (), opened.signature.classes if opened.signature else ()), tensors
    if opened.signature is not None:
        return opened.signature, tensors_for(opened.signature, X)
    tensors = tensors_as_given(X)
    inputs = specs_of(tensors)
    return Signature(layout_of(inputs), inputs, ()), tensors


def _chosen(opened: Opened, method: str, outputs: Sequence[str] | None) -> Wanted | None:
    """Return the methods of scikit-learn that the package has as outputs; None for other models, which have fixed
    outputs."""
    if opened.estimator is not None:
        return wanted(opened.estimator, method, outputs)
    if method not in ("", PREDICT) or outputs:
        raise UsageError("method and outputs choose among the methods of a scikit-learn estimator: leave them out")
    return None


def _predictions_before(dumped: Dumped, model: Any, X: Any, chosen: Wanted | None) -> dict[str, Array]:
    """Return the predictions of the model before it was saved; empty if they cannot be compared."""
    library, _, module = type(model).__module__.partition(".")
    estimator = dumped.estimator
    if estimator is None and library in ("xgboost", "lightgbm"):  # a wrapper saved as its booster, or a booster
        estimator = model
    if estimator is None:
        return {}
    try:
        if (library, module) == ("xgboost", "core"):
            matrix = sys.modules["xgboost"].DMatrix(X, enable_categorical=True)
            return {PREDICT: np.asarray(model.predict(matrix, validate_features=hasattr(X, "columns")))}
        if chosen:
            return answers(of_estimator(estimator), X, chosen)
        methods = {name: getattr(estimator, name)(X) for name in (PREDICT, PREDICT_PROBA) if hasattr(estimator, name)}
    except Exception as error:  # anything an estimator may raise
        raise _cannot_predict(error) from error
    # Probabilities of several targets are a list.
    return {name: np.asarray(array) for name, array in methods.items() if not isinstance(array, list)}


def _compared(before: dict[str, Array], after: dict[str, Array], chosen: Wanted | None) -> dict[str, Array]:
    """Return the outputs that the server would answer as the model itself does; raise :class:`UsageError` if it would
    not for one that the package must have."""
    found = {}
    for name, array in after.items():
        if name not in before or _same(before[name], array):
            found[name] = array
        elif chosen is None or chosen.must_have(name, list(after)):
            raise UsageError(
                f"the server would return another {name} for X than the model itself does, and so rejects the "
                "model: save a model that was fitted on columns of numbers, texts or categories"
            )
    return found


def _cannot_predict(error: Exception) -> UsageError:
    return UsageError(
        f"the model cannot predict X ({type(error).__name__}: {error}): pass rows like those that it was fitted on"
    )


def _outputs(opened: Opened, signature: Signature, tensors: list[Tensor], chosen: Wanted | None) -> dict[str, Array]:
    """Return the outputs of the model for ``tensors``, ``predict`` first if it exists; of outputs that are neither
    ``predict`` nor probabilities only some rows."""
    try:
        table = Model(opened.functions, signature).table(tensors)
    except MLModelError as error:
        raise UsageError(f"X is not a valid request ({error})") from None
    try:
        if chosen:
            arrays = answers(opened.functions, table, chosen)  # type: ignore[arg-type]
        elif isinstance(opened.functions, TorchFunctions):
            arrays = opened.functions.all_outputs(table)
        else:
            names = [spec.name for spec in opened.signature.outputs] if opened.signature else [PREDICT]
            arrays = dict(zip(names, opened.functions(table, names), strict=True))
    except Exception as error:  # anything a model may raise
        raise _cannot_predict(error) from error
    return {name: arrays[name] for name in sorted(arrays, key=lambda name: name != PREDICT)}


def _with_outputs(
    signature: Signature, tensors: list[Tensor], arrays: dict[str, Array], chosen: Wanted | None
) -> Signature:
    """Return the signature with the outputs, whose first dimension is any length if it is that of the inputs."""
    rows = len(tensors[0].array) if all(spec.shape[:1] == (-1,) for spec in signature.inputs) else -1
    outputs = tuple(
        TensorSpec(
            name,
            datatype_of(array.dtype),
            (-1, *array.shape[1:]) if chosen or array.shape[:1] == (rows,) else array.shape,
        )
        for name, array in arrays.items()
    )
    default = chosen.default(list(arrays)) if chosen else ()
    return Signature(signature.layout, signature.inputs, outputs, signature.classes, default)


def _scores(task: str, labels: Array, predicted: Array) -> dict[str, Any]:
    try:
        return scores(task, labels, predicted)
    except (TypeError, ValueError) as error:  # text against numbers, missing labels
        raise UsageError(f"y does not fit the model's predictions ({error}): pass labels of the same type") from error


def _same(before: Array, after: Array) -> bool:
    if before.dtype.kind == "f":
        return before.shape == after.shape and bool(np.allclose(before, after, rtol=1e-6, equal_nan=True))
    return np.array_equal(before, after)


def _golden(model: Model, tensors: list[Tensor], predicted: Array) -> Golden:
    """Return examples without missing values, spread evenly over the predictions so that they include every class. If
    ``tensors`` have no rows, return all of them."""
    examples = tensors
    if model.batchable:
        complete = ~np.logical_or.reduce([missing(t.array).reshape(len(t.array), -1).any(axis=1) for t in tensors])
        keys = predicted.reshape(len(predicted), -1)[:, 0]
        order = np.argsort(keys.astype(str) if keys.dtype == object else keys, kind="stable")
        candidates = order[complete[order]]
        if not len(candidates):
            raise UsageError("every row of X has a missing value, which JSON cannot contain: pass some complete rows")
        spread = np.linspace(0, len(candidates) - 1, min(GOLDEN_ROWS, len(candidates))).round().astype(int)
        examples = [Tensor(t.name, t.datatype, t.array[candidates[spread]]) for t in tensors]
    names = [spec.name for spec in model.signature.outputs if prod(spec.shape[1:]) <= GOLDEN_WIDTH]
    try:
        response = model.infer(InferRequest(None, examples, names))
        outputs = tuple(tensor_json(tensor) for tensor in response.outputs if tensor.name in names)
    except ModelFailure as error:
        raise UsageError(f"{error}: pass rows like those that it was fitted on") from error
    except MLModelError as error:
        raise UsageError(f"X is not a valid request ({error})") from error
    if model.batchable:
        try:
            model.infer(InferRequest(None, [Tensor(t.name, t.datatype, t.array[:1]) for t in examples], names))
        except ModelFailure as error:
            raise UsageError(f"{SEVERAL_ROWS} ({error})") from error
    return Golden(tuple(tensor_json(tensor) for tensor in examples), outputs)


def _libraries(dumped: Dumped) -> dict[str, str]:
    """Return the versions of the libraries that the model was made with."""
    own = FORMATS[dumped.format].distributions
    versions = {"python": platform.python_version()}
    for library in dict.fromkeys((*own, *(LIBRARIES if dumped.estimator is not None else ("numpy",)))):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
