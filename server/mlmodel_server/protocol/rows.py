"""Rows of a table, by feature name or by position, to the tensors of a model.

Every format of rows ends here. The simplest is a plain JSON object such as ``{"age": 4, "city": "Rome"}``, or an array
of such objects. A feature is one input of the model: a value in each row, or an array of values for an input of more
dimensions. Text is never a number, nor a number text; ``true`` is 1 and 30.0 is 30, where nothing is lost. ``null`` is
a missing value: NaN among floating-point numbers, None among texts, and None among integers and booleans that may be
missing. An integer becomes a floating-point number if that is the same number, or the one that is printed with these
digits. Errors count rows from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np

from mlmodel_server.errors import RequestError
from mlmodel_server.manifest import Signature
from mlmodel_server.protocol import jsonbody
from mlmodel_server.tensors import (
    DTYPES,
    EXACT_INTEGER,
    WRITE_DIGITS,
    Array,
    InferRequest,
    Tensor,
    TensorSpec,
    about_dates,
    beyond_exact,
    is_rounded_twice,
    kind,
    missing_texts,
    quoted,
    reject_duplicates,
)
from mlmodel_server.texts import guess

Specs = Sequence[TensorSpec]


class Inputs(tuple[TensorSpec, ...]):
    """The inputs of a model that differs from most: it ignores columns which it does not have, or its library rounds
    every number to single precision."""

    ignores_others = False
    single = False


def specs_of(signature: Signature, *, single: bool = False) -> Specs:
    """Return the inputs of a model, as the functions of this module take them; ``single`` is that of the model."""
    inputs = Inputs(signature.inputs)
    inputs.ignores_others, inputs.single = signature.ignores_others, single
    return inputs


_ONE = {float: "a number", int: "an integer", bool: "true or false", str: "text"}
_MANY = {float: "numbers", int: "integers", bool: "booleans", str: "texts"}
_SENT = {
    float: "a floating-point number", int: "a number", bool: "a boolean", str: "text", type(None): "null",
    list: "an array", dict: "an object",
}  # fmt: skip


def decode(body: bytes, specs: Specs) -> InferRequest:
    """Parse one row, or an array of rows; raise :class:`RequestError` 400, which names the feature and the row."""
    value = jsonbody.parse(body)
    is_text = isinstance(value, str) and len(specs) == 1
    return request(tensors([value] if isinstance(value, dict) or is_text else value, specs))


def request(tensors: list[Tensor]) -> InferRequest:
    """Return a request for the model's default outputs."""
    return InferRequest(None, tensors, None)


def tensors(rows: Any, specs: Specs) -> list[Tensor]:
    """Return the tensors of rows: all objects by feature name, or all arrays in the order of the inputs."""
    if not isinstance(rows, list):
        raise RequestError("send rows as a JSON array")
    if not rows:
        raise RequestError("the request has no rows: send at least one")
    if isinstance(rows[0], dict):
        return _by_name(rows, specs)
    return _by_position(rows, specs)


def table(names: list[str], rows: list[Any], specs: Specs) -> list[Tensor]:
    """Return the tensors of rows that are arrays, in the order of ``names``, the names of the features.

    A model with one input of many columns has no names for them: then ``names`` may be any, in the model's order.
    """
    if not rows:
        raise RequestError("the request has no rows: send at least one")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise RequestError(f"row {index} must be an array of {len(names)} values, one for each column")
    if len(specs) == 1 and len(specs[0].shape) == 2 and specs[0].name not in names:
        return [_tensor(specs[0], rows, specs)]
    reject_duplicates(names, "column")
    return columns(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), specs)


def columns(columns: Mapping[str, Any], specs: Specs) -> list[Tensor]:
    """Return the tensors of columns by feature name, each with a value for every row."""
    _check_names(columns, specs, "")
    lengths = {}
    for name, values in columns.items():
        if not isinstance(values, list) or not values:
            raise RequestError(f"feature {quoted(name)} must be an array with a value for each row")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        first = ", ".join(f"{quoted(name)} has {length}" for name, length in list(lengths.items())[:3])
        raise RequestError(f"every feature must have a value for each row, but {first}")
    return [_tensor(spec, columns[spec.name], specs) for spec in specs]


def _by_name(rows: list[Any], specs: Specs) -> list[Tensor]:
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RequestError(f"row {index} must be an object by feature name, like row 0")
        if len(row) != len(specs) or any(spec.name not in row for spec in specs):
            _check_names(row, specs, f"row {index}: ")
    return [_tensor(spec, [row[spec.name] for row in rows], specs) for spec in specs]


def _by_position(rows: list[Any], specs: Specs) -> list[Tensor]:
    if len(specs) == 1 and (len(specs[0].shape) > 1 or not isinstance(rows[0], list)):
        return [_tensor(specs[0], rows, specs)]
    if any(len(spec.shape) > 1 and spec.shape[1:] != (1,) for spec in specs):
        raise RequestError(f"send each row as an object by feature name: {_listed(specs)}")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(specs):
            raise RequestError(f"row {index} must be an array of {len(specs)} values: {_listed(specs)}")
    return [_tensor(spec, list(values), specs) for spec, values in zip(specs, zip(*rows, strict=True), strict=True)]


def _check_names(given: Mapping[str, Any], specs: Specs, where: str) -> None:
    """Raise :class:`RequestError` when ``given`` lacks a feature or has an unknown one."""
    known = {spec.name for spec in specs}
    unknown = [name for name in given if name not in known]
    if unknown and not (isinstance(specs, Inputs) and specs.ignores_others):
        raise RequestError(
            f"{where}unknown feature {quoted(unknown[0])}{guess(unknown[0], known)}; the model has {_listed(specs)}"
        )
    missing = [spec.name for spec in specs if spec.name not in given]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(f"{where}missing feature {quoted(missing[0])}{more}")


def _listed(specs: Specs) -> str:
    return ", ".join(spec.name for spec in specs[:8]) + (f" and {len(specs) - 8} more" if len(specs) > 8 else "")


_FROM = {"FP16": 65504.0, "FP32": float(EXACT_INTEGER), "FP64": float(EXACT_INTEGER)}
"""From here on, numbers are looked at one by one: an integer may change, or a number may be out of range."""


@cache
def _type(datatype: str, depth: int) -> Any:
    element = kind(datatype)
    nested: Any = element | None if element is str else element
    if element is float:  # so that msgspec finds the greater ones on its way, which costs nothing
        nested = Annotated[float, msgspec.Meta(gt=-_FROM[datatype], lt=_FROM[datatype])] | None
    for _ in range(depth):
        nested = list[nested]
    return nested


def _tensor(spec: TensorSpec, values: list[Any], specs: Specs) -> Tensor:
    """Return one feature of all rows, checked against its spec, one of ``specs``."""
    name, datatype, inner = quoted(spec.name), spec.datatype, spec.shape[1:]
    if inner == (1,) and not isinstance(values[0], list):
        values = [[value] for value in values]
    seldom = False
    try:
        try:
            array: Array = np.array(msgspec.convert(values, _type(datatype, 1 + len(inner))), DTYPES[datatype])
        except msgspec.ValidationError:
            array = _array([_converted(value, spec, row, len(inner)) for row, value in enumerate(values)], datatype)
            seldom = kind(datatype) is float
    except OverflowError:
        raise RequestError(f"feature {name} holds a number outside the range of {datatype}") from None
    except ValueError:
        raise RequestError(f"feature {name}: the rows differ in length") from None
    if array.ndim != 1 + len(inner):
        raise RequestError(f"feature {name}: the rows differ in length")
    if any(size not in (-1, sent) for size, sent in zip(inner, array.shape[1:], strict=True)):
        expected, sent = ("x".join(map(str, sizes)) for sizes in (inner, array.shape[1:]))
        raise RequestError(f"feature {name} must have {expected} values in each row, not {sent}")
    if seldom:
        if np.isinf(array).any():
            raise RequestError(f"feature {name} holds a number outside the range of {datatype}")
        single = isinstance(specs, Inputs) and specs.single and datatype == "FP32"
        if any(_is_changed(value, single) for value in values):
            raise beyond_exact(f"feature {name}", "FP64")
    return Tensor(spec.name, datatype, array)


def _converted(value: Any, spec: TensorSpec, row: int, depth: int) -> Any:
    """Return nested lists with each value in the kind of the spec, if it stays the same number.

    Raise :class:`RequestError` if a value of another kind would change.
    """
    element = kind(spec.datatype)
    if depth:
        if isinstance(value, list):
            return [_converted(inner, spec, row, depth - 1) for inner in value]
    elif isinstance(value, element) or (value is None and (element in (float, str) or spec.is_nullable)):
        return int(value) if isinstance(value, bool) and element is int else value
    elif element is not str and isinstance(value, (bool, int, float)) and _is_exact(value, element):
        if spec.datatype in ("INT64", "UINT64") and EXACT_INTEGER <= abs(value) < 2**64:  # as typed, maybe another one
            raise RequestError(f"row {row}: feature {quoted(spec.name)} {WRITE_DIGITS}")
        return element(value)
    raise RequestError(_misfit(value, spec, row, len(spec.shape) - 1))


def _is_changed(value: Any, single: bool) -> bool:
    """Whether an integer, or one in nested lists, becomes another number as a floating-point number; ``single`` says
    that the library rounds it to single precision itself.

    JavaScript and Go print the number 2^60 as 1152921504606847000: its first digits that no other number has, and
    zeros. So that integer is this number too.
    """
    if isinstance(value, list):
        return any(_is_changed(inner, single) for inner in value)
    if not isinstance(value, int):
        return False
    number = float(value)
    if number == value or int(Decimal(repr(number))) == value:
        return False
    return not single or not -(2**63) <= value < 2**64 or is_rounded_twice(value, number)


def _is_exact(value: Any, element: type) -> bool:
    """Whether a number stays the same as one of this type: neither a fraction nor an infinite number is an integer."""
    return element is float or (value - value == 0 and element(value) == value)


def _array(checked: list[Any], datatype: str) -> Array:
    """Return an array of the datatype; of objects if it has integers or booleans of which some are missing."""
    dtype = DTYPES[datatype]
    if dtype.kind in "fO":
        return np.array(checked, dtype)
    array: Array = np.array(checked, object)
    missing = missing_texts(array)
    if not missing.any():
        return np.array(checked, dtype)
    np.array(array[~missing].tolist(), dtype)  # raises OverflowError
    return array


def _misfit(value: Any, spec: TensorSpec, row: int, depth: int) -> str:
    element = kind(spec.datatype)
    must_be = f"an array of {_MANY[element]}" if depth else _ONE[element]
    if spec.column is not None and spec.column.format:
        must_be = f"a date as text in {spec.column.format}"
    hint = "" if element is str else about_dates(value)
    return f"row {row}: feature {quoted(spec.name)} must be {must_be}, not {_SENT[type(value)]}{hint}"
