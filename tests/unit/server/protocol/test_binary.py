"""Binary tensors in requests and responses, and bodies that contradict themselves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_server.errors import RequestError
from mlmodel_server.protocol import v2
from mlmodel_server.protocol.binary import to_raw
from mlmodel_server.tensors import DTYPES, InferResponse, Tensor, elements, named
from tests.unit.server.protocol.test_v2 import VALUES


def split(body: bytes, length: int | None) -> tuple[dict[str, Any], bytes]:
    assert length is not None
    return json.loads(body[:length]), body[length:]


def announced(raw: bytes, shape: list[int], datatype: str, name: str = "x", **parameters: Any) -> dict[str, Any]:
    size = {"binary_data_size": len(raw)}
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {**size, **parameters}}


def decode(inputs: list[dict[str, Any]], tail: bytes, **more: Any) -> list[Tensor]:
    head = json.dumps({"inputs": inputs, **more}).encode()
    return v2.decode(head + tail, len(head)).inputs


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_every_datatype_is_decoded_and_encoded_unchanged(datatype: str) -> None:
    sent = Tensor("x", datatype, np.array(VALUES[datatype], DTYPES[datatype]).reshape(2, 3))
    raw = to_raw(sent)
    head = json.dumps({"inputs": [announced(raw, [2, 3], datatype)], "parameters": {"binary_data_output": True}})
    request = v2.decode(head.encode() + raw, len(head))
    (tensor,) = request.inputs
    assert tensor.array.dtype == DTYPES[datatype]
    assert tensor.array.tolist() == sent.array.tolist()
    answer, tail = split(*v2.answer(request, InferResponse("1", [tensor]), "m", "1"))
    assert tail == raw
    assert answer["id"] == "1"
    assert answer["outputs"] == [announced(raw, [2, 3], datatype)]


def test_the_layout_is_that_of_the_specification() -> None:
    """Little-endian numbers, one byte for a boolean, four bytes of length before each text."""
    assert to_raw(Tensor("x", "UINT16", np.array([[1, 2], [3, 256]], np.uint16))) == b"\1\0\2\0\3\0\0\1"
    assert to_raw(Tensor("x", "UINT16", np.array([1, 256], ">u2"))) == b"\1\0\0\1"
    assert to_raw(Tensor("x", "INT8", np.array([[1, 2], [3, 4]], np.int8, order="F"))) == b"\1\2\3\4"
    assert to_raw(Tensor("x", "BOOL", np.array([True, False]))) == b"\1\0"
    assert to_raw(Tensor("x", "BYTES", np.array(["é", ""], object))) == b"\2\0\0\0\xc3\xa9\0\0\0\0"
    assert to_raw(Tensor("x", "FP32", np.array([1.0], np.float32))) == b"\0\0\x80\x3f"


def test_a_binary_output_keeps_its_parameters() -> None:
    request = v2.decode(b'{"parameters": {"binary_data_output": true}, "inputs": [%s]}' % ONE)
    answer, _ = split(
        *v2.answer(request, InferResponse(None, [Tensor("y", "BOOL", np.array([True]), {"a": 1})]), "m", "1")
    )
    assert answer["outputs"][0]["parameters"] == {"a": 1, "binary_data_size": 1}


def test_numbers_are_not_copied() -> None:
    raw = np.arange(30_000, dtype=np.float32).tobytes()
    head = json.dumps({"inputs": [announced(raw, [1000, 30], "FP32")]}).encode()
    body = head + raw
    (tensor,) = v2.decode(body, len(head)).inputs
    assert np.shares_memory(tensor.array, np.frombuffer(body, np.uint8))


def test_nan_and_infinity_can_be_binary_data() -> None:
    array = np.array([np.nan, -np.inf])
    (tensor,) = decode([announced(array.tobytes(), [2], "FP64")], array.tobytes())
    np.testing.assert_array_equal(tensor.array, array)
    request = v2.decode(b'{"parameters": {"binary_data_output": true}, "inputs": [%s]}' % ONE)
    _, tail = split(*v2.answer(request, InferResponse(None, [tensor]), "m", "1"))
    assert tail == array.tobytes()


ONE = b'{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}'


def test_json_and_binary_inputs_may_be_mixed() -> None:
    first, last = np.array([1.5]).tobytes(), b"\1\0\0\0a"
    inputs = [announced(first, [1], "FP64", "a"), json.loads(ONE), announced(last, [1], "BYTES", "b")]
    tensors = decode(inputs, first + last)
    assert [(tensor.name, tensor.array.tolist()) for tensor in tensors] == [("a", [1.5]), ("x", [1.0]), ("b", ["a"])]


@pytest.mark.parametrize(
    ("everywhere", "own", "binary"),
    [
        (None, {"a": None, "b": None}, []),
        (True, {"a": None, "b": None}, ["a", "b"]),
        (True, {"a": False, "b": None}, ["b"]),
        (False, {"a": True, "b": None}, ["a"]),
        (None, {"b": True, "a": None}, ["b"]),
    ],
)
def test_an_output_is_binary_when_the_request_selects_it_or_all(
    everywhere: bool | None, own: dict[str, bool | None], binary: list[str]
) -> None:
    outputs = [
        {"name": name, **({} if flag is None else {"parameters": {"binary_data": flag}})} for name, flag in own.items()
    ]
    more = {} if everywhere is None else {"parameters": {"binary_data_output": everywhere}}
    request = v2.decode(json.dumps({"inputs": [json.loads(ONE)], "outputs": outputs, **more}).encode())
    response = InferResponse(None, [named("a", np.array([1])), named("b", np.array(["x"]))])
    body, length = v2.answer(request, response, "m", "1")
    raws = {"a": b"\1" + bytes(7), "b": b"\1\0\0\0x"}
    if not binary:
        assert (body, length) == (v2.encode(response, "m", "1"), None)
        return
    answer, tail = split(body, length)
    assert tail == b"".join(raws[name] for name in ("a", "b") if name in binary)
    for output in answer["outputs"]:
        assert ("data" in output) == (output["name"] not in binary)
        assert output.get("parameters") == (
            {"binary_data_size": len(raws[output["name"]])} if "data" not in output else None
        )


FP32 = np.array([1, 2], np.float32).tobytes()
TEXTS = b"\1\0\0\0a\1\0\0\0b"


@pytest.mark.parametrize(
    ("tensor", "tail", "words"),
    [
        (announced(FP32, [3], "FP32"), FP32, "input 'x': the binary data has 8 bytes, but shape [3] of FP32 takes 12"),
        (announced(FP32, [2], "FP64"), FP32, "has 8 bytes, but shape [2] of FP64 takes 16"),
        (announced(FP32, [0, 2**63], "FP32"), FP32, "has 8 bytes, but shape [0, 9223372036854775808] of FP32 takes 0"),
        (announced(b"", [0, 2**63], "FP32"), b"", "input 'x': shape is too large"),
        (announced(FP32, [2], "FP32"), FP32[:-1], "input 'x': binary_data_size is 8, but only 7 bytes are left"),
        (announced(FP32, [2], "FP32"), FP32 + b"\0", "1 bytes of binary data belong to no input"),
        (announced(FP32, [2], "FP32", binary_data_size=-1), FP32, "input 'x': the parameter binary_data_size must be"),
        (announced(FP32, [2], "FP32", binary_data_size="8"), FP32, "the parameter binary_data_size must be"),
        (announced(FP32, [2], "FP32", binary_data_size=8.0), FP32, "the parameter binary_data_size must be"),
        (announced(FP32, [2], "FP32", binary_data_size=True), FP32, "the parameter binary_data_size must be"),
        ({**announced(FP32, [2], "FP32"), "data": [1, 2]}, FP32, "input 'x': send either data or binary_data_size"),
        ({"name": "x", "shape": [2], "datatype": "FP32"}, FP32, "input 'x': data is missing"),
        ({**json.loads(ONE)}, FP32, "8 bytes of binary data belong to no input"),
        (announced(FP32, [2], "BF16"), FP32, "datatype 'BF16' is unknown; use one of"),
        (announced(b"\2", [1], "BOOL"), b"\2", "input 'x': a BOOL in binary data must be the byte 0 or 1"),
        (announced(TEXTS, [3], "BYTES"), TEXTS, "input 'x': the binary data must be 3 elements"),
        (announced(TEXTS, [1], "BYTES"), TEXTS, "input 'x': the binary data must be 1 elements"),
        (announced(TEXTS[:-1], [2], "BYTES"), TEXTS[:-1], "input 'x': the binary data must be 2 elements"),
        (announced(TEXTS[:7], [2], "BYTES"), TEXTS[:7], "input 'x': the binary data must be 2 elements"),
        (announced(b"\xff" * 8, [1], "BYTES"), b"\xff" * 8, "input 'x': the binary data must be 1 elements"),
        (announced(b"\1\0\0\0\xff", [1], "BYTES"), b"\1\0\0\0\xff", "input 'x': BYTES must be text in UTF-8"),
    ],
)  # fmt: skip
def test_a_body_that_contradicts_itself_is_rejected_naming_the_tensor(
    tensor: dict[str, Any], tail: bytes, words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        decode([tensor], tail)
    assert words in str(caught.value)
    assert caught.value.status == 400


def test_the_header_is_required_and_must_fit() -> None:
    tensor = {"inputs": [announced(FP32, [2], "FP32")]}
    with pytest.raises(RequestError, match="requires the header Inference-Header-Content-Length"):
        v2.decode(json.dumps(tensor).encode())
    with pytest.raises(RequestError, match="Inference-Header-Content-Length is 9, but the body has 2 bytes"):
        v2.decode(b"{}", 9)
    with pytest.raises(RequestError, match="not JSON"):
        v2.decode(json.dumps(tensor).encode() + FP32, 5)


@pytest.mark.attack(held=True)
@given(
    datatype=st.sampled_from(list(DTYPES)),
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    tail=st.binary(max_size=40),
    size=st.integers(-1, 41),
    length=st.integers(-3, 3),
)
def test_any_bytes_after_the_json_are_decoded_or_rejected(
    datatype: str, shape: list[int], tail: bytes, size: int, length: int
) -> None:
    head = json.dumps({"inputs": [announced(b"", shape, datatype, binary_data_size=size)]}).encode()
    try:
        (tensor,) = v2.decode(head + tail, len(head) + length).inputs
    except RequestError:
        return
    assert tensor.array.shape == tuple(shape)
    assert to_raw(tensor) == tail


@pytest.mark.parametrize("datatype", list(DTYPES))
@pytest.mark.parametrize(
    ("value", "places"), [("0", [0]), (5, [5]), ("0,2,5,2", [0, 2, 5]), ("5,4,3,2,1,0", list(range(6)))]
)
def test_a_parameter_lists_the_missing_elements_as_null_does_in_json(
    datatype: str, value: Any, places: list[int]
) -> None:
    sent = Tensor("x", datatype, np.array(VALUES[datatype], DTYPES[datatype]).reshape(2, 3))
    raw = to_raw(sent)
    (binary,) = decode([announced(raw, [2, 3], datatype, missing=value)], raw)
    flat = [None if place in places else element for place, element in enumerate(elements(sent.array))]
    (plain,) = v2.decode(
        json.dumps({"inputs": [{"name": "x", "shape": [2, 3], "datatype": datatype, "data": flat}]}).encode()
    ).inputs
    assert binary.array.shape == (2, 3)
    assert binary.array.dtype == plain.array.dtype
    np.testing.assert_array_equal(binary.array, plain.array)
    data = {"name": "x", "shape": [2, 3], "datatype": datatype, "data": elements(sent.array)}
    (listed,) = v2.decode(json.dumps({"inputs": [{**data, "parameters": {"missing": value}}]}).encode()).inputs
    np.testing.assert_array_equal(listed.array, plain.array)


@pytest.mark.parametrize("value", ["", "a", "-1", "1,", "1, 2", "1.5", 1.5, True, "2", 2, "9" * 13, "0,2", "0,0,1"])
def test_places_that_a_tensor_does_not_have_are_rejected(value: Any) -> None:
    with pytest.raises(RequestError, match="input 'x': the parameter missing"):
        decode([announced(TEXTS, [2], "BYTES", missing=value)], TEXTS)
