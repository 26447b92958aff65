"""Invalid requests: a 4xx in the form of the protocol. Our server also names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.target import Target, flat, nested

pytestmark = pytest.mark.section("inference_rest.md, Inference Response JSON Error Object")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"{}",
        b'{"inputs": 1}',
        b'{"inputs": [1]}',
        b'{"inputs": {}}',
    ],
)
def test_malformed(target: Target, body: bytes) -> None:
    """A body that is not a request is rejected."""
    target.rejected(target.infer(body))


@pytest.mark.attack(held=True)
def test_deep_nesting(target: Target) -> None:
    """A body that is nested too deeply is rejected."""
    for start in (b'{"inputs": ', b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": ', b'{"a": '):
        target.rejected(target.infer(start + b"[" * 100_000))


def test_no_inputs(target: Target) -> None:
    """A request has inputs."""
    target.rejected(target.infer({"inputs": []}), "inputs")
    target.rejected(target.infer({"id": "1"}), "inputs")


@pytest.mark.parametrize("field", ["name", "shape", "datatype", "data"])
def test_missing_field(target: Target, field: str) -> None:
    """Every input has a name, a shape, a datatype and data."""
    target.rejected(target.infer(target.with_input(**{field: None})), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("shape", "1"),
        ("shape", 1),
        ("shape", ["1"]),
        ("shape", [1.5]),
        ("shape", []),
        ("shape", [-1]),
        ("datatype", 1),
        ("data", 1),
        ("data", "1"),
        ("data", {"a": 1}),
        ("parameters", 1),
    ],
)
def test_wrong_type_of_a_field(target: Target, field: str, value: Any) -> None:
    """A field of the wrong type is rejected."""
    target.rejected(target.infer(target.with_input(**{field: value})), field)


@pytest.mark.parametrize("datatype", ["", "FP8", "BF16", "fp32", "STRING", "float64"])
def test_unknown_datatype(target: Target, datatype: str) -> None:
    """A datatype is one of the thirteen, in capitals."""
    target.rejected(target.infer(target.with_input(datatype=datatype)), target.sample["inputs"][0]["name"], "datatype")


def test_shape_and_data_differ(target: Target) -> None:
    """Data has as many elements as its shape."""
    tensor = target.sample["inputs"][0]
    name, data, shape = tensor["name"], flat(tensor["data"]), tensor["shape"]
    for wrong in (data[:-1], [*data, data[0]], []):
        target.rejected(target.infer(target.with_input(data=wrong)), name, "data", "shape")
    target.rejected(target.infer(target.with_input(shape=[2 * shape[0], *shape[1:]])), name, "shape")
    target.rejected(target.infer(target.with_input(shape=[2**62, *shape[1:]])), name, "shape")


@pytest.mark.house
def test_nesting_and_shape_differ(target: Target) -> None:
    """Nested data is nested like its shape, with rows of equal length."""
    tensor = target.sample["inputs"][0]
    name, data, shape = tensor["name"], flat(tensor["data"]), tensor["shape"]
    twice = {"shape": [2, *shape[1:]]}
    target.rejected(target.infer(target.with_input(data=[nested(data, shape)])), name)
    target.rejected(
        target.infer(target.with_input(data=[[data[0]], [data[0], data[0]]], **twice)), name, "differ in length"
    )
    target.rejected(target.infer(target.with_input(data=[data[0], [data[0]]], **twice)), name, "differ in length")
    target.rejected(target.infer(target.with_input(shape=[1] * 9, data=[1])), name, "shape")


def test_zero_size(target: Target) -> None:
    """A server parses a tensor without elements; the model may reject it."""
    request = target.request()
    for tensor in request["inputs"]:
        tensor.update(shape=[0, *tensor["shape"][1:]], data=[])
    answer = target.infer(request)
    if answer.status == 200:
        target.outputs(answer)
    else:
        target.rejected(answer, "at least one row")


@pytest.mark.attack(held=True)
def test_zero_size_with_a_huge_dimension(target: Target) -> None:
    """A dimension that is too large is rejected, even beside a dimension of 0."""
    target.rejected(target.infer(target.with_input(shape=[0, 2**62, 2**62], data=[])), "shape")


def test_unknown_output(target: Target) -> None:
    """An unknown output is rejected."""
    target.rejected(target.infer(target.request(outputs=[{"name": "no-such-output"}])), "no-such-output")


def test_wrong_outputs(target: Target) -> None:
    """Outputs are objects with a name."""
    wrong: list[Any] = [[{}], [1], {"name": "x"}, [{"name": 1}]]
    for outputs in wrong:
        target.rejected(target.infer(target.request(outputs=outputs)), "outputs")


def test_unknown_input(target: Target) -> None:
    """An unknown input is rejected."""
    if len(target.metadata["inputs"]) < 2:
        pytest.skip("the name of a single input may not matter")
    target.rejected(target.infer(target.with_input(name="no-such-input")), "no-such-input")


def test_missing_input(target: Target) -> None:
    """A request without an input of the model is rejected."""
    if len(target.metadata["inputs"]) < 2:
        pytest.skip("the model has a single input")
    request = target.request()
    removed = request["inputs"].pop()
    target.rejected(target.infer(request), removed["name"], "missing")


@pytest.mark.house
def test_names_are_unique(target: Target) -> None:
    """Two inputs, or two outputs, with the same name are rejected."""
    inputs = target.sample["inputs"]
    target.rejected(target.infer({"inputs": [*inputs, inputs[0]]}), inputs[0]["name"], "twice")
    output = {"name": target.output_names[0]}
    target.rejected(target.infer(target.request(outputs=[output, output])), output["name"], "twice")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_not_a_number(target: Target, text: str) -> None:
    """JSON has neither NaN nor infinity."""
    tensor = target.with_input(datatype="FP64", data=["MARK"] * len(flat(target.sample["inputs"][0]["data"])))
    body = json.dumps(tensor).replace('"MARK"', text).encode()
    target.rejected(target.infer(body), "out of range" if text == "1e999" else "NaN and Infinity are not JSON")


@pytest.mark.house
def test_null_is_a_missing_element(target: Target) -> None:
    """null is a missing element: the model answers, or the server rejects the request and names the input."""
    first = target.sample["inputs"][0]
    answer = target.infer(target.with_input(data=[None] * len(flat(first["data"]))))
    if answer.status != 200:
        target.rejected(answer, first["name"], "missing")


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("BOOL", 1), ("BOOL", "true"), ("INT64", "1"), ("INT64", 1.5), ("INT64", True), ("FP64", "1.5"),
        ("FP64", False), ("BYTES", 1), ("BYTES", True), ("FP32", {}), ("INT8", []),
    ],
)  # fmt: skip
@pytest.mark.house
def test_elements_are_not_coerced(target: Target, datatype: str, value: Any) -> None:
    """An element of another type than its datatype is rejected, never converted."""
    first = target.sample["inputs"][0]
    answer = target.infer(target.with_input(datatype=datatype, data=[value] * len(flat(first["data"]))))
    target.rejected(answer, first["name"], datatype if value != [] else "")


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128), ("INT8", -129), ("UINT8", 256), ("UINT8", -1), ("INT16", 2**15), ("UINT16", 2**16),
        ("INT32", 2**31), ("UINT32", 2**32), ("INT64", 2**63), ("INT64", -(2**63) - 1), ("UINT64", 2**64),
        ("UINT64", -1), ("FP16", 65520), ("FP32", 1e39),
    ],
)  # fmt: skip
@pytest.mark.house
def test_numbers_out_of_range(target: Target, datatype: str, value: Any) -> None:
    """A number outside the range of its datatype is rejected, never wrapped or rounded to infinity."""
    first = target.sample["inputs"][0]
    answer = target.infer(target.with_input(datatype=datatype, data=[value] * len(flat(first["data"]))))
    target.rejected(answer, first["name"], f"outside the range of {datatype}")


@pytest.mark.house
def test_integers_beyond_2_to_53_are_exact(target: Target) -> None:
    """The largest number of each integer type is accepted; the next one is rejected."""
    count = len(flat(target.sample["inputs"][0]["data"]))
    for datatype, largest in (("INT64", 2**63 - 1), ("UINT64", 2**64 - 1)):
        within = target.infer(target.with_input(datatype=datatype, data=[largest] * count))
        assert within.status == 200 or "range" not in within.json["error"], f"{datatype} can hold {largest}: {within}"
        beyond = target.infer(target.with_input(datatype=datatype, data=[largest + 1] * count))
        target.rejected(beyond, f"outside the range of {datatype}")


@pytest.mark.house
def test_wrong_content_type(target: Target) -> None:
    """A body with another content type than JSON is rejected."""
    answer = target.infer(target.sample, Content_Type="text/plain")
    target.rejected(answer, "Content-Type", status=415)


@pytest.mark.attack(held=True)
@pytest.mark.house
def test_too_long(target: Target) -> None:
    """A body beyond the limit is rejected before it is read."""
    answer = target.send(
        "POST", f"{target.base}/infer", None, Content_Length=str(1 << 40), Content_Type="application/json"
    )
    target.rejected(answer, "limit", status=413)


@pytest.mark.attack(held=True)
@pytest.mark.house
def test_errors_hold_no_payload(target: Target) -> None:
    """An error has no value of the request."""
    count = len(flat(target.sample["inputs"][0]["data"]))
    for datatype, secret in (("FP64", "s3cr3t-value"), ("INT8", 31337), ("BYTES", 31337.5)):
        answer = target.infer(target.with_input(datatype=datatype, data=[secret] * count))
        target.rejected(answer)
        assert str(secret) not in answer.json["error"]
