"""Requests that are wrong: an error of the 400s, in the protocol's form. Ours names the field, too."""

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
    """A body that is no request is refused."""
    target.refused(target.infer(body))


def test_deep_nesting(target: Target) -> None:
    """A body that is nested without end is refused."""
    for start in (b'{"inputs": ', b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": ', b'{"a": '):
        target.refused(target.infer(start + b"[" * 100_000))


def test_no_inputs(target: Target) -> None:
    """A request has inputs."""
    target.refused(target.infer({"inputs": []}), "inputs")
    target.refused(target.infer({"id": "1"}), "inputs")


@pytest.mark.parametrize("field", ["name", "shape", "datatype", "data"])
def test_missing_field(target: Target, field: str) -> None:
    """Every input has a name, a shape, a datatype and data."""
    target.refused(target.infer(target.with_input(**{field: None})), field)


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
    """Every field has its type."""
    target.refused(target.infer(target.with_input(**{field: value})), field)


@pytest.mark.parametrize("datatype", ["", "FP8", "BF16", "fp32", "STRING", "float64"])
def test_unknown_datatype(target: Target, datatype: str) -> None:
    """A datatype is one of the thirteen, in capitals."""
    target.refused(target.infer(target.with_input(datatype=datatype)), target.sample["inputs"][0]["name"], "datatype")


def test_shape_and_data_differ(target: Target) -> None:
    """Data has as many elements as the shape says."""
    tensor = target.sample["inputs"][0]
    name, data, shape = tensor["name"], flat(tensor["data"]), tensor["shape"]
    for wrong in (data[:-1], [*data, data[0]], []):
        target.refused(target.infer(target.with_input(data=wrong)), name, "data", "shape")
    target.refused(target.infer(target.with_input(shape=[2 * shape[0], *shape[1:]])), name, "shape")
    target.refused(target.infer(target.with_input(shape=[2**62, *shape[1:]])), name, "shape")


@pytest.mark.house
def test_nesting_and_shape_differ(target: Target) -> None:
    """Nested data is nested as the shape says, and all rows are of one length."""
    tensor = target.sample["inputs"][0]
    name, data, shape = tensor["name"], flat(tensor["data"]), tensor["shape"]
    twice = {"shape": [2, *shape[1:]]}
    target.refused(target.infer(target.with_input(data=[nested(data, shape)])), name)
    target.refused(
        target.infer(target.with_input(data=[[data[0]], [data[0], data[0]]], **twice)), name, "differ in length"
    )
    target.refused(target.infer(target.with_input(data=[data[0], [data[0]]], **twice)), name, "differ in length")
    target.refused(target.infer(target.with_input(shape=[1] * 9, data=[1])), name, "shape")


def test_zero_size(target: Target) -> None:
    """A tensor without elements is read; a model may refuse to predict no rows."""
    request = target.request()
    for tensor in request["inputs"]:
        tensor.update(shape=[0, *tensor["shape"][1:]], data=[])
    answer = target.infer(request)
    if answer.status == 200:
        target.outputs(answer)
    else:
        target.refused(answer, "at least one row")


def test_zero_size_and_huge(target: Target) -> None:
    """A dimension of 0 does not excuse one beyond all bounds."""
    target.refused(target.infer(target.with_input(shape=[0, 2**62, 2**62], data=[])), "shape")


def test_unknown_output(target: Target) -> None:
    """An output that the model has not is refused."""
    target.refused(target.infer(target.request(outputs=[{"name": "no-such-output"}])), "no-such-output")


def test_wrong_outputs(target: Target) -> None:
    """Outputs are objects with a name."""
    wrong: list[Any] = [[{}], [1], {"name": "x"}, [{"name": 1}]]
    for outputs in wrong:
        target.refused(target.infer(target.request(outputs=outputs)), "outputs")


def test_unknown_input(target: Target) -> None:
    """An input that the model has not is refused."""
    if len(target.metadata["inputs"]) < 2:
        pytest.skip("the name of a single input may not matter")
    target.refused(target.infer(target.with_input(name="no-such-input")), "no-such-input")


def test_missing_input(target: Target) -> None:
    """An input that the model needs must be there."""
    if len(target.metadata["inputs"]) < 2:
        pytest.skip("the model has a single input")
    request = target.request()
    gone = request["inputs"].pop()
    target.refused(target.infer(request), gone["name"], "missing")


@pytest.mark.house
def test_names_are_there_once(target: Target) -> None:
    """No two inputs, and no two outputs, have one name."""
    inputs = target.sample["inputs"]
    target.refused(target.infer({"inputs": [*inputs, inputs[0]]}), inputs[0]["name"], "twice")
    output = {"name": target.output_names[0]}
    target.refused(target.infer(target.request(outputs=[output, output])), output["name"], "twice")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_not_a_number(target: Target, text: str) -> None:
    """JSON has neither NaN nor infinity."""
    tensor = target.with_input(datatype="FP64", data=["MARK"] * len(flat(target.sample["inputs"][0]["data"])))
    body = json.dumps(tensor).replace('"MARK"', text).encode()
    target.refused(target.infer(body), "out of range" if text == "1e999" else "NaN and Infinity are not JSON")


@pytest.mark.house
def test_nulls_are_no_elements(target: Target) -> None:
    """null is no element of a tensor."""
    first = target.sample["inputs"][0]
    target.refused(target.infer(target.with_input(data=[None] * len(flat(first["data"])))), first["name"], "null")


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("BOOL", 1), ("BOOL", "true"), ("INT64", "1"), ("INT64", 1.5), ("INT64", True), ("FP64", "1.5"),
        ("FP64", False), ("BYTES", 1), ("BYTES", True), ("FP32", {}), ("INT8", []),
    ],
)  # fmt: skip
@pytest.mark.house
def test_elements_are_not_coerced(target: Target, datatype: str, value: Any) -> None:
    """An element of another kind than its datatype is refused and never turned into it."""
    first = target.sample["inputs"][0]
    answer = target.infer(target.with_input(datatype=datatype, data=[value] * len(flat(first["data"]))))
    target.refused(answer, first["name"], datatype if value != [] else "")


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
    """A number that its datatype cannot hold is refused, and never wrapped round or rounded to infinity."""
    first = target.sample["inputs"][0]
    answer = target.infer(target.with_input(datatype=datatype, data=[value] * len(flat(first["data"]))))
    target.refused(answer, first["name"], f"outside the range of {datatype}")


@pytest.mark.house
def test_integers_beyond_2_to_53_are_exact(target: Target) -> None:
    """The largest number of each integer type is read; the next one is not."""
    count = len(flat(target.sample["inputs"][0]["data"]))
    for datatype, largest in (("INT64", 2**63 - 1), ("UINT64", 2**64 - 1)):
        within = target.infer(target.with_input(datatype=datatype, data=[largest] * count))
        assert within.status == 200 or "range" not in within.json["error"], f"{datatype} holds {largest}: {within}"
        beyond = target.infer(target.with_input(datatype=datatype, data=[largest + 1] * count))
        target.refused(beyond, f"outside the range of {datatype}")


@pytest.mark.house
def test_wrong_content_type(target: Target) -> None:
    """What is declared to be something else than JSON is not read."""
    answer = target.infer(target.sample, Content_Type="text/plain")
    target.refused(answer, "Content-Type", status=415)


@pytest.mark.house
def test_too_long(target: Target) -> None:
    """A body beyond the limit is refused before it is read."""
    answer = target.ask(
        "POST", f"{target.base}/infer", None, Content_Length=str(1 << 40), Content_Type="application/json"
    )
    target.refused(answer, "limit", status=413)


@pytest.mark.house
def test_errors_hold_no_payload(target: Target) -> None:
    """No value that was sent comes back in an error."""
    count = len(flat(target.sample["inputs"][0]["data"]))
    for datatype, secret in (("FP64", "s3cr3t-value"), ("INT8", 31337), ("BYTES", 31337.5)):
        answer = target.infer(target.with_input(datatype=datatype, data=[secret] * count))
        target.refused(answer)
        assert str(secret) not in answer.json["error"]
