"""``package.save``: turn a model and some labelled rows into a directory with all that a server needs to test it."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np

from mlmodel_server import manifest
from mlmodel_server.compile import compilable, compile_in_child, how_to_get
from mlmodel_server.engine.model import Model
from mlmodel_server.engine.selftest import SEVERAL_ROWS, TOLERANCE
from mlmodel_server.errors import MLModelError, ModelFailure, RefusedModel, UsageError
from mlmodel_server.formats import learnt
from mlmodel_server.formats.methods import methods_behind, outputs_of_method
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA, Opened, Table, layout_of
from mlmodel_server.formats.table import FORMATS
from mlmodel_server.formats.torch_common import TorchFunctions
from mlmodel_server.loading import own_code
from mlmodel_server.loading.load import placed
from mlmodel_server.loading.trust import open_model
from mlmodel_server.manifest import COMPILED, MANIFEST, Compiled, File, Golden, Manifest, Signature
from mlmodel_server.package import arguments, documents, fresh
from mlmodel_server.package.arguments import Code
from mlmodel_server.package.artefact import Dumped, FormatChoice, dump
from mlmodel_server.package.outputs import Wanted, answers, not_served, of_estimator, wanted
from mlmodel_server.package.profile import predictions, profile
from mlmodel_server.package.scores import scores
from mlmodel_server.package.table import (
    category_columns,
    check_rows,
    described,
    has_single,
    missing,
    specs_of,
    tensors_as_given,
    tensors_for,
    tensors_of,
)
from mlmodel_server.package.ways import Way, ways_of, with_missing
from mlmodel_server.protocol.v2 import tensor_json
from mlmodel_server.tensors import Array, InferRequest, Tensor, TensorSpec, datatype_of, elements, is_missing
from mlmodel_server.texts import one_line

GOLDEN_ROWS = 12
GOLDEN_MISSING = 4
"""How many of these have a missing value, if some rows of X do."""

COMPARED_ROWS = 5000

_DOUBLE = 1e-11
"""Relative; what sums in another order change in double precision. In single precision they change 1e-7."""

LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib", "skops")


def save(
    model: Any,
    X: Any = None,
    y: Any = None,
    path: str | os.PathLike[str] | None = None,
    *,
    format: FormatChoice = "auto",
    compress: int = 3,
    version: str = "",
    compile: bool = True,
    method: str = "",
    outputs: str | Sequence[str] | None = None,
    extra_columns: Literal["refuse", "ignore"] = "refuse",
    code: Code | Sequence[Code] | None = (),
) -> Path:
    """Write the package of ``model`` into the directory ``path`` and return it.

    ``model`` is a fitted estimator of scikit-learn, XGBoost or LightGBM, a booster, an ONNX, PyTorch or Keras model, or
    a file or SavedModel directory (its path, or the bytes of the file). A fitted search (``GridSearchCV``) is saved as
    its best estimator.

    ``X`` (a DataFrame or array, [rows, columns]; for a model of tensors an array, or one for each input, in a list or
    by name) and ``y`` ([rows], or None) should be held-out rows. From them come the metrics, the golden examples (12
    rows and the model's predictions) and the reference profile. ``format`` and ``compress`` apply to scikit-learn;
    other models are saved in their own format. ``compile`` adds the model compiled to ONNX if that is faster and gives
    the same predictions, so that a server starts and responds sooner. ``extra_columns`` says what a server does with a
    column that the model does not have: it rejects the request, or ignores the column. The same arguments give the same
    bytes.

    A model that was fitted on a DataFrame gets a DataFrame with these dtypes, unless it answers the same on an array.

    For a pipeline that begins with a vectorizer, ``X`` is a list, an array or a Series of texts, or a list of
    dictionaries. ``method`` is the method of scikit-learn whose answer a request gets that names no output; "" is
    ``predict``, or the one that the estimator has instead. ``outputs`` are the methods whose answers a request may name
    besides ``predict`` and ``predict_proba``: None is all that the estimator has, as long as the server does not serve
    the compiled model alone.

    ``code`` are the modules of your own classes and functions that the model uses: module objects, or paths of a
    ``.py`` file or of a package directory. The package then contains their source, so a server opens it only when it is
    signed. They are not compiled; of a model that gets a DataFrame the rest is.

    Raise :class:`UsageError` with one sentence that says what to change.
    """
    directory = arguments.directory(path)
    files = build(
        model,
        X,
        y,
        format=format,
        compress=compress,
        version=version,
        compile=compile,
        method=method,
        outputs=outputs,
        extra_columns=extra_columns,
        code=code,
    )
    try:
        _write(files, directory)
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written ({error.strerror}): give a directory that you may write to"
        ) from None
    described = manifest.parse(files[MANIFEST])
    if described.task == "other" and (absent := not_served(described)):  # an outlier detector without its scores
        warnings.warn(f"a server answers only predict, from the compiled model: {how_to_get(absent)}", stacklevel=2)
    return directory


class LeftOut(UserWarning):
    """An output that the model has and its package does not, with the reason."""


def _write(files: dict[str, bytes], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for stale in _written_before(directory) - set(files):
        (directory / stale).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == MANIFEST):  # the manifest last, after the files that it lists
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}")
        partial.write_bytes(files[name])
        partial.replace(target)


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
    outputs: str | Sequence[str] | None = None,
    extra_columns: Literal["refuse", "ignore"] = "refuse",
    code: Code | Sequence[Code] | None = (),
) -> dict[str, bytes]:
    """Return the files of a package by name, as :func:`save` writes them."""
    arguments.check(
        model,
        X,
        y,
        version,
        format=(format, get_args(FormatChoice)),
        compress=(compress, range(10)),
        extra_columns=(extra_columns, ("refuse", "ignore")),
    )
    method, outputs, modules = arguments.choices(method, outputs, code)
    model = getattr(model, "best_estimator_", model)
    try:
        sources = own_code.sources(modules)
        dumped = dump(model, X, format, compress, sources)
    except RefusedModel as error:
        raise UsageError(str(error)) from error
    if hasattr(dumped.estimator, "X_thresholds_") and np.ndim(X) == 1:  # an isotonic regression, fitted on one column
        X = X.to_frame() if hasattr(X, "to_frame") else np.reshape(X, (-1, 1))
    check_rows(dumped.estimator, X)
    opened, signature, tensors, arrays, columns, chosen = _as_the_library(dumped, model, X, method, outputs)
    signature = msgspec.structs.replace(
        signature,
        inputs=with_missing(opened.functions, signature, tensors),
        ignores_others=extra_columns == "ignore" and signature.layout == "columns",
    )
    predicted = next(iter(arrays.values()))
    labels = None if y is None else arguments.labels(y, len(tensors[0].array), predicted)
    served = Model(opened.functions, signature, single=opened.single)
    golden, unsteady = _golden(served, tensors, arrays, chosen)
    if unsteady:
        for reason in unsteady.values():
            warnings.warn(f"left out of the package: {reason}", LeftOut, stacklevel=3)
        kept = tuple(spec for spec in signature.outputs if spec.name not in unsteady)
        signature = msgspec.structs.replace(signature, outputs=kept)
        arrays = {name: array for name, array in arrays.items() if name not in unsteady}
    compiled: Compiled | None = None
    compiled_files: dict[str, bytes] = {}
    if sources and not signature.frame:  # what it computes would be known only for the rows that are compared
        compiled = Compiled(reason="it has Python code")
    elif compile:
        compiled, compiled_files = _compiled(opened, signature, served.table(tensors))
    if compiled and outputs:  # the server needs the artefact for them
        compiled = msgspec.structs.replace(compiled, decisive=False)
    files = {**dumped.files, **compiled_files}
    content = Manifest(
        schema=manifest.SCHEMA,
        artefact=dumped.name,
        files={name: File(manifest.sha256(data), len(data)) for name, data in files.items()},
        signature=signature,
        golden=golden,
        task=opened.task,
        version=version,
        libraries=_libraries(dumped),
        metrics={} if labels is None or (chosen and PREDICT not in arrays) else _scores(opened.task, labels, predicted),
        profile=profile(_profiled(signature, tensors)),
        predictions=predictions(opened.task, predicted) if PREDICT in arrays or not chosen else {},
        compiled=compiled,
        categories=columns,
    )
    files[MANIFEST] = content.to_bytes()
    if sources:
        fresh.check(files)
    else:
        _check_as_a_server(files, dumped)
    return files


class _Served(NamedTuple):
    """A model as a server opens it, ``tensors`` as its inputs, and its outputs for them by name. ``categories`` are the
    inputs with categories, if the artefact does not say which these are; ``chosen`` the methods behind the outputs."""

    opened: Opened
    signature: Signature
    tensors: list[Tensor]
    arrays: dict[str, Array]
    categories: tuple[str, ...]
    chosen: Wanted | None = None


def _as_the_library(dumped: Dumped, model: Any, X: Any, method: str, outputs: Sequence[str] | None) -> _Served:
    """Return the model in the first way in which it answers as the library does.

    Raise :class:`UsageError` if there is none.
    """
    before: dict[str, Array] | None = None
    reason = UsageError("")
    for way in ways_of(dumped.estimator, X):
        try:
            served = _opened(dumped, X, way)
            chosen = _chosen(served.opened, method, outputs)
            before = _predictions_before(dumped, model, X, chosen) if before is None else before
            arrays = _outputs(served.opened, served.signature, served.tensors, chosen)
            arrays = _compared(before, arrays, chosen, in_double=not way.frame and has_single(X))
            signature = _with_outputs(served.signature, served.tensors, arrays, chosen)
            return served._replace(signature=signature, arrays=arrays, chosen=chosen)
        except UsageError as error:
            reason = error
    raise reason


def _opened(dumped: Dumped, X: Any, way: Way) -> _Served:
    try:
        signature: Signature | None = None
        if way.frame:
            _, tensors = tensors_of(X)
            inputs = _with_none(described(specs_of(tensors), X), dumped.estimator)
            signature = Signature("columns", inputs, (), frame=True)
            unknown = [spec.name for spec in signature.inputs if spec.column is None]
            if unknown:
                raise UsageError(
                    f"column {unknown[0]!r} of X has the dtype {str(X.dtypes[unknown[0]])[:40]}, which a server cannot "
                    "make: convert it to numbers, text or dates of pandas, and fit again"
                )
        strict = not dumped.trusted
        frame = signature.inputs if signature else ()
        opened = open_model(dumped.artefact, dumped.format, strict=strict, frame=frame)
        columns: tuple[str, ...] = ()
        if opened.categories:
            columns = category_columns(opened.categories, X)
            opened = placed(opened.categories, columns)
    except RefusedModel as error:
        raise UsageError(str(error)) from error
    if signature is not None and opened.signature is not None:
        return _Served(opened, msgspec.structs.replace(signature, classes=opened.signature.classes), tensors, {}, ())
    signature, tensors = _inputs(opened, X, way)
    return _Served(opened, signature, tensors, {}, columns)


def _with_none(inputs: tuple[TensorSpec, ...], estimator: Any) -> tuple[TensorSpec, ...]:
    """Return the inputs, of which a missing text is None where the model's encoders know None: X may have none."""
    _, none = learnt.columns(estimator, len(inputs))
    return tuple(
        msgspec.structs.replace(spec, column=msgspec.structs.replace(spec.column, none=True))
        if place in none and spec.column and spec.column.dtype == "object"
        else spec
        for place, spec in enumerate(inputs)
    )


def _check_as_a_server(files: dict[str, bytes], dumped: Dumped) -> None:
    """Raise :class:`UsageError` if a server would not open the package, or would fail its self-test."""
    try:
        fresh.open_as_a_server(files, trusted=dumped.trusted)
    except RefusedModel as error:
        raise UsageError(f"a server would reject the package ({error})") from None


def _profiled(signature: Signature, tensors: list[Tensor]) -> list[Tensor]:
    """Return the inputs whose distribution a server watches. Those of dates change every day."""
    are_dates = {spec.name for spec in signature.inputs if spec.column and spec.column.format}
    return [tensor for tensor in tensors if tensor.array.ndim <= 2 and tensor.name not in are_dates]


def _compiled(opened: Opened, signature: Signature, table: Table) -> tuple[Compiled | None, dict[str, bytes]]:
    """Return the result of compiling the model, and the file if the compiled model is faster and the same."""
    source = opened.estimator if opened.booster is None else opened.booster
    if source is None or not isinstance(table, np.ndarray) or compilable(signature) is None:
        return None, {}
    verdict, onnx = compile_in_child(source, signature, table[:COMPARED_ROWS], functions=opened.functions)
    if onnx is None:
        return Compiled(reason=verdict.reason), {}
    # A server opens the artefact of a model that explains predictions or gets a DataFrame anyway: it can time both.
    decisive = verdict.decisive and opened.explain is None and not signature.frame
    return Compiled(COMPILED, verdict.reason, verdict.rows, decisive), {COMPILED: onnx}


def _inputs(opened: Opened, X: Any, way: Way) -> tuple[Signature, list[Tensor]]:
    """Return the signature of the inputs, with the outputs that the artefact declares, and ``X`` as these inputs."""
    if opened.rows != "table":
        assert opened.signature is not None
        return opened.signature, documents.tensors_of(opened.rows, opened.signature, X, opened.estimator)
    if opened.estimator is not None:  # X has the names and types of the columns
        layout: Literal["columns", "matrix", "tensors"]
        layout, tensors = tensors_of(X, integers=way.integers)
        inputs = described(specs_of(tensors), X)
        return Signature(layout, inputs, (), opened.signature.classes if opened.signature else ()), tensors
    if opened.signature is not None:
        inputs = opened.signature.inputs
        if opened.signature.layout == "columns":
            inputs = described(inputs, X)
        return msgspec.structs.replace(opened.signature, inputs=inputs), tensors_for(opened.signature, X)
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
        raise _cannot_predict(error, _CATEGORIES if library in ("xgboost", "lightgbm") else "") from error
    # Probabilities of several targets are a list.
    return {name: np.asarray(array) for name, array in methods.items() if not isinstance(array, list)}


def _compared(
    before: dict[str, Array], after: dict[str, Array], chosen: Wanted | None, *, in_double: bool
) -> dict[str, Array]:
    """Return the outputs that the server would answer as the model itself does; raise :class:`UsageError` if it would
    not for one that the package must have.

    ``in_double``: the model got columns of single precision in double precision, so that any difference beyond double
    precision says that the library computes in single precision, also where this changes a label of other rows.
    """
    found = {}
    for name, array in after.items():
        if name not in before or (_is_as_double if in_double else _same)(before[name], array):
            found[name] = array
        elif in_double or chosen is None or chosen.must_have(name, list(after)):
            raise UsageError(
                f"the server would return another {name} for X than the model itself does, and so rejects the "
                "model: save a model that was fitted on columns of numbers, texts, categories or dates"
            )
    return found


_CATEGORIES = (
    ", with the dtype category where it was category in training (on the command line, --dtypes COLUMN=category)"
)


def _cannot_predict(error: Exception, hint: str = "") -> UsageError:
    return UsageError(
        f"the model cannot predict X ({type(error).__name__}: {one_line(str(error), 300)}): pass rows like those that "
        f"it was fitted on{hint}"
    )


def _outputs(opened: Opened, signature: Signature, tensors: list[Tensor], chosen: Wanted | None) -> dict[str, Array]:
    """Return the outputs of the model for ``tensors``, ``predict`` first if it exists; of outputs that are neither
    ``predict`` nor probabilities only some rows."""
    try:
        table = Model(opened.functions, signature, single=opened.single).table(tensors)
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
    return msgspec.structs.replace(signature, outputs=outputs, default=default)


def _scores(task: str, labels: Array, predicted: Array) -> dict[str, Any]:
    try:
        return scores(task, labels, predicted)
    except (TypeError, ValueError) as error:  # text against numbers, missing labels
        raise UsageError(
            f"y does not fit the model's predictions: it has {_kind(labels)}, and the model predicts "
            f"{_kind(predicted)}: pass labels of the same type, with none missing"
        ) from error


def _kind(values: Array) -> str:
    """Return what an array has: its type, and the columns if there are several."""
    kinds = {type(value).__name__ for value in values.ravel()[:COMPARED_ROWS].tolist()}
    name = "text" if kinds == {"str"} else "numbers" if kinds <= {"int", "float"} else " and ".join(sorted(kinds))
    return f"{name} in {values.shape[1]} columns" if values.ndim > 1 else name


def _is_as_double(before: Array, after: Array) -> bool:
    """Whether two outputs are equal except for what double precision rounds."""
    if before.dtype.kind == "f":
        return before.dtype == after.dtype and _is_close(before, after, _DOUBLE)
    return before.dtype == after.dtype and _same(before, after)


def _is_close(before: Array, after: Array, tolerance: float) -> bool:
    """Whether numbers are equal except for ``tolerance``, relative to each and to a thousandth of the greatest."""
    if before.shape != after.shape:
        return False
    greatest = float(np.abs(before[np.isfinite(before)]).max(initial=0.0))
    return bool(np.allclose(before, after, rtol=tolerance, atol=tolerance * greatest / 1e3, equal_nan=True))


def _same_bits(before: Array, after: Array) -> bool:
    return np.array_equal(before, after, equal_nan=before.dtype.kind == "f")


def _same(before: Array, after: Array) -> bool:
    if before.dtype.kind == "f":
        return before.shape == after.shape and bool(np.allclose(before, after, rtol=1e-6, equal_nan=True))
    return np.array_equal(before, after)


def _spread(tensors: list[Tensor], outputs: list[Array]) -> Array:
    """Return rows that are spread evenly over the predictions, so that they include every class: complete ones first,
    then some with a missing value."""
    rows = len(outputs[0])  # some methods are asked for the first rows only
    complete = ~np.logical_or.reduce([missing(t.array[:rows]).reshape(rows, -1).any(axis=1) for t in tensors])
    keys = outputs[0].reshape(rows, -1)[:, 0]
    order = np.argsort(keys.astype(str) if keys.dtype == object else keys, kind="stable")
    finite = np.logical_and.reduce(
        [_is_finite(output) for output in outputs if len(output) == rows]
    )  # JSON has no other answers
    whole, partly = order[(complete & finite)[order]], order[(~complete & finite)[order]]
    if not len(whole) + len(partly):
        raise UsageError("the model returns NaN or infinity for every row of X, which JSON cannot contain: pass others")
    few = min(GOLDEN_MISSING if len(whole) else GOLDEN_ROWS, len(partly))
    return np.concatenate([_evenly(whole, GOLDEN_ROWS - few), _evenly(partly, few)])


def _evenly(rows: Array, count: int) -> Array:
    return np.asarray(rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)])


def _is_finite(output: Array) -> Array:
    """Return for each row whether no number of an output is NaN or infinite."""
    rows = len(output)
    if output.dtype.kind != "f":
        return np.ones(rows, bool)
    return np.asarray(np.isfinite(output).reshape(rows, -1).all(axis=1))


def _golden(
    model: Model, tensors: list[Tensor], outputs: dict[str, Array], chosen: Wanted | None
) -> tuple[Golden, dict[str, str]]:
    """Return examples, and the outputs that the package must not have, each with the reason: how many rows a request
    has decides how they are rounded. If ``tensors`` have no rows, all of them are examples."""
    examples = tensors
    if model.batchable:
        rows = _spread(tensors, list(outputs.values()))
        examples = [Tensor(t.name, t.datatype, t.array[rows]) for t in tensors]
    names = [spec.name for spec in model.signature.outputs if manifest.has_examples(spec)]
    try:
        response = model.infer(InferRequest(None, examples, names))
        together = [tensor for tensor in response.outputs if tensor.name in names and _is_finite(tensor.array).all()]
        answers = {tensor.name: tensor_json(tensor) for tensor in together}
    except ModelFailure as error:
        raise UsageError(f"{error}: pass rows like those that it was fitted on") from error
    except MLModelError as error:
        raise UsageError(f"X is not a valid request ({error})") from error
    unsteady = _unsteady(model, examples, together) if model.batchable else {}
    for name, reason in list(unsteady.items()):
        if chosen is None or chosen.must_have(name, list(outputs)):
            raise UsageError(reason)
        (method,) = methods_behind([name])
        unsteady |= dict.fromkeys(outputs_of_method(method, list(answers)), reason)
    kept = tuple(answer for name, answer in answers.items() if name not in unsteady)
    return Golden(tuple(_request_json(tensor) for tensor in examples), kept), unsteady


def _unsteady(model: Model, examples: list[Tensor], together: list[Tensor]) -> dict[str, str]:
    """Return the outputs that a row alone has otherwise than ``together``, because of rounding, each with the reason.

    Raise :class:`UsageError` if the model answers no row alone, or if an output depends on the other rows: this is
    about the model, whose other outputs may only seem not to. One which computes with a DataFrame may do so.
    """
    found: dict[str, str] = {}
    names = [tensor.name for tensor in together]
    single = any(spec.datatype in ("FP16", "FP32") for spec in model.signature.inputs)
    for row in range(len(examples[0].array) if model.signature.frame else 1):
        try:
            alone = model.infer(
                InferRequest(None, [Tensor(t.name, t.datatype, t.array[row : row + 1]) for t in examples], names)
            )
        except ModelFailure as error:
            raise UsageError(f"{SEVERAL_ROWS} ({error})") from error
        answers = {tensor.name: tensor for tensor in alone.outputs}  # the default outputs, if all are too wide
        for all_rows in together:
            one = answers[all_rows.name]
            if model.signature.frame and not _is_as_alone(all_rows.array, row, one.array, single):
                if not (single and _is_rounding(model, examples, row, all_rows)):
                    raise UsageError(_DEPENDENT.format(one.name))
                found[one.name] = _ROUNDED.format(one.name)
    return found


_DEPENDENT = (
    "the {} of a row depends on the other rows of its request, so that the same row gets different answers: replace "
    "the function that computes with several rows, such as a mean or a rank"
)
_ROUNDED = (
    "the {} of a row is another one in a request of more rows, because columns of float32 are computed in single "
    "precision, and the number of rows decides how it rounds: convert these columns to float64, and fit again"
)


def _is_rounding(model: Model, examples: list[Tensor], row: int, together: Tensor) -> bool:
    """Whether the answer to a row depends on how many rows there are, and not on what they contain: it is that of
    ``together`` beside copies of itself too."""
    copies = [Tensor(t.name, t.datatype, np.repeat(t.array[row : row + 1], len(t.array), axis=0)) for t in examples]
    try:
        (among,) = model.infer(InferRequest(None, copies, [together.name])).outputs
    except MLModelError:
        return False
    own = slice(row, row + 1)
    return _same_bits(among.array[own], together.array[own])


def _is_as_alone(together: Array, row: int, alone: Array, single: bool) -> bool:
    """Whether a row has the same answer in ``together`` and alone, except for rounding: of numbers in ``single``
    precision it depends on how many rows are multiplied together."""
    own = together[row : row + 1]
    if own.dtype.kind == "f" and (single or own.dtype == np.float32):
        return _is_close(own, alone, TOLERANCE["FP32"])
    return _same(own, alone)


def _request_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as JSON of a request, which has null for a missing value."""
    array = tensor.array
    data = array.ravel().tolist() if array.dtype == object else elements(array)
    return {
        "name": tensor.name,
        "shape": list(array.shape),
        "datatype": tensor.datatype,
        "data": [None if is_missing(value) else value for value in data],
    }


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
