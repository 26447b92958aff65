"""The v2 wire format: what is accepted, what is refused and with which words, and what goes out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.protocol import v2
from mlmodel_server.protocol.tensors import DTYPES, InferResponse, Tensor

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
def test_every_datatype_arrives_and_leaves_unchanged(datatype: str, nested: bool) -> None:
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
        ({"data": ["1.5"]}, "input 'x': data of datatype FP64: Expected `float`, got `str`"),
        ({"data": [True]}, "Expected `float`, got `bool`"),
        ({"data": [None]}, "Expected `float`, got `null`"),
        ({"datatype": "INT64", "data": [1.5]}, "Expected `int`, got `float`"),
        ({"datatype": "BOOL", "data": [1]}, "Expected `bool`, got `int`"),
        ({"datatype": "BYTES", "data": [1]}, "Expected `str`, got `int`"),
        ({"datatype": "INT8", "data": [128]}, "outside the range of INT8"),
        ({"datatype": "UINT64", "data": [-1]}, "outside the range of UINT64"),
        ({"datatype": "UINT64", "data": [2**64]}, "outside the range of UINT64"),
        ({"datatype": "FP32", "data": [1e300]}, "outside the range of FP32"),
        ({"datatype": "FP16", "data": [65520]}, "outside the range of FP16"),
        ({"datatype": "FP64", "data": [10**400]}, "out of range"),
        ({"datatype": "FP8"}, "datatype 'FP8' is unknown; use one of BOOL, UINT8"),
        ({"shape": [2]}, "data has shape 1, but shape says [2]"),
        ({"shape": [2, 2], "data": [[1, 2], [3]]}, "rows in data differ in length"),
        ({"shape": [4], "data": [[1, 2], [3, 4]]}, "data has shape 2x2, but shape says [4]"),
        ({"shape": []}, "shape must be"),
        ({"shape": [-1]}, "shape must be"),
        ({"shape": [1] * 9}, "shape must be"),
        ({"shape": "1"}, "`$.inputs[0].shape`"),
        ({"data": 1}, "data must be an array"),
        ({"data": {}}, "data must be an array"),
        ({"name": 1}, "`$.inputs[0].name`"),
    ],
)
def test_a_wrong_tensor_is_refused_naming_the_field(tensor: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        v2.decode(body(**tensor))
    assert words in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": []}', "inputs is empty"),
        (b'{"inputs": null}', "Expected `array`, got `null`"),
        (b'{"id": 1, "inputs": []}', "Expected `str | null`, got `int`"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64"}]}', "missing required field `data`"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', "NaN and Infinity"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [-Infinity]}]}', "NaN and Infinity"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1e999]}]}', "out of range"),
        (b'{"parameters": {"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"inputs": [{"name": "x", "data": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_wrong_body_is_refused_with_the_reason(text: bytes, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        v2.decode(text)
    assert words in str(caught.value)


def test_the_answer_echoes_the_id_and_holds_no_null() -> None:
    tensor = Tensor("predict", "INT64", np.array([1]))
    assert json.loads(v2.encode(InferResponse("é-1", [tensor]), "m", "v1"))["id"] == "é-1"
    bare = v2.encode(InferResponse(None, [tensor]), "m", "v1")
    assert b"null" not in bare
    assert "id" not in json.loads(bare)


def test_nan_from_a_model_is_a_failure_and_never_a_null() -> None:
    with pytest.raises(ModelFailure, match="output predict is NaN"):
        v2.encode(InferResponse(None, [Tensor("predict", "FP64", np.array([np.nan]))]), "m", "1")


def test_a_long_name_is_cut_in_the_error() -> None:
    with pytest.raises(RequestError) as caught:
        v2.decode(body(name="n" * 10_000, shape=[2]))
    assert len(str(caught.value)) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    tensor=st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(max_size=5) | json_values,
            "shape": st.lists(st.integers(-1, 4), max_size=4) | json_values,
            "datatype": st.sampled_from(list(DTYPES)) | json_values,
            "data": json_values,
        },
    )
)
def test_whatever_is_sent_is_decoded_or_refused(tensor: dict[str, Any]) -> None:
    try:
        request = v2.decode(json.dumps({"inputs": [tensor]}).encode())
    except RequestError:
        return
    assert request.inputs[0].array.shape == tuple(tensor["shape"])
