"""``package.save``: turn a model and some labelled rows into a directory with all that a server needs to test it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from mlmodel_server import manifest
from mlmodel_server.compile import compile_in_child
from mlmodel_server.engine.model import Model
from mlmodel_server.engine.selftest import SEVERAL_ROWS
from mlmodel_server.errors import MLModelError, ModelFailure, RefusedModel, UsageError
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA, Opened, Table, layout_of
from mlmodel_server.formats.table import FORMATS
from mlmodel_server.formats.torch_common import TorchFunctions
from mlmodel_server.loading import own_code
from mlmodel_server.loading.load import placed
from mlmodel_server.loading.trust import open_model
from mlmodel_server.manifest import COMPILED, MANIFEST, Compiled, File, Golden, Manifest, Signature
from mlmodel_server.package import fresh
from mlmodel_server.package.artefact import Dumped, FormatChoice, dump
from mlmodel_server.package.profile import predictions, profile
from mlmodel_server.package.scores import scores
from mlmodel_server.package.table import category_columns, missing, specs_of, tensors_as_given, tensors_for, tensors_of
from mlmodel_server.protocol.v2 import tensor_json
from mlmodel_server.tensors import Array, InferRequest, Tensor, TensorSpec, datatype_of
from mlmodel_server.texts import one_line

GOLDEN_ROWS = 12
COMPARED_ROWS = 5000
Code = ModuleType | str | os.PathLike[str]
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
    code: Sequence[Code] = (),
) -> Path:
    """Write the package of ``model`` into the directory ``path`` and return it.

    ``model`` is a fitted estimator of scikit-learn, XGBoost or LightGBM, a booster, an ONNX, PyTorch or Keras model, or
    a file or SavedModel directory (its path, or the bytes of the file). A fitted search (``GridSearchCV``) is saved as
    its best estimator.

    ``X`` (a DataFrame or array, [rows, columns]; for a model of tensors an array, or one for each input, in a list or
    by name) and ``y`` ([rows], or None) should be held-out rows. From them come the metrics, the golden examples (12
    rows and the model's predictions) and the reference profile. ``format`` and ``compress`` apply to scikit-learn;
    other models are saved in their own format. ``compile`` adds the model compiled to ONNX if that is faster and gives
    the same predictions, so that a server starts and responds sooner. ``code`` are the modules of your own classes and
    functions that the model uses: module objects, or paths of a ``.py`` file or of a package directory. The package
    then contains their source, so a server opens it only when it is signed; it is not compiled. The same arguments give
    the same bytes.

    Raise :class:`UsageError` with one sentence that says what to change.
    """
    directory = Path(path)
    files = build(model, X, y, format=format, compress=compress, version=version, compile=compile, code=code)
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
    code: Sequence[Code] = (),
) -> dict[str, bytes]:
    """Return the files of a package by name, as :func:`save` writes them."""
    if format not in ("auto", "skops", "joblib"):
        raise UsageError(f"format is {format!r}: use 'auto', 'skops' or 'joblib'")
    if compress not in range(10):
        raise UsageError(f"compress is {compress!r}: use 0 (none) to 9 (smallest)")
    model = getattr(model, "best_estimator_", model)
    try:
        sources = own_code.sources(code)
        dumped = dump(model, X, format, compress, sources)
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

    before = _predictions_before(dumped, model, X)
    signature, outputs = _outputs(opened, signature, tensors)
    predicted = outputs[0]
    for spec, after in zip(signature.outputs, outputs, strict=True):
        if spec.name in before and not _same(before[spec.name], after):
            raise UsageError(
                f"the server would return another {spec.name} for X than the model itself does, and so rejects the "
                "model: save a model that was fitted on columns of numbers, texts or categories"
            )
    served = Model(opened.functions, signature)
    compiled, compiled_files = _compiled(opened, signature, served, tensors, compile and not sources)
    if sources:  # what its modules compute would be known only for the rows that are compared
        compiled = Compiled(reason="it has Python code")
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
        metrics={} if labels is None else _scores(opened.task, labels, predicted),
        profile=profile([tensor for tensor in tensors if tensor.array.ndim <= 2]),
        predictions=predictions(opened.task, predicted),
        compiled=compiled,
        categories=columns,
    )
    files[MANIFEST] = content.to_bytes()
    if sources:
        fresh.check(files)
    return files


def _compiled(
    opened: Opened, signature: Signature, served: Model, tensors: list[Tensor], wanted: bool
) -> tuple[Compiled | None, dict[str, bytes]]:
    """Return the result of compiling the model if it is wanted, and the file if the compiled model is faster and the
    same."""
    source = opened.estimator if opened.booster is None else opened.booster
    table: Table = served.table(tensors) if wanted else {}
    if source is None or not isinstance(table, np.ndarray):
        return None, {}
    verdict, onnx = compile_in_child(source, signature, table[:COMPARED_ROWS], functions=opened.functions)
    if onnx is None:
        return Compiled(reason=verdict.reason), {}
    # A server opens the artefact of a model that explains predictions anyway: it can time both.
    decisive = verdict.decisive and opened.explain is None
    return Compiled(COMPILED, verdict.reason, verdict.rows, decisive), {COMPILED: onnx}


def _inputs(opened: Opened, X: Any) -> tuple[Signature, list[Tensor]]:
    """Return the signature of the inputs, with the outputs that the artefact declares, and ``X`` as these inputs."""
    if opened.estimator is not None:  # X has the names and types of the columns
        layout: Literal["columns", "matrix", "tensors"]
        layout, tensors = tensors_of(X)
        return Signature(layout, specs_of(tensors), (), opened.signature.classes if opened.signature else ()), tensors
    if opened.signature is not None:
        return opened.signature, tensors_for(opened.signature, X)
    tensors = tensors_as_given(X)
    inputs = specs_of(tensors)
    return Signature(layout_of(inputs), inputs, ()), tensors


def _predictions_before(dumped: Dumped, model: Any, X: Any) -> dict[str, Array]:
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
        methods = {name: getattr(estimator, name)(X) for name in (PREDICT, PREDICT_PROBA) if hasattr(estimator, name)}
    except Exception as error:  # anything an estimator may raise
        raise _cannot_predict(error) from error
    # Probabilities of several targets are a list.
    return {name: np.asarray(array) for name, array in methods.items() if not isinstance(array, list)}


def _cannot_predict(error: Exception) -> UsageError:
    return UsageError(
        f"the model cannot predict X ({type(error).__name__}: {one_line(str(error), 300)}): pass rows like those that "
        "it was fitted on"
    )


def _outputs(opened: Opened, signature: Signature, tensors: list[Tensor]) -> tuple[Signature, list[Array]]:
    """Return the outputs of the model for ``tensors``, ``predict`` first if it exists, and the signature with them."""
    try:
        table = Model(opened.functions, signature).table(tensors)
    except MLModelError as error:
        raise UsageError(f"X is not a valid request ({error})") from None
    try:
        if isinstance(opened.functions, TorchFunctions):
            arrays = opened.functions.all_outputs(table)
        else:
            names = [spec.name for spec in opened.signature.outputs] if opened.signature else [PREDICT]
            arrays = dict(zip(names, opened.functions(table, names), strict=True))
    except Exception as error:  # anything a model may raise
        raise _cannot_predict(error) from error
    arrays = {name: arrays[name] for name in sorted(arrays, key=lambda name: name != PREDICT)}
    rows = len(tensors[0].array) if all(spec.shape[:1] == (-1,) for spec in signature.inputs) else -1
    outputs = tuple(
        TensorSpec(
            name, datatype_of(array.dtype), (-1, *array.shape[1:]) if array.shape[:1] == (rows,) else array.shape
        )
        for name, array in arrays.items()
    )
    return Signature(signature.layout, signature.inputs, outputs, signature.classes), list(arrays.values())


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
    names = [spec.name for spec in model.signature.outputs]
    try:
        response = model.infer(InferRequest(None, examples, names))
        outputs = tuple(tensor_json(tensor) for tensor in response.outputs)
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
