"""The Open Inference Protocol (v2) over REST: JSON to :class:`InferRequest`, :class:`InferResponse` to JSON.

Source: github.com/open-inference/open-inference-protocol, specification/protocol/inference_rest.md, and its extension
for binary tensor data. Data may be flat or nested, row-major. Elements are never coerced between kinds: neither a
string nor a boolean is a number, and 1.5 is not an integer, though 30.0 is. JSON has no NaN: null is a missing element,
NaN among floating-point numbers and else None. In a request, an optional field may be null too; a response has no null.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union

import msgspec
import numpy as np

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.protocol import binary, jsonbody, misfits, missing, parameters
from mlmodel_server.tensors import (
    DTYPES,
    EXACT_INTEGER,
    MAX_DIMENSIONS,
    NO_PARAMETERS,
    SHAPE_RULE,
    WRITE_DIGITS,
    Array,
    InferRequest,
    InferResponse,
    Parameter,
    Tensor,
    finite,
    kind,
    quoted,
    reject_duplicates,
    shaped,
    texts_of,
    unknown_datatype,
)


def _nested(element: Any) -> Any:
    data = list[element]
    for _ in range(MAX_DIMENSIONS - 1):
        data = list[element | data]  # type: ignore[misc]
    return data


Shape = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1, max_length=MAX_DIMENSIONS)]


class _Input(msgspec.Struct):
    datatype: ClassVar[str]
    name: str
    shape: Shape
    parameters: dict[str, Parameter] | None = None
    data: Any = msgspec.UNSET


def _inputs(element: Callable[[type], Any]) -> tuple[type, ...]:
    """Return a class for each datatype, selected by it, so that msgspec checks the elements while it parses them."""
    return tuple(
        msgspec.defstruct(
            datatype,
            [("data", _nested(element(kind(datatype))) | msgspec.UnsetType, msgspec.UNSET)],
            bases=(_Input,),
            namespace={"datatype": datatype},
            tag_field="datatype",
            tag=datatype,
        )
        for datatype in DTYPES
    )


class OutputJson(msgspec.Struct):
    """A requested output; the parameter ``binary_data`` selects binary data for it."""

    name: str
    parameters: dict[str, Parameter] | None = None


T = TypeVar("T")


class InferRequestJson(msgspec.Struct, Generic[T]):
    """An inference request with inputs of the type ``T``."""

    inputs: list[T]
    id: str | None = None
    outputs: list[OutputJson] | None = None
    parameters: dict[str, Parameter] | None = None


class TensorJson(msgspec.Struct, omit_defaults=True):
    """A tensor; its elements are in ``data``, or follow the JSON as binary data."""

    name: str
    shape: Shape
    datatype: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(DTYPES)})]
    parameters: dict[str, Parameter] | None = None
    data: Annotated[list[Any], msgspec.Meta(description="flat or nested, row-major")] | None = None


class InferResponseJson(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The response to an inference request."""

    model_name: str
    model_version: str = ""
    id: str | None = None
    parameters: dict[str, Parameter] | None = None
    outputs: list[TensorJson]


class _Head(msgspec.Struct):
    name: Any = None
    datatype: Any = None


class _Heads(msgspec.Struct):
    inputs: list[_Head]


def _decoder_of(element: Callable[[type], Any]) -> msgspec.json.Decoder[InferRequestJson[_Input]]:
    return msgspec.json.Decoder(InferRequestJson[Union[_inputs(element)]])  # type: ignore[misc]  # noqa: UP007


_decoder = _decoder_of(lambda kind: kind)
_decoder_of_missing = _decoder_of(lambda kind: kind | float | None if kind is int else kind | None)
"""For what few requests have, null and 30.0: it costs the others nothing."""
_encoder = msgspec.json.Encoder()
_IN_INPUT = re.compile(r"(.*) - at `\$\.inputs\[(\d+)\]\.?(.*)`", re.DOTALL)


def decode(body: bytes, json_length: int | None = None) -> InferRequest:
    """Parse an inference request; raise :class:`RequestError` 400, which names the field.

    ``json_length`` is the value of the header ``Inference-Header-Content-Length``: the number of bytes of ``body`` that
    are JSON. The binary data of the inputs with a ``binary_data_size`` follows.
    """
    head = body if json_length is None else _head(body, json_length)
    try:
        sent = _decoder.decode(head)
    except msgspec.ValidationError:
        sent = _with_missing(head)
    except jsonbody.DECODE_ERRORS as error:
        jsonbody.reject(error, head)
    if not sent.inputs:
        raise RequestError("inputs is empty: send at least one tensor")
    inputs = list(map(_tensor, sent.inputs)) if json_length is None else _tensors(sent, body, json_length)
    if len(inputs) > 1:
        reject_duplicates([tensor.name for tensor in inputs], "input")
    if sent.parameters:
        parameters.check_request(sent.parameters)
    if not sent.outputs:
        return InferRequest(sent.id, inputs, None, sent.parameters or NO_PARAMETERS)
    names = [output.name for output in sent.outputs]
    reject_duplicates(names, "output")
    of_outputs = {output.name: output.parameters for output in sent.outputs if output.parameters}
    for name, own in of_outputs.items():
        parameters.check_output(name, own)
    return InferRequest(sent.id, inputs, names, sent.parameters or NO_PARAMETERS, of_outputs)


def _with_missing(head: bytes | memoryview) -> InferRequestJson[_Input]:
    """Parse a request with a missing element, or an integer such as 30.0. Raise :class:`RequestError` for others."""
    try:
        sent = _decoder_of_missing.decode(head)
    except msgspec.ValidationError as error:
        raise RequestError(_misfit(str(error), head)) from None
    except jsonbody.DECODE_ERRORS as error:
        jsonbody.reject(error, head)
    for tensor in sent.inputs:
        if tensor.data is not msgspec.UNSET and not tensor.datatype.startswith("FP"):
            tensor.data = _exact(tensor)
    return sent


def _exact(sent: _Input) -> Array:
    """Return the integers, booleans or texts of an input: as objects, with None, if one is missing."""
    name, datatype = quoted(sent.name), sent.datatype
    array: Array = np.empty(0, object)
    with suppress(ValueError):  # rows of several lengths
        array = np.array(sent.data, object)
    values = array.ravel().tolist()
    if any(isinstance(value, list) for value in values) or (sent.data and not values):
        raise RequestError(f"input {name}: the rows in data differ in length")
    fractions = [value for value in values if isinstance(value, float)]
    if not all(map(float.is_integer, fractions)):
        raise RequestError(f"input {name}: data of the datatype {datatype} must be integers, and one is a fraction")
    if datatype in ("INT64", "UINT64") and any(EXACT_INTEGER <= abs(value) < 2**64 for value in fractions):
        raise RequestError(f"input {name}: data {WRITE_DIGITS}")
    exact = [int(value) if isinstance(value, float) else value for value in values]
    try:
        typed = np.array([value for value in exact if value is not None], DTYPES[datatype])
    except OverflowError:
        raise RequestError(f"input {name}: data holds a number outside the range of {datatype}") from None
    if len(typed) == len(exact):
        return typed.reshape(array.shape)
    array.ravel()[:] = exact
    return array


def _head(body: bytes, length: int) -> memoryview:
    if length > len(body):
        raise RequestError(f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes")
    return memoryview(body)[:length]


def _misfit(message: str, body: bytes | memoryview) -> str:
    """Return the sentence for a message of msgspec, with the name of the input instead of its index."""
    match = _IN_INPUT.fullmatch(message)
    try:
        input = msgspec.json.decode(body, type=_Heads).inputs[int(match[2])] if match else _Head()
    except jsonbody.DECODE_ERRORS:  # there is another error further on
        input = _Head()
    if not match or not isinstance(input.name, str):
        return f"not a v2 request: {misfits.sentence(message)}"
    where, reason = match[3], match[1].replace(" | array`", "`")
    if where.startswith("data["):  # null and 30.0 are accepted, but not what to send
        reason = reason.replace(" | array", "").replace(" | null", "").replace("int | float", "int")
    rule = f"; {SHAPE_RULE}" if where.startswith("shape") else ""
    if where == "datatype" and isinstance(input.datatype, str):
        return str(unknown_datatype(input.name, input.datatype))
    if where.startswith("data["):
        where = f"{where} of datatype {input.datatype}"
    return f"input {quoted(input.name)}: {misfits.said(reason, where, 'it')}{rule}"


def _tensor(sent: _Input) -> Tensor:
    """Return the tensor of an input whose data is in the JSON."""
    name, datatype, shape, data = sent.name, sent.datatype, sent.shape, sent.data
    if sent.parameters:
        parameters.check_input(name, sent.parameters)
    if data is msgspec.UNSET:
        if sent.parameters and parameters.SIZE in sent.parameters:
            raise RequestError(f"input {quoted(name)}: binary data requires the header Inference-Header-Content-Length")
        raise RequestError(f"input {quoted(name)}: data is missing")
    try:
        array: Array = data if isinstance(data, np.ndarray) else np.array(data, DTYPES[datatype])
        if datatype == "BYTES" and array is not data:
            "".join(array.ravel().tolist())  # TypeError: when rows differ in length, numpy keeps lists as elements
    except OverflowError:
        raise RequestError(f"input {quoted(name)}: data holds a number outside the range of {datatype}") from None
    except (ValueError, TypeError):
        raise RequestError(f"input {quoted(name)}: the rows in data differ in length") from None
    if (
        datatype in ("FP16", "FP32") and not finite(array) and np.isinf(array).any()
    ):  # numpy turns numbers that are too large into infinity
        raise RequestError(f"input {quoted(name)}: data holds a number outside the range of {datatype}")
    if array.shape != shape:
        if array.ndim != 1 or array.size != prod(shape):
            sizes = "x".join(map(str, array.shape))
            raise RequestError(f"input {quoted(name)}: data has shape {sizes}, but shape says {list(shape)}")
        array = shaped(name, array, shape)
    if sent.parameters:
        array = missing.applied(name, array, sent.parameters)
    return Tensor(name, datatype, array, sent.parameters or NO_PARAMETERS)


def _tensors(sent: InferRequestJson[_Input], body: bytes, start: int) -> list[Tensor]:
    """Return the tensors of a request whose binary data starts at ``start``."""
    view, tensors = memoryview(body), []
    for tensor in sent.inputs:
        name, size = tensor.name, (tensor.parameters or NO_PARAMETERS).get(parameters.SIZE)
        if size is None:
            tensors.append(_tensor(tensor))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise RequestError(f"input {quoted(name)}: the parameter binary_data_size must be a number of bytes")
        if tensor.data is not msgspec.UNSET:
            raise RequestError(f"input {quoted(name)}: send either data or binary_data_size, not both")
        if start + size > len(body):
            raise RequestError(
                f"input {quoted(name)}: binary_data_size is {size}, but only {len(body) - start} bytes are left"
            )
        array = binary.from_raw(name, tensor.datatype, tensor.shape, view[start : start + size])
        array = missing.applied(name, array, tensor.parameters or NO_PARAMETERS)
        tensors.append(Tensor(name, tensor.datatype, array, tensor.parameters or NO_PARAMETERS))
        start += size
    if start != len(body):
        raise RequestError(
            f"{len(body) - start} bytes of binary data belong to no input: set binary_data_size of each binary input"
        )
    return tensors


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as JSON of the protocol, data flat and row-major."""
    return {
        "name": tensor.name,
        "shape": list(tensor.array.shape),
        "datatype": tensor.datatype,
        "data": _data(tensor),
    }


def _data(tensor: Tensor) -> list[Any]:
    array = tensor.array
    if array.dtype.kind == "f" and not finite(array):
        raise ModelFailure(f"output {tensor.name} has NaN or infinity, which JSON cannot hold: request binary data")
    return texts_of(tensor.name, array) if tensor.datatype == "BYTES" else array.ravel().tolist()


def encode(response: InferResponse, model: str, version: str, outputs: list[TensorJson] | None = None) -> bytes:
    """Return the response body, all of it JSON, unless ``outputs`` have some whose binary data follows. It has an
    ``id`` only if the request had one, and no null."""
    if outputs is None:
        outputs = list(map(_json_output, response.outputs))
    more = dict(response.parameters) if response.parameters else None
    return _encoder.encode(
        InferResponseJson(model_name=model, model_version=version, id=response.id, parameters=more, outputs=outputs)
    )


def answer(request: InferRequest, response: InferResponse, model: str, version: str) -> tuple[bytes, int | None]:
    """Return the response body, with binary data for the outputs that the request selects for it, and a length.

    The length is None when all of the body is JSON. Otherwise it is the length of the JSON part: send it in the header
    ``Inference-Header-Content-Length``, with the content type ``application/octet-stream``.
    """
    if not request.parameters and not request.output_parameters:
        return encode(response, model, version), None
    raws = {t.name: binary.to_raw(t) for t in response.outputs if parameters.is_binary_requested(request, t.name)}
    if not raws:
        return encode(response, model, version), None
    outputs = [_binary_output(t, raws[t.name]) if t.name in raws else _json_output(t) for t in response.outputs]
    head = encode(response, model, version, outputs)
    return b"".join((head, *raws.values())), len(head)


def _json_output(tensor: Tensor) -> TensorJson:
    more = dict(tensor.parameters) if tensor.parameters else None
    return TensorJson(tensor.name, tensor.array.shape, tensor.datatype, more, _data(tensor))


def _binary_output(tensor: Tensor, raw: bytes) -> TensorJson:
    more = {**tensor.parameters, parameters.SIZE: len(raw)}
    return TensorJson(tensor.name, tensor.array.shape, tensor.datatype, more)


def error(message: str) -> bytes:
    """Return the body of an error."""
    return _encoder.encode({"error": message})
