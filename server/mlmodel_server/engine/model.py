"""The prediction function of one model, on tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelFailure, RefusedModel, RequestError
from ..manifest import Manifest, Signature
from ..protocol.tensors import DTYPES, Array, InferRequest, InferResponse, Tensor, TensorSpec, datatype_of
from ..protocol.v2 import named, shown

PREDICT = "predict"
PREDICT_PROBA = "predict_proba"
MATRIX = "input-0"


class Model:
    """A prepared estimator and its signature. Safe to call from several threads: predicting changes nothing."""

    def __init__(self, estimator: Any, signature: Signature) -> None:
        self.signature = signature
        self._functions = {spec.name: getattr(estimator, spec.name) for spec in signature.outputs}
        self._columns = {spec.name: index for index, spec in enumerate(signature.inputs)}
        self._numeric = all(spec.datatype != "BYTES" for spec in signature.inputs)
        self._width = signature.inputs[0].shape[-1] if signature.layout == "matrix" else len(signature.inputs)

    def infer(self, request: InferRequest) -> InferResponse:
        """Answer one request.

        :class:`RequestError` when the tensors do not fit the signature; :class:`ModelFailure` when the model raises
        although they do.
        """
        wanted = request.outputs or [PREDICT]
        for name in wanted:
            if name not in self._functions:
                raise RequestError(f"output {shown(name)} does not exist; there is {', '.join(self._functions)}")
        table = self.table(request.inputs)
        outputs = []
        for name in wanted:
            try:
                answer = np.asarray(self._functions[name](table))
            except Exception as error:
                raise ModelFailure(f"the model failed on this input ({type(error).__name__})") from error
            if answer.shape[:1] != table.shape[:1]:
                raise ModelFailure("the model answered with another number of rows than it was asked")
            outputs.append(named(name, answer))
        return InferResponse(request.id, outputs)

    def table(self, tensors: list[Tensor]) -> Array:
        """The rows as the model wants them: float64 of shape [rows, columns], or objects when a column holds text."""
        if len(tensors) == 1 and self._numeric and (self.signature.layout == "matrix" or tensors[0].array.ndim == 2):
            single = tensors[0]
            if self.signature.layout == "matrix" or single.name not in self._columns:
                return self._matrix(single)
        if self.signature.layout == "matrix":
            raise RequestError(f"send one input of shape [rows, {self._width}], not {len(tensors)} inputs")
        return self._joined(tensors)

    def _matrix(self, tensor: Tensor) -> Array:
        if tensor.array.ndim != 2 or tensor.array.shape[1] != self._width:
            raise RequestError(
                f"input {shown(tensor.name)}: shape must be [rows, {self._width}], not {list(tensor.array.shape)}"
            )
        if not len(tensor.array):
            raise RequestError(f"input {shown(tensor.name)}: send at least one row")
        if tensor.array.dtype.kind not in "fiu":
            raise RequestError(f"input {shown(tensor.name)}: datatype must be a number type, not {tensor.datatype}")
        wanted = DTYPES[self.signature.inputs[0].datatype] if self.signature.layout == "matrix" else DTYPES["FP64"]
        table = tensor.array.astype(wanted, copy=False)
        if wanted != np.float64 and not np.isfinite(table).all():
            raise RequestError(f"input {shown(tensor.name)}: data holds a number outside the range of FP32")
        return table

    def _joined(self, tensors: list[Tensor]) -> Array:
        specs = self.signature.inputs
        columns: list[Array | None] = [None] * len(specs)
        for tensor in tensors:
            index = self._columns.get(tensor.name)
            if index is None:
                raise RequestError(f"input {shown(tensor.name)} does not exist; there is {self._names()}")
            if columns[index] is not None:
                raise RequestError(f"input {shown(tensor.name)} is there twice")
            columns[index] = _column(tensor, specs[index])
        missing = [spec.name for spec, column in zip(specs, columns, strict=True) if column is None]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise RequestError(f"input {', '.join(map(shown, missing[:5]))}{more} is missing")
        present = [column for column in columns if column is not None]
        rows = len(present[0])
        for spec, column in zip(specs, present, strict=True):
            if len(column) != rows:
                raise RequestError(
                    f"input {shown(spec.name)} has {len(column)} rows, but {shown(specs[0].name)} has {rows}"
                )
        if not rows:
            raise RequestError(f"input {shown(specs[0].name)}: send at least one row")
        table: Array = np.empty((rows, len(specs)), dtype=np.float64 if self._numeric else object)
        for index, column in enumerate(present):
            table[:, index] = column
        return table

    def _names(self) -> str:
        names = [spec.name for spec in self.signature.inputs]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _column(tensor: Tensor, spec: TensorSpec) -> Array:
    if not _fits(tensor.datatype, spec.datatype):
        raise RequestError(f"input {shown(tensor.name)}: datatype must be {spec.datatype}, not {tensor.datatype}")
    array = tensor.array
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise RequestError(f"input {shown(tensor.name)}: shape must be [rows] or [rows, 1], not {list(array.shape)}")
    return array.ravel()


def _fits(sent: str, wanted: str) -> bool:
    """Numbers may be sent as any number type that means the same; a fraction never becomes an integer."""
    if sent == wanted:
        return True
    if "BYTES" in (sent, wanted) or "BOOL" in (sent, wanted):
        return False
    return wanted.startswith("FP") or not sent.startswith("FP")


def from_package(estimator: Any, manifest: Manifest) -> Model:
    """The model of a package: its signature is the one written at training time."""
    for output in manifest.signature.outputs:
        if not hasattr(estimator, output.name):
            raise RefusedModel(f"the model has no {output.name}, which its package promises: save the package again")
    return Model(estimator, manifest.signature)


def from_bare(estimator: Any) -> Model:
    """The model of a bare file: columns from ``feature_names_in_`` or ``n_features_in_``, all of datatype FP64.

    ``estimator`` must not have been prepared yet, as that forgets the names.
    """
    from .prepare import prepare

    width = getattr(estimator, "n_features_in_", None)
    if not isinstance(width, int) or not hasattr(estimator, PREDICT):
        raise RefusedModel(
            "the file holds no fitted scikit-learn model with a predict method: save a fitted estimator or pipeline"
        )
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    inputs = tuple(TensorSpec(name, "FP64", (-1,)) for name in names) or (TensorSpec(MATRIX, "FP64", (-1, width)),)
    prepared = prepare(estimator)
    probe: Array = np.zeros((1, width))
    signature = Signature("columns" if names else "matrix", inputs, _outputs(prepared, probe), classes_of(prepared))
    return Model(prepared, signature)


def _outputs(estimator: Any, probe: Array) -> tuple[TensorSpec, ...]:
    try:
        return outputs_of(estimator, probe)
    except Exception:  # zeros are no valid row of this model: say what can be told without asking it
        classes = getattr(estimator, "classes_", None)
        datatype = datatype_of(np.asarray(classes).dtype) if classes is not None else "FP64"
        return (TensorSpec(PREDICT, datatype, (-1,)),)


def outputs_of(estimator: Any, table: Array) -> tuple[TensorSpec, ...]:
    """What the model can answer, found by asking it: always ``predict``, and ``predict_proba`` where it has one."""
    outputs = []
    for name in (PREDICT, PREDICT_PROBA):
        if hasattr(estimator, name):
            answer = getattr(estimator, name)(table)
            if isinstance(answer, list):  # probabilities of several targets, which are no one tensor
                continue
            answer = np.asarray(answer)
            outputs.append(TensorSpec(name, datatype_of(answer.dtype), (-1, *answer.shape[1:])))
    return tuple(outputs)


def classes_of(estimator: Any) -> tuple[str, ...]:
    """The classes in the order of the columns of ``predict_proba``; empty when it is no single-target classifier."""
    classes = getattr(estimator, "classes_", None)
    if classes is None or isinstance(classes, list):
        return ()
    return tuple(str(label) for label in classes)
