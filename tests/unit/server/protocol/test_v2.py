"""The v2 wire format: accepted requests, rejected requests with their errors, and responses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.protocol import v2
from mlmodel_server.tensors import DTYPES, InferResponse, Tensor, named

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # the server silences warnings too

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True, False, True, True],
    "UINT8": [0, 255, 1, 2, 3, 4],
    "UINT16": [0, 65535, 1, 2, 3, 4],
    "UINT32": [0, 2**32 - 1, 1, 2, 3, 4],
    "UINT64": [0, 2**64 - 1, 2**53 + 1, 2, 3, 4],
    "INT8": [-128, 127, 1, 2, 3, 4],
    "INT16": [-(2**15), 2**15 - 1, 1, 2, 3, 4],
    "INT32": [-(2**31), 2**31 - 1, 1, 2, 3, 4],
    "INT64": [-(2**63), 2**63 - 1, 2**53 + 1, 2, 3, 4],
    "FP16": [0.5, -2, 1, 2, 3, 4],
    "FP32": [0.5, -2, 1, 2, 3, 4],
    "FP64": [0.1, 1e300, -1, 2, 3, 4],
    "BYTES": ["", "größe", "雪", "a\nb", '"', "x"],
}


def body(**tensor: Any) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0], **tensor}]}, ensure_ascii=False
    ).encode()


@pytest.mark.parametrize("datatype", list(DTYPES))
@pytest.mark.parametrize("nested", [False, True])
def test_every_datatype_is_decoded_and_encoded_unchanged(datatype: str, nested: bool) -> None:
    flat = VALUES[datatype]
    data = [flat[:3], flat[3:]] if nested else flat
    (tensor,) = v2.decode(body(shape=[2, 3], datatype=datatype, data=data)).inputs
    assert tensor.array.shape == (2, 3)
    assert tensor.array.dtype == DTYPES[datatype]
    sent = json.loads(v2.encode(InferResponse(None, [tensor]), "m", "1"))["outputs"][0]
    assert sent == {"name": "x", "shape": [2, 3], "datatype": datatype, "data": flat}


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"data": ["1.5"]}, "input 'x': data[0] of datatype FP64 must be a number, not text"),
        ({"data": [[1.5], ["2.5"]]}, "input 'x': data[1][0] of datatype FP64 must be a number, not text"),
        ({"data": [{}]}, "must be a number, not an object"),
        ({"data": [True]}, "must be a number, not a boolean"),
        ({"data": [None, "x"]}, "input 'x': data[1] of datatype FP64 must be a number, not text"),
        ({"datatype": "INT64", "data": [1.5]}, "input 'x': data of the datatype INT64 must be integers"),
        ({"datatype": "INT64", "data": [None, True]}, "data[1] of datatype INT64 must be an integer, not a boolean"),
        ({"datatype": "INT8", "shape": [2], "data": [None, 300]}, "outside the range of INT8"),
        ({"datatype": "INT64", "shape": [2, 2], "data": [[1, None], [2]]}, "rows in data differ in length"),
        ({"datatype": "BYTES", "shape": [2], "data": [None, ["a"]]}, "rows in data differ in length"),
        ({"datatype": "FP32", "shape": [2], "data": [None, 1e300]}, "outside the range of FP32"),
        ({"datatype": "BOOL", "data": [1]}, "must be true or false, not an integer"),
        ({"datatype": "BYTES", "data": [1]}, "must be text, not an integer"),
        ({"datatype": "INT8", "data": [128]}, "outside the range of INT8"),
        ({"datatype": "UINT64", "data": [-1]}, "outside the range of UINT64"),
        ({"datatype": "UINT64", "data": [2**64]}, "outside the range of UINT64"),
        ({"datatype": "FP32", "data": [1e300]}, "outside the range of FP32"),
        ({"datatype": "FP16", "data": [65520]}, "outside the range of FP16"),
        ({"datatype": "FP64", "data": [10**400]}, "out of range"),
        ({"datatype": "FP8"}, "datatype 'FP8' is unknown; use one of BOOL, UINT8"),
        ({"datatype": "BF16"}, "datatype 'BF16' is unknown; use one of"),
        ({"datatype": 1}, "input 'x': datatype must be text"),
        ({"shape": [2]}, "data has shape 1, but shape says [2]"),
        ({"shape": [2, 2], "data": [[1, 2], [3]]}, "rows in data differ in length"),
        ({"shape": [2, 2], "data": [[1, 2], 3]}, "rows in data differ in length"),
        ({"shape": [2], "datatype": "BYTES", "data": [["a"], ["b", "c"]]}, "rows in data differ in length"),
        ({"shape": [2], "datatype": "BYTES", "data": ["a", ["b"]]}, "rows in data differ in length"),
        ({"shape": [4], "data": [[1, 2], [3, 4]]}, "data has shape 2x2, but shape says [4]"),
        ({"shape": [0, 2**63], "data": []}, "shape is too large"),
        ({"shape": [0, 2**80], "data": []}, "shape is too large"),
        ({"shape": [2**40, 0, 2**40], "data": []}, "shape is too large"),
        ({"shape": [2**80], "data": []}, "data has shape 0, but shape says"),
        ({"shape": [1.0]}, "input 'x': shape[0] must be an integer, not a floating-point number; shape must be 1 to 8"),
        ({"shape": []}, "shape must be"),
        ({"shape": [-1]}, "shape must be"),
        ({"shape": [1] * 9}, "shape must be"),
        ({"shape": "1"}, "input 'x': shape must be an array, not text; shape must be 1 to 8 integers"),
        ({"data": 1}, "input 'x': data must be an array, not an integer"),
        ({"data": {}}, "input 'x': data must be an array, not an object"),
        ({"data": None}, "input 'x': data must be an array, not null"),
        ({"shape": [1] * 8, "data": eval("[" * 9 + "1" + "]" * 9)}, "must be a number, not an array"),
        ({"name": 1}, "not a v2 request: inputs[0].name must be text, not an integer"),
        ({"parameters": {"a": {}}}, "input 'x': parameters[...] must be a boolean, a number or text, not an object"),
        ({"parameters": {"shared_memory_region": "a"}}, "the parameter shared_memory_region is not supported"),
    ],
)
def test_a_wrong_tensor_is_rejected_naming_the_field(tensor: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        v2.decode(body(**tensor))
    assert words in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"inputs": [{"datatype": "FP64", "name": "x\xee", "shape": [1], "data": [1]}]}', "not in UTF-8"),
        (
            b'{"inputs": [{"datatype": "FP64", "name": 1, "shape": [1], "data": [1]}], "id": "\xee"}',
            "inputs[0].name must be text, not an integer",
        ),
        (b"{", "not JSON"),
        (b"[]", "not a v2 request: the body must be an object, not an array"),
        (b"{}", "not a v2 request: inputs is missing"),
        (b'{"inputs": []}', "inputs is empty"),
        (b'{"inputs": null}', "not a v2 request: inputs must be an array, not null"),
        (b'{"id": 1, "inputs": []}', "not a v2 request: id must be text or null, not an integer"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64"}]}', "data is missing"),
        (
            b'{"inputs": [{"name": "x", "shape": [1], "data": [1]}]}',
            "input 'x': datatype is missing",
        ),
        (b'{"inputs": [{"shape": [1], "datatype": "FP64", "data": [1]}]}', "inputs[0].name is missing"),
        (b'{"inputs": [1]}', "not a v2 request: inputs[0] must be an object, not an integer"),
        (
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}, null]}',
            "inputs[1] must be an object, not null",
        ),
        (b'{"parameters": 1, "inputs": []}', "parameters must be an object or null, not an integer"),
        (
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": ["a"]}], ]',
            "inputs[0].data[0] must be a number, an array or null, not text",
        ),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', "NaN and Infinity"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [-Infinity]}]}', "NaN and Infinity"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1e999]}]}', "out of range"),
        (b'{"unknown": {"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"inputs": [{"name": "x", "data": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_wrong_body_is_rejected_with_the_reason(text: bytes, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        v2.decode(text)
    assert words in str(caught.value)


def request(**more: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}], **more}).encode()


@pytest.mark.parametrize(
    ("datatype", "data", "expected", "dtype"),
    [
        ("FP64", [1, None, 2.5], [1.0, np.nan, 2.5], np.float64),
        ("FP32", [[1.5], [None]], [[1.5], [np.nan]], np.float32),
        ("INT64", [30.0, 2**60 + 1], [30, 2**60 + 1], np.int64),
        ("INT64", [30.0, None, 2**60 + 1], [30, None, 2**60 + 1], object),
        ("UINT8", [[1, None], [255, 0.0]], [[1, None], [255, 0]], object),
        ("BOOL", [True, None], [True, None], object),
        ("BYTES", ["a", None], ["a", None], object),
    ],
)
def test_null_is_a_missing_element(datatype: str, data: list[Any], expected: list[Any], dtype: Any) -> None:
    shape = list(np.array(data, object).shape)
    for sent in (data, np.array(data, object).ravel().tolist()):
        (tensor,) = v2.decode(body(datatype=datatype, shape=shape, data=sent)).inputs
        assert tensor.array.dtype == dtype
        np.testing.assert_array_equal(tensor.array, np.array(expected, dtype))


def test_optional_fields_may_be_absent_or_null() -> None:
    decoded = v2.decode(request(id=None, parameters=None, outputs=None))
    assert (decoded.id, decoded.outputs, dict(decoded.parameters)) == (None, None, {})
    assert v2.decode(request(outputs=[])).outputs is None


def test_parameters_stay_with_their_request_input_or_output() -> None:
    more = {"text": "é", "whole": 2**53 + 1, "half": 0.5, "flag": False}
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1], "parameters": more}
    outputs = [{"name": "a", "parameters": more}, {"name": "b"}]
    decoded = v2.decode(json.dumps({"inputs": [tensor], "outputs": outputs, "parameters": more}).encode())
    assert decoded.outputs == ["a", "b"]
    assert dict(decoded.parameters) == dict(decoded.inputs[0].parameters) == decoded.output_parameters["a"] == more
    assert "b" not in decoded.output_parameters


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"outputs": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "output 'a' appears twice"),
        ({"outputs": [{}]}, r"outputs\[0\].name is missing"),
        ({"outputs": [{"name": "a", "parameters": {"classification": 3}}]}, "classification is not supported; request"),
        (
            {"outputs": [{"name": "a", "parameters": {"binary_data": 1}}]},
            "output 'a': the parameter binary_data must be",
        ),
        ({"parameters": {"binary_data_output": "yes"}}, "the parameter binary_data_output must be true or false"),
    ],
)
def test_outputs_and_parameters_must_be_valid(more: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        v2.decode(request(**more))


def test_an_input_may_appear_only_once() -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}
    with pytest.raises(RequestError, match="input 'x' appears twice"):
        v2.decode(json.dumps({"inputs": [tensor, {**tensor, "name": "y"}, tensor]}).encode())


def test_the_datatype_may_come_after_the_data() -> None:
    (tensor,) = v2.decode(b'{"inputs": [{"data": [[1, 2]], "datatype": "INT8", "shape": [1, 2], "name": "x"}]}').inputs
    assert tensor.array.tolist() == [[1, 2]]
    assert tensor.array.dtype == np.int8


def test_the_response_repeats_the_id_and_has_no_null() -> None:
    tensor = Tensor("predict", "INT64", np.array([1]))
    assert json.loads(v2.encode(InferResponse("é-1", [tensor]), "m", "v1"))["id"] == "é-1"
    bare = v2.encode(InferResponse(None, [tensor]), "m", "v1")
    assert b"null" not in bare
    assert json.loads(bare).keys() == {"model_name", "model_version", "outputs"}
    assert "model_version" not in json.loads(v2.encode(InferResponse(None, [tensor]), "m", ""))


def test_the_response_has_parameters_only_where_they_are_set() -> None:
    tensor = Tensor("predict", "INT64", np.array([1]), {"unit": "m"})
    sent = json.loads(v2.encode(InferResponse(None, [tensor], {"prediction_id": "p", "rows": 1}), "m", "v1"))
    assert sent["parameters"] == {"prediction_id": "p", "rows": 1}
    assert sent["outputs"][0]["parameters"] == {"unit": "m"}


@pytest.mark.parametrize(
    ("array", "datatype", "data"),
    [
        (np.array(["a", "b"]), "BYTES", ["a", "b"]),
        (np.array([b"a", b"b"]), "BYTES", ["a", "b"]),
        (np.array([1, None], dtype=object), "BYTES", ["1", "None"]),
        (np.array([[1.5], [2.5]], dtype=">f4"), "FP32", [1.5, 2.5]),
        (np.array([[1, 2], [3, 4]], order="F"), "INT64", [1, 2, 3, 4]),
        (np.array([1.5], dtype=np.longdouble), "BYTES", ["1.5"]),
    ],
)
def test_any_array_of_a_model_is_encoded(array: Any, datatype: str, data: list[Any]) -> None:
    sent = v2.tensor_json(named("y", array))
    assert (sent["datatype"], sent["shape"], sent["data"]) == (datatype, list(array.shape), data)
    assert json.loads(v2.encode(InferResponse(None, [named("y", array)]), "m", "1"))["outputs"] == [sent]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_infinity_is_detected_in_small_and_large_outputs(datatype: str, size: int) -> None:
    array = np.ones(size, DTYPES[datatype])
    v2.encode(InferResponse(None, [Tensor("y", datatype, array)]), "m", "1")
    array[-1] = np.inf
    with pytest.raises(ModelFailure):
        v2.encode(InferResponse(None, [Tensor("y", datatype, array)]), "m", "1")


def test_nan_of_a_model_is_a_failure_and_never_null() -> None:
    with pytest.raises(ModelFailure, match="output predict has NaN"):
        v2.encode(InferResponse(None, [Tensor("predict", "FP64", np.array([np.nan]))]), "m", "1")


def test_an_error_cuts_a_long_name() -> None:
    with pytest.raises(RequestError) as caught:
        v2.decode(body(name="n" * 10_000, shape=[2]))
    assert len(str(caught.value)) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.attack(held=True)
@given(
    tensor=st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(max_size=5) | json_values,
            "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=4) | json_values,
            "datatype": st.sampled_from(list(DTYPES)) | json_values,
            "data": json_values,
        },
    )
)
def test_any_json_is_decoded_or_rejected(tensor: dict[str, Any]) -> None:
    try:
        request = v2.decode(json.dumps({"inputs": [tensor]}).encode())
    except RequestError:
        return
    assert request.inputs[0].array.shape == tuple(tensor["shape"])
