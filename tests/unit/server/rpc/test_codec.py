"""gRPC messages: decoding, errors with the text of REST, encoding; and the generated code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.proto import generated
from mlmodel_server.errors import RequestError
from mlmodel_server.protocol.binary import to_raw
from mlmodel_server.rpc import codec
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.tensors import DTYPES, InferResponse, ModelMetadata, Tensor, TensorSpec, named
from tests.unit.server.protocol.test_v2 import VALUES

FIELDS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def message(*raws: bytes, shape: Any = (1,), datatype: str = "FP64", **contents: Any) -> Any:
    request = pb.ModelInferRequest(raw_input_contents=raws)
    request.inputs.add(name="x", shape=shape, datatype=datatype, contents=pb.InferTensorContents(**contents))
    return request


def on_the_wire(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def test_the_generated_code_is_up_to_date() -> None:
    for place, text in generated().items():
        assert place.read_text() == text, f"{place.name} is out of date: run make generate"


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", list(DTYPES))
def test_every_datatype_is_decoded_and_encoded_unchanged(datatype: str, raw: bool) -> None:
    sent = Tensor("x", datatype, np.array(VALUES[datatype], DTYPES[datatype]).reshape(2, 3))
    if raw or datatype == "FP16":
        request = message(to_raw(sent), shape=(2, 3), datatype=datatype)
    else:
        values: Any = [value.encode() for value in VALUES["BYTES"]] if datatype == "BYTES" else VALUES[datatype]
        request = message(shape=(2, 3), datatype=datatype, **{FIELDS[datatype]: values})
    (tensor,) = codec.decode(on_the_wire(request)).inputs
    assert tensor.array.dtype == DTYPES[datatype]
    assert tensor.array.tolist() == sent.array.tolist()
    answer = on_the_wire(codec.encode(InferResponse("1", [tensor]), "m", "2", raw=raw))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "1")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", datatype, [2, 3])
    if raw or datatype == "FP16":
        assert list(answer.raw_output_contents) == [to_raw(sent)]
        assert not output.contents.ListFields()
    else:
        assert not answer.raw_output_contents
        assert output.contents == request.inputs[0].contents


def test_all_outputs_are_raw_if_one_must_be() -> None:
    outputs = [named("a", np.array([1.0])), named("b", np.array([1.0], np.float16))]
    answer = codec.encode(InferResponse(None, outputs), "m", "1", raw=False)
    assert len(answer.raw_output_contents) == 2
    assert not answer.outputs[0].contents.ListFields()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.ModelInferRequest(), "inputs is empty"),
        (message(fp32_contents=[1]), "input 'x': send FP64 in fp64_contents"),
        (message(fp64_contents=[1], int_contents=[1]), "input 'x': send FP64 in fp64_contents"),
        (message(datatype="FP16", fp32_contents=[1]), "input 'x': send FP16 in raw_input_contents"),
        (message(datatype="BF16"), "input 'x': datatype 'BF16' is unknown; use one of BOOL"),
        (message(fp64_contents=[1, 2]), "input 'x': fp64_contents has 2 elements, but shape says [1]"),
        (message(), "input 'x': fp64_contents has 0 elements, but shape says [1]"),
        (message(shape=()), "input 'x': shape must be 1 to 8 integers, none below 0"),
        (message(shape=(-1,)), "input 'x': shape must be 1 to 8 integers, none below 0"),
        (message(shape=[1] * 9), "input 'x': shape must be 1 to 8 integers, none below 0"),
        (message(shape=(0, 2**62, 2**62)), "input 'x': shape is too large"),
        (message(datatype="INT8", int_contents=[128]), "input 'x': data holds a number outside the range of INT8"),
        (message(datatype="UINT16", uint_contents=[65536]), "outside the range of UINT16"),
        (message(datatype="BYTES", bytes_contents=[b"\xff"]), "input 'x': BYTES must be text in UTF-8"),
        (message(bytes(8), fp64_contents=[1]), "input 'x': send either contents or raw_input_contents, not both"),
        (message(bytes(8), bytes(8)), "raw_input_contents has 2 entries for 1 inputs: send one for each"),
        (message(bytes(4)), "input 'x': the binary data has 4 bytes, but shape [1] of FP64 takes 8"),
        (message(b"\5", datatype="BOOL"), "input 'x': a BOOL in binary data must be the byte 0 or 1"),
    ],
)
def test_an_invalid_request_is_rejected_with_the_field(request_: Any, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        codec.decode(request_)
    assert words in str(caught.value)
    assert caught.value.status == 400


def test_names_must_be_unique() -> None:
    twice = message(fp64_contents=[1])
    twice.inputs.append(twice.inputs[0])
    with pytest.raises(RequestError, match="input 'x' appears twice"):
        codec.decode(twice)
    selected = message(fp64_contents=[1])
    for _ in range(2):
        selected.outputs.add(name="y")
    with pytest.raises(RequestError, match="output 'y' appears twice"):
        codec.decode(selected)


def test_parameters_of_all_five_types_are_decoded_and_encoded() -> None:
    kinds: dict[str, Any] = {"flag": True, "whole": -(2**53) - 1, "text": "é", "half": 0.5, "large": 2**64 - 1}
    sent = message(fp64_contents=[1])
    for name, parameter in codec.to_parameters(kinds).items():
        for where in (sent.parameters, sent.inputs[0].parameters):
            where[name].CopyFrom(parameter)
    sent.outputs.add(name="y", parameters=codec.to_parameters(kinds))
    request = codec.decode(on_the_wire(sent))
    assert request.outputs == ["y"]
    assert request.parameters == request.inputs[0].parameters == request.output_parameters["y"] == kinds
    answer = codec.encode(InferResponse(None, [Tensor("y", "INT64", np.array([1]), kinds)], kinds), "m", "1", raw=True)
    assert codec.from_parameters(answer.parameters) == codec.from_parameters(answer.outputs[0].parameters) == kinds
    assert type(codec.from_parameters(answer.parameters)["flag"]) is bool


def test_invalid_parameters_are_rejected() -> None:
    empty = message(fp64_contents=[1])
    empty.parameters["a"].SetInParent()
    with pytest.raises(RequestError, match="parameter 'a' has no value"):
        codec.decode(empty)
    selected = message(fp64_contents=[1])
    selected.outputs.add(name="y").parameters["classification"].int64_param = 3
    with pytest.raises(RequestError, match="classification is not supported; request the output predict_proba"):
        codec.decode(selected)


def test_metadata_is_encoded_completely() -> None:
    metadata = ModelMetadata(
        "m",
        ("1",),
        "sklearn_joblib",
        (TensorSpec("x", "FP64", (-1, 4)),),
        (TensorSpec("y", "BYTES", (-1,)),),
        {"a": "b"},
    )
    encoded = on_the_wire(codec.describe(metadata))
    assert (encoded.name, list(encoded.versions), encoded.platform, dict(encoded.properties)) == (
        "m",
        ["1"],
        "sklearn_joblib",
        {"a": "b"},
    )
    assert [(i.name, i.datatype, list(i.shape)) for i in encoded.inputs] == [("x", "FP64", [-1, 4])]
    assert [(o.name, o.datatype, list(o.shape)) for o in encoded.outputs] == [("y", "BYTES", [-1])]


@pytest.mark.attack(held=True)
@given(
    datatype=st.sampled_from([*DTYPES, "", "BF16"]),
    shape=st.lists(st.integers(-1, 3), max_size=3),
    raws=st.lists(st.binary(max_size=20), max_size=2),
    contents=st.fixed_dictionaries({}, optional={"int_contents": st.lists(st.integers(-200, 200), max_size=3),
                                                 "bytes_contents": st.lists(st.binary(max_size=2), max_size=3)}),
)  # fmt: skip
def test_any_message_is_decoded_or_rejected(
    datatype: str, shape: list[int], raws: list[bytes], contents: dict[str, Any]
) -> None:
    try:
        request = codec.decode(message(*raws, shape=shape, datatype=datatype, **contents))
    except RequestError:
        return
    assert request.inputs[0].array.shape == tuple(shape)
    assert request.inputs[0].array.dtype == DTYPES[datatype]


@pytest.mark.parametrize("raw", [True, False])
def test_a_text_is_missing_where_a_parameter_says_so(raw: bool) -> None:
    sent = Tensor("x", "BYTES", np.array(["a", "", "c"], object))
    if raw:
        request = message(to_raw(sent), shape=(3,), datatype="BYTES")
    else:
        request = message(shape=(3,), datatype="BYTES", bytes_contents=[b"a", b"", b"c"])
    request.inputs[0].parameters["missing"].string_param = "1"
    assert codec.decode(on_the_wire(request)).inputs[0].array.tolist() == ["a", None, "c"]
    request.inputs[0].parameters["missing"].string_param = "3"
    with pytest.raises(RequestError, match="input 'x': the parameter missing has the place 3 of 3 elements"):
        codec.decode(on_the_wire(request))
