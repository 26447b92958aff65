"""The Open Inference Protocol over gRPC: messages to :class:`InferRequest`, :class:`InferResponse` to messages.

Source: github.com/open-inference/open-inference-protocol, specification/protocol/inference_grpc.md. The elements of the
inputs are either all raw bytes, or each in the typed field of its datatype; the response has the same form. Errors have
the same text as over REST.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from mlmodel_server.errors import RequestError
from mlmodel_server.protocol import binary, missing, parameters
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.tensors import (
    DTYPES,
    MAX_DIMENSIONS,
    SHAPE_RULE,
    Array,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Parameter,
    Parameters,
    Tensor,
    TensorSpec,
    elements,
    quoted,
    reject_duplicates,
    shaped,
    unknown_datatype,
)

M = TypeVar("M", bound=Message)

_CONTENTS: dict[str, tuple[str, Any]] = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int32),
    "INT16": ("int_contents", np.int32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint32),
    "UINT16": ("uint_contents", np.uint32),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", None),
}
"""The typed field of each datatype, and the numpy type of its elements. FP16 has no field."""


def parse(kind: type[M], raw: bytes) -> M:
    """Parse a message. Raise :class:`RequestError` 400 if it is not of this kind; gRPC would log a traceback."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise RequestError(f"the message is not a {kind.DESCRIPTOR.name}") from None


def decode(message: pb.ModelInferRequest) -> InferRequest:
    """Decode a message. Raise :class:`RequestError` 400, which names the wrong field."""
    if not message.inputs:
        raise RequestError("inputs is empty: send at least one tensor")
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise RequestError(
            f"raw_input_contents has {len(raws)} entries for {len(message.inputs)} inputs: send one for each"
        )
    inputs = [_tensor(sent, raws[index] if raws else None) for index, sent in enumerate(message.inputs)]
    reject_duplicates([tensor.name for tensor in inputs], "input")
    names = [output.name for output in message.outputs]
    reject_duplicates(names, "output")
    special = {output.name: from_parameters(output.parameters) for output in message.outputs if output.parameters}
    for name, more in special.items():
        parameters.check_output(name, more)
    common = from_parameters(message.parameters)
    parameters.check_request(common)
    return InferRequest(message.id or None, inputs, names or None, common, special)


def _tensor(sent: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    name, datatype, shape = sent.name, sent.datatype, tuple(sent.shape)
    if datatype not in DTYPES:
        raise unknown_datatype(name, datatype)
    if not 0 < len(shape) <= MAX_DIMENSIONS or min(shape) < 0:
        raise RequestError(f"input {quoted(name)}: {SHAPE_RULE}")
    more = from_parameters(sent.parameters)
    parameters.check_input(name, more)
    fields = [field.name for field, _ in sent.contents.ListFields()]
    if raw is None:
        array = _contents(name, datatype, shape, sent.contents, fields)
    elif fields:
        raise RequestError(f"input {quoted(name)}: send either contents or raw_input_contents, not both")
    else:
        array = binary.from_raw(name, datatype, shape, memoryview(raw))
    return Tensor(name, datatype, missing.applied(name, array, more) if more else array, more)


def _contents(
    name: str, datatype: str, shape: tuple[int, ...], contents: pb.InferTensorContents, fields: list[str]
) -> Array:
    if datatype not in _CONTENTS:
        raise RequestError(f"input {quoted(name)}: send {datatype} in raw_input_contents")
    field, dtype = _CONTENTS[datatype]
    if any(other != field for other in fields):
        raise RequestError(f"input {quoted(name)}: send {datatype} in {field}")
    sent = getattr(contents, field)
    if len(sent) != prod(shape):
        raise RequestError(f"input {quoted(name)}: {field} has {len(sent)} elements, but shape says {list(shape)}")
    if dtype is None:
        return shaped(name, binary.text_array(name, list(sent)), shape)
    wide = np.array(sent, dtype)
    array: Array = wide.astype(DTYPES[datatype], copy=False)
    if array.dtype != wide.dtype and not np.array_equal(array, wide):
        raise RequestError(f"input {quoted(name)}: data holds a number outside the range of {datatype}")
    return shaped(name, array, shape)


def from_parameters(sent: Mapping[str, pb.InferParameter]) -> Parameters:
    """Decode parameters. Raise :class:`RequestError` if one has no value."""
    decoded: dict[str, Parameter] = {}
    for name, parameter in sent.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise RequestError(f"parameter {quoted(name)} has no value")
        decoded[name] = getattr(parameter, choice)
    return decoded


def encode(response: InferResponse, model: str, version: str, *, raw: bool) -> pb.ModelInferResponse:
    """Encode a response with raw bytes or typed contents. If one output is FP16, all are raw."""
    message = pb.ModelInferResponse(
        model_name=model, model_version=version, id=response.id or "", parameters=to_parameters(response.parameters)
    )
    raw = raw or any(tensor.datatype not in _CONTENTS for tensor in response.outputs)
    for tensor in response.outputs:
        sent = message.outputs.add(
            name=tensor.name,
            datatype=tensor.datatype,
            shape=tensor.array.shape,
            parameters=to_parameters(tensor.parameters),
        )
        if raw:
            message.raw_output_contents.append(binary.to_raw(tensor))
        else:
            flat: Iterable[Any] = binary.to_utf8(tensor) if tensor.datatype == "BYTES" else elements(tensor.array)
            getattr(sent.contents, _CONTENTS[tensor.datatype][0]).extend(flat)
    return message


def to_parameters(sent: Parameters) -> dict[str, pb.InferParameter]:
    """Encode parameters as messages."""
    return {name: _parameter(value) for name, value in sent.items()}


def _parameter(value: Parameter) -> pb.InferParameter:
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, str):
        return pb.InferParameter(string_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(uint64_param=value) if value >= 2**63 else pb.InferParameter(int64_param=value)


def describe(metadata: ModelMetadata) -> pb.ModelMetadataResponse:
    """Encode the metadata of a model."""
    return pb.ModelMetadataResponse(
        name=metadata.name,
        versions=metadata.versions,
        platform=metadata.platform,
        inputs=map(_described, metadata.inputs),
        outputs=map(_described, metadata.outputs),
        properties=metadata.properties,
    )


def _described(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
