"""A model behind tensors: checks them against its signature and turns them into the table that it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mlmodel_server.errors import ModelFailure, RefusedModel, RequestError
from mlmodel_server.formats import methods
from mlmodel_server.formats.opened import CONTRIBUTIONS, Functions, Opened, Table
from mlmodel_server.manifest import Manifest, Signature
from mlmodel_server.tensors import (
    DTYPES,
    Array,
    InferRequest,
    InferResponse,
    Tensor,
    TensorSpec,
    about_dates,
    are_rounded_twice,
    beyond_exact,
    datatype_of,
    is_changed,
    is_missing,
    kind,
    missing_texts,
    named,
    quoted,
)
from mlmodel_server.texts import guess

PREDICT = "predict"
_FURTHER = {name for method in methods.FURTHER for name in methods.named(method)}
BLANK: dict[str, Any] = {"BYTES": "", "BOOL": False}
"""The value of an element in a blank row, by datatype; 0 for all others."""

_OBJECT = DTYPES["BYTES"]
_SINGLE = float(np.finfo(np.float32).max)


class Model:
    """Functions and their signature. Safe to call from several threads: a prediction changes no state."""

    def __init__(
        self,
        functions: Functions,
        signature: Signature,
        absent: str = "",
        *,
        by_row: bool = True,
        single: bool = False,
    ) -> None:
        """``absent`` says how to get outputs that are missing here, for the error about an unknown one. ``by_row`` is
        whether the answer to a row is the same beside other rows, ``single`` that of
        :class:`~mlmodel_server.formats.opened.Opened`."""
        self.signature, self.single, self._absent = signature, single, absent
        self.batchable = all(spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs))
        """Whether a request may have any number of rows."""
        self.can_join = self.batchable and by_row
        """Whether the rows of several requests may be predicted together."""
        self._functions = functions
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._default = signature.default or ((PREDICT,) if PREDICT in self._outputs else self._outputs)
        self.further = frozenset(self._outputs) & _FURTHER - set(self._default)
        """Outputs that take another time than those of a request that names none."""
        self._columns = {spec.name: index for index, spec in enumerate(signature.inputs)}
        self._numeric = not signature.frame and all(spec.datatype != "BYTES" for spec in signature.inputs)
        self._is_number = [not signature.frame and spec.datatype != "BYTES" for spec in signature.inputs]
        self.width = signature.inputs[0].shape[-1] if signature.layout == "matrix" else len(signature.inputs)
        self._matrix_datatype = signature.inputs[0].datatype if signature.layout == "matrix" else "FP64"
        self._matrix_dtype = DTYPES[self._matrix_datatype]

    def infer(self, request: InferRequest) -> InferResponse:
        """Predict one request.

        Raise :class:`RequestError` when the tensors do not fit the signature, :class:`ModelFailure` when the model
        raises although they do.
        """
        wanted = self.select_outputs(request.outputs)
        table = self.table(request.inputs)
        answers = self.predict(table, wanted)
        return InferResponse(request.id, [named(name, array) for name, array in zip(wanted, answers, strict=True)])

    def select_outputs(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        """Return the outputs for a request: those that it names, else the default ones."""
        if not outputs:
            return self._default
        for name in outputs:
            if name not in self._outputs:
                raise RequestError(
                    f"unknown output {quoted(name)}{guess(name, self._outputs)}; the model has {self._offered(name)}"
                )
        if len(set(outputs)) < len(outputs):
            raise RequestError("outputs has the same name twice: names must be unique")
        return tuple(outputs)

    def _offered(self, wanted: str) -> str:
        absent = self._absent
        if not absent and wanted in methods.CHOSEN:
            absent = f"an estimator with this method has it if it is packaged with outputs={[wanted]!r}"
        return ", ".join(self._outputs) + (f"; {absent}" if absent else "")

    def predict(self, table: Table, wanted: Sequence[str]) -> list[Array]:
        """Return the outputs for a table made by :meth:`table`.

        Raise :class:`RequestError` when the model raises on missing, infinite or huge numbers, which few models accept,
        and :class:`ModelFailure` when it raises on anything else.
        """
        try:
            answers = self._functions(table, wanted)
        except RequestError:  # it says what to send instead
            raise
        except BaseException as error:  # SystemExit too: own code must not end the thread that predicts
            if where := self._suspects(table, _is_extreme):
                raise RequestError(
                    f"this model rejects missing, infinite and too large numbers, and the request has one in {where}: "
                    "send finite numbers up to 3.4e38"
                ) from None
            if where := self._suspects(table, _has_none):
                raise RequestError(
                    f"this model rejects missing values, and the request has one in {where}: send a value"
                ) from None
            raise ModelFailure(f"the model failed on this input ({type(error).__name__})") from error
        if self.batchable:
            rows = rows_of(table)
            for answer in answers:
                if answer.shape[:1] != (rows,):
                    raise ModelFailure(f"the model returned shape {list(answer.shape)} for {rows} rows")
        return answers

    def kind_of(self, table: Table, outputs: Sequence[str]) -> object:
        """Return a key that is equal for requests whose rows may be predicted together.

        A missing value may change the dtype of a whole column of a DataFrame, so such a request is predicted alone.
        """
        if not isinstance(table, np.ndarray):
            return (*outputs, *((array.dtype.char, array.shape[1:]) for array in table.values()))
        if self.signature.frame and any(map(is_missing, table.ravel().tolist())):
            return object()
        return (*outputs, table.dtype.char, table.shape[1:])

    def _suspects(self, table: Table, is_suspect: Callable[[Array, bool], bool]) -> str:
        """Return the names of the inputs that have a value which the model may reject; "" if there is none."""
        specs = self.signature.inputs
        if isinstance(table, np.ndarray):
            columns = [table] if len(specs) == 1 else list(table.T)
        else:
            columns = list(table.values())
        found = [
            quoted(spec.name)
            for spec, column in zip(specs, columns, strict=True)
            if is_suspect(column, spec.is_nullable)
        ]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"{', '.join(found[:3])}{more}"

    def table(self, tensors: list[Tensor]) -> Table:
        """Return the rows in the layout of the model: see :data:`~mlmodel_server.formats.opened.Table`."""
        layout = self.signature.layout
        if layout == "tensors":
            return self._as_sent(tensors)
        if len(tensors) == 1 and self._numeric:
            single = tensors[0]
            if layout == "matrix" or (single.array.ndim == 2 and single.name not in self._columns):
                return self._matrix(single)
        if layout == "matrix":
            raise RequestError(f"send one input of shape [rows, {self.width}], not {len(tensors)} inputs")
        return self._joined(tensors)

    def blank(self, values: Mapping[int, Any]) -> Array:
        """Return a table of one row with these values by column, and 0, "" or false in the others."""
        blanks: list[Any] = [BLANK.get(spec.datatype, 0.0) for spec in self.signature.inputs]
        if self.signature.layout == "matrix":
            blanks = [0.0] * self.width
        row: Array = np.empty((1, len(blanks)), np.float64 if self._numeric else object)
        row[0] = [values.get(column, blank) for column, blank in enumerate(blanks)]
        return row

    def _matrix(self, tensor: Tensor) -> Array:
        array, dtype = tensor.array, self._matrix_dtype
        if array.ndim != 2 or array.shape[1] != self.width:
            raise RequestError(
                f"input {quoted(tensor.name)}: shape must be [rows, {self.width}], not {list(array.shape)}"
            )
        if not len(array):
            raise RequestError(f"input {quoted(tensor.name)}: send at least one row")
        if array.dtype == dtype:
            return array
        if tensor.datatype == "BYTES":
            raise RequestError(f"input {quoted(tensor.name)}: datatype must be a number type, not {tensor.datatype}")
        single = self.single and all(spec.datatype == "FP32" for spec in self.signature.inputs)
        as_library = single and dtype == np.float32 and array.dtype != object
        if dtype.kind == "f" and not as_library:
            _reject_changed(tensor, self._matrix_datatype, single=single)
        return _narrowed(_elements(tensor, self.signature.inputs[0]), self._matrix_datatype, tensor.name)

    def _joined(self, tensors: list[Tensor]) -> Array:
        columns = self._by_position(tensors, self._column)
        rows = self._rows(columns)
        table: Array = np.empty((rows, len(columns)), dtype=np.float64 if self._numeric else object)
        for index, column in enumerate(columns):
            if column.dtype is _OBJECT and self._is_number[index]:
                column = column.astype(np.float64)  # None is a missing text, NaN a missing number
            table[:, index] = column
        return table

    def _column(self, tensor: Tensor, spec: TensorSpec) -> Array:
        """Return the values of one column of the table.

        Raise :class:`RequestError` if an integer would become another number there, or in the column of a DataFrame.
        """
        if tensor.array.dtype.kind == "f":
            return _column(tensor, spec)
        if spec.datatype.startswith("FP") and self.signature.frame:
            _reject_changed(tensor, spec.datatype)
        elif (
            self._numeric
            or spec.datatype.startswith("FP")
            or (tensor.array.dtype is _OBJECT and self._is_number[self._columns[spec.name]])
        ):
            _reject_changed(tensor, "FP64", single=self.single and spec.datatype == "FP32")
        return _column(tensor, spec)

    def _as_sent(self, tensors: list[Tensor]) -> dict[str, Array]:
        arrays = self._by_position(tensors, _tensor)
        if self.batchable:
            self._rows(arrays)
        for spec, array in zip(self.signature.inputs, arrays, strict=True):
            if not array.size:  # some operators of ONNX Runtime end the process, such as GRU and LSTM
                raise RequestError(
                    f"input {quoted(spec.name)}: shape {list(array.shape)} has a dimension of 0: "
                    f"send at least one number"
                )
        return {spec.name: array for spec, array in zip(self.signature.inputs, arrays, strict=True)}

    def _rows(self, arrays: Sequence[Array]) -> int:
        """Return the number of rows, which must be the same for all inputs and at least 1."""
        specs, rows = self.signature.inputs, len(arrays[0])
        for spec, array in zip(specs, arrays, strict=True):
            if len(array) != rows:
                raise RequestError(
                    f"input {quoted(spec.name)} has {len(array)} rows, but {quoted(specs[0].name)} has {rows}"
                )
        if not rows:
            raise RequestError(f"input {quoted(specs[0].name)}: send at least one row")
        return rows

    def _by_position(self, tensors: list[Tensor], convert: Callable[[Tensor, TensorSpec], Array]) -> list[Array]:
        """Return the array of each input in the order of the signature, exactly one for each."""
        specs = self.signature.inputs
        arrays: list[Array | None] = [None] * len(specs)
        for tensor in tensors:
            index = self._columns.get(tensor.name)
            if index is None:
                if self.signature.ignores_others:
                    continue
                raise RequestError(
                    f"unknown input {quoted(tensor.name)}{guess(tensor.name, self._columns)}; "
                    f"the model has {self._names()}"
                )
            if arrays[index] is not None:
                raise RequestError(f"input {quoted(tensor.name)} appears twice: names must be unique")
            arrays[index] = convert(tensor, specs[index])
        missing = [spec.name for spec, array in zip(specs, arrays, strict=True) if array is None]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise RequestError(f"missing input {', '.join(map(quoted, missing[:5]))}{more}")
        return [array for array in arrays if array is not None]

    def _names(self) -> str:
        names = [spec.name for spec in self.signature.inputs]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def rows_of(table: Table) -> int:
    """Return the number of rows of a table; for a model that is not batchable, the length of its first input."""
    if isinstance(table, np.ndarray):
        return len(table)
    first = next(iter(table.values()))
    return len(first) if first.ndim else 1


OBJECT_BYTES = 64
"""Assumed bytes of an element that is a Python object, such as a text."""


def bytes_of(table: Table) -> int:
    """Return about how much memory a table takes."""
    arrays = [table] if isinstance(table, np.ndarray) else table.values()
    return sum(array.size * OBJECT_BYTES if array.dtype == object else array.nbytes for array in arrays)


def _reject_changed(tensor: Tensor, datatype: str, *, single: bool = False) -> None:
    """Raise :class:`RequestError` if an integer is another number in a floating-point ``datatype``. If the library
    rounds it to ``single`` precision itself, this must only be the number that it would round it to."""
    if kind(tensor.datatype) is not int:
        return
    integers = tensor.array
    if integers.dtype == object:
        integers = integers[~missing_texts(integers)].astype(DTYPES[tensor.datatype])
    if are_rounded_twice(integers) if single else is_changed(integers, datatype):
        raise beyond_exact(f"input {quoted(tensor.name)}", datatype)


def _narrowed(array: Array, datatype: str, name: str) -> Array:
    """Return the elements of the input ``name`` in a datatype. Raise :class:`RequestError` if a number is out of its
    range."""
    dtype = DTYPES[datatype]
    if dtype.kind != "f" or array.dtype.itemsize <= dtype.itemsize:
        return array.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if not np.array_equal(np.isfinite(array), np.isfinite(narrow)):
        raise RequestError(f"input {quoted(name)}: data holds a number outside the range of {datatype}")
    return narrow


def _is_extreme(array: Array, may_be_missing: bool) -> bool:
    """Whether a number is infinite, or too large for single precision, to which many models round; or missing, unless
    the model is known to accept that."""
    if array.dtype == object:
        array = np.array([value for value in array.flat if isinstance(value, (int, float))], dtype=np.float64)
    if array.dtype.kind not in "fiu":
        return False
    small = np.abs(array.astype(np.float64)) < _SINGLE
    return not bool((small | np.isnan(array)).all() if may_be_missing else small.all())


def _has_none(array: Array, may_be_missing: bool) -> bool:
    return array.dtype == object and not may_be_missing and None in array.ravel().tolist()


def repeated(table: Table, rows: int) -> Table:
    """Return the one row of ``table``, repeated ``rows`` times."""
    if isinstance(table, np.ndarray):
        return np.repeat(table, rows, axis=0)
    return {name: np.repeat(array, rows, axis=0) for name, array in table.items()}


def _column(tensor: Tensor, spec: TensorSpec) -> Array:
    array, datatype = tensor.array, spec.datatype
    if tensor.datatype != datatype or (array.dtype is _OBJECT and datatype != "BYTES"):
        array = _elements(tensor, spec)
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise RequestError(f"input {quoted(tensor.name)}: shape must be [rows] or [rows, 1], not {list(array.shape)}")
    return array.ravel()


def _tensor(tensor: Tensor, spec: TensorSpec) -> Array:
    if not _fits(tensor.datatype, spec.datatype):
        raise _misfit(tensor, spec)
    if tensor.array.dtype == object and None in tensor.array.ravel().tolist():
        what = "text" if spec.datatype == "BYTES" else "value"
        raise RequestError(f"input {quoted(tensor.name)}: a {what} is missing, which this model does not accept")
    shape = tensor.array.shape
    if len(shape) != len(spec.shape) or any(
        expected not in (-1, sent) for expected, sent in zip(spec.shape, shape, strict=True)
    ):
        raise RequestError(f"input {quoted(tensor.name)}: shape must be {list(spec.shape)}, not {list(shape)}")
    if spec.datatype.startswith("FP"):
        _reject_changed(tensor, spec.datatype)
    return _narrowed(_elements(tensor, spec), spec.datatype, tensor.name)


def _elements(tensor: Tensor, spec: TensorSpec) -> Array:
    """Return the elements of a column or table in the kind that the model declares, if none of them changes: whole
    numbers for integers, 0 and 1 for booleans, and both for numbers. None is a missing integer or boolean.

    Raise :class:`RequestError` for others.
    """
    sent, declared, array = tensor.datatype, spec.datatype, tensor.array
    if array.dtype != object and (sent == declared or (declared.startswith("FP") and _fits(sent, declared))):
        return array
    if "BYTES" in (sent, declared):
        if sent == declared:
            return array
        raise _misfit(tensor, spec)
    if declared.startswith("FP"):
        return array.astype(np.float64)  # a boolean, or integers of which some are None
    missing = np.equal(array, None) if array.dtype == object else np.isnan(array) if array.dtype.kind == "f" else None  # type: ignore[call-overload]
    if missing is not None and missing.any():
        if not spec.is_nullable:
            raise RequestError(f"input {quoted(tensor.name)} accepts no missing value (null or NaN): send a value")
        values: Array = np.full(array.shape, None, object)
        values[~missing] = _elements(Tensor(tensor.name, sent, array[~missing].astype(DTYPES[sent])), spec).tolist()
        return values
    array = array.astype(DTYPES[sent])
    if declared == "BOOL":
        same = array.astype(np.bool_)
    elif sent == "BOOL":
        return array.astype(DTYPES[declared])
    else:
        with np.errstate(invalid="ignore"):
            same = array.astype(DTYPES[declared])
    if not np.array_equal(same, array):
        what = "0 and 1" if declared == "BOOL" else f"whole numbers in the range of {declared}"
        raise RequestError(f"input {quoted(tensor.name)}: datatype is {declared}, so {sent} must have {what} only")
    return same


def _misfit(tensor: Tensor, spec: TensorSpec) -> RequestError:
    hint = about_dates(tensor.array.flat[0]) if tensor.datatype == "BYTES" and tensor.array.size else ""
    return RequestError(f"input {quoted(tensor.name)}: datatype must be {spec.datatype}, not {tensor.datatype}{hint}")


def _fits(sent: str, declared: str) -> bool:
    """Return whether ``sent`` is valid: any number type for a float, any integer type for an integer."""
    if sent == declared:
        return True
    if "BYTES" in (sent, declared) or "BOOL" in (sent, declared):
        return False
    return declared.startswith("FP") or not sent.startswith("FP")


def model_of(opened: Opened, manifest: Manifest | None, functions: Functions | None = None) -> Model:
    """Return the model to serve: with the signature of its package, else with that of the artefact. ``functions``
    replace those of the artefact.

    Raise :class:`RefusedModel` when the artefact lacks an output of its package, or does not describe its inputs.
    """
    found = opened.signature
    if manifest is not None:
        offered: Any = opened.functions if opened.estimator is not None else _names_of(found) if found else None
        missing = [spec.name for spec in manifest.signature.outputs if offered is not None and spec.name not in offered]
        if missing or not set(manifest.signature.default) <= _names_of(manifest.signature):
            name = (missing or manifest.signature.default)[0]
            raise RefusedModel(f"the model has no output {name}, which its package lists: save the package again")
        return _explaining(opened, functions or opened.functions, manifest.signature)
    if found is None or not found.inputs:
        raise RefusedModel(
            f"a bare {opened.format} file does not say what its inputs are: write a package with `mlmodel package`"
        )
    return _explaining(opened, functions or opened.functions, found)


def _explaining(opened: Opened, functions: Functions, signature: Signature) -> Model:
    """Return the model, with the contributions of the features as one more output if it can explain."""
    explain = opened.explain
    if explain is None:
        return Model(functions, signature, by_row=opened.by_row, single=opened.single)
    row = Model(functions, signature).blank(opened.example)
    (probe,) = explain(row, (CONTRIBUTIONS,))
    spec = TensorSpec(CONTRIBUTIONS, datatype_of(probe.dtype), (-1, *probe.shape[1:]))

    def predict_and_explain(table: Table, wanted: Sequence[str]) -> list[Array]:
        predicted = [name for name in wanted if name != CONTRIBUTIONS]
        answers = dict(zip(predicted, functions(table, predicted), strict=True)) if predicted else {}
        if len(predicted) < len(wanted):
            (answers[CONTRIBUTIONS],) = explain(table, (CONTRIBUTIONS,))
        return [answers[name] for name in wanted]

    explained = msgspec.structs.replace(signature, outputs=(*signature.outputs, spec))
    return Model(predict_and_explain, explained, single=opened.single)


def _names_of(signature: Signature) -> set[str]:
    return {spec.name for spec in signature.outputs}
