"""The extension for binary tensor data, in requests and responses."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest

from tests.conformance.target import Answer, Target, flat

pytestmark = [
    pytest.mark.section("binary_tensor_data extension"),
    pytest.mark.extension("binary_tensor_data"),
]

FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip


def pack(datatype: str, data: list[Any]) -> bytes:
    """Encode elements as in the extension."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in data)
    return struct.pack(f"<{len(data)}{FORMATS[datatype]}", *data)


def unpack(datatype: str, raw: bytes) -> list[Any]:
    """Decode what :func:`pack` encodes."""
    if datatype != "BYTES":
        return list(struct.unpack(f"<{len(raw) // struct.calcsize(FORMATS[datatype])}{FORMATS[datatype]}", raw))
    texts = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        assert len(raw) >= 4 + length, "an element ends within the data"
        texts.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return texts


def announced(tensor: dict[str, Any], raw: bytes) -> dict[str, Any]:
    """Return an input whose data follows the JSON."""
    head = {name: value for name, value in tensor.items() if name != "data"}
    return {**head, "parameters": {"binary_data_size": len(raw)}}


def all_binary(target: Target) -> tuple[dict[str, Any], bytes]:
    """Return the sample with the data of every input after its JSON."""
    raws = [pack(tensor["datatype"], flat(tensor["data"])) for tensor in target.sample["inputs"]]
    inputs = [announced(tensor, raw) for tensor, raw in zip(target.sample["inputs"], raws, strict=True)]
    return target.request(inputs=inputs), b"".join(raws)


def read(answer: Answer) -> dict[str, list[Any]]:
    """Return the data of every output by name, from JSON or binary data."""
    assert answer.status == 200, f"the request gets 200: {answer}"
    length = answer.headers.get("inference-header-content-length")
    if length is None:
        return {output["name"]: flat(output["data"]) for output in answer.json["outputs"]}
    assert answer.headers["content-type"] == "application/octet-stream", "the content type of binary data"
    head, rest, found = json.loads(answer.body[: int(length)]), answer.body[int(length) :], {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = flat(output["data"])
            continue
        assert "data" not in output, "an output has either data or binary data"
        raw, rest = rest[:size], rest[size:]
        found[output["name"]] = unpack(output["datatype"], raw)
        assert len(found[output["name"]]) == math.prod(output["shape"]), "data has as many elements as shape"
    assert not rest, "nothing follows the last output"
    return found


def test_binary_inputs(target: Target) -> None:
    """Inputs may be binary; the response is JSON unless the request selects binary data."""
    answer = target.binary(*all_binary(target))
    assert target.outputs(answer) == target.outputs(target.infer(target.sample))


def test_binary_inputs_in_reverse(target: Target) -> None:
    """Binary data follows in the order of its inputs."""
    head, tail = all_binary(target)
    head["inputs"].reverse()
    sizes = [tensor["parameters"]["binary_data_size"] for tensor in head["inputs"]]
    parts = []
    for size in sizes:
        parts.append(tail[len(tail) - size :])
        tail = tail[: len(tail) - size]
    assert target.outputs(target.binary(head, b"".join(parts))) == target.outputs(target.infer(target.sample))


def test_mixed_inputs(target: Target) -> None:
    """Some inputs may be binary and others JSON."""
    first, *others = target.sample["inputs"]
    raw = pack(first["datatype"], flat(first["data"]))
    answer = target.binary(target.request(inputs=[*others, announced(first, raw)]), raw)
    assert target.outputs(answer) == target.outputs(target.infer(target.sample))


def test_header_without_binary_data(target: Target) -> None:
    """A request may have the header although all of its body is JSON."""
    assert target.outputs(target.binary(target.sample, b"")) == target.outputs(target.infer(target.sample))


@pytest.mark.parametrize("binary", [True, False])
def test_binary_outputs(target: Target, binary: bool) -> None:
    """Outputs are binary when binary_data_output selects all of them, or binary_data one of them."""
    names = [{"name": name} for name in target.output_names]
    plain = {
        name: tensor["data"] for name, tensor in target.outputs(target.infer(target.request(outputs=names))).items()
    }
    everywhere = target.infer(target.request(outputs=names, parameters={"binary_data_output": binary}))
    each = target.infer(target.request(outputs=[{**name, "parameters": {"binary_data": binary}} for name in names]))
    for answer in (everywhere, each):
        assert ("inference-header-content-length" in answer.headers) == binary
        for name, data in read(answer).items():
            same(data, plain[name])


def test_each_output_overrides_the_default(target: Target) -> None:
    """binary_data of an output takes precedence over binary_data_output of the request."""
    first, *others = target.output_names
    outputs = [{"name": first, "parameters": {"binary_data": False}}, *({"name": name} for name in others)]
    answer = target.infer(target.request(outputs=outputs, parameters={"binary_data_output": True}))
    read(answer)
    length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    for output in json.loads(answer.body[:length])["outputs"]:
        assert ("data" in output) == (output["name"] == first)


def test_default_outputs_are_binary_too(target: Target) -> None:
    """A request without outputs gets the default ones, as binary data if it selects that."""
    plain = target.outputs(target.infer(target.sample))
    head, tail = all_binary(target)
    answer = target.binary({**head, "parameters": {"binary_data_output": True}, "id": "größe"}, tail)
    for name, data in read(answer).items():
        same(data, plain[name]["data"])
    assert json.loads(answer.body[: int(answer.headers["inference-header-content-length"])])["id"] == "größe"


def same(data: list[Any], other: list[Any]) -> None:
    """Compare data; floats may differ by rounding, because two requests may be in two batches."""
    if data and isinstance(data[0], float):
        assert data == pytest.approx(other, rel=1e-6)
    else:
        assert data == other


@pytest.mark.parametrize("header", ["", "x", "-1", "1.5", "1e3", "0x10", str(10**30)])
def test_wrong_header(target: Target, header: str) -> None:
    """Inference-Header-Content-Length is a number of bytes."""
    answer = target.binary(*all_binary(target), Inference_Header_Content_Length=header)
    target.rejected(answer, "inference-header-content-length")


@pytest.mark.parametrize("change", [-1, 1, -1000, 1000])
def test_header_does_not_fit(target: Target, change: int) -> None:
    """Inference-Header-Content-Length is the length of the JSON."""
    head, tail = all_binary(target)
    length = max(0, len(json.dumps(head)) + change)
    target.rejected(target.binary(head, tail, Inference_Header_Content_Length=str(length)))


def test_header_is_missing(target: Target) -> None:
    """Binary data without the header is rejected."""
    head, tail = all_binary(target)
    target.rejected(target.infer(json.dumps(head).encode() + tail))
    target.rejected(target.infer(head), target.sample["inputs"][0]["name"], "Inference-Header-Content-Length")


@pytest.mark.parametrize("change", [-1, 1])
def test_body_of_another_length(target: Target, change: int) -> None:
    """The sizes of the binary data add up to the rest of the body."""
    head, tail = all_binary(target)
    name = target.sample["inputs"][-1]["name"] if change < 0 else ""
    target.rejected(target.binary(head, tail[:-1] if change < 0 else tail + b"\0"), name)


@pytest.mark.parametrize("size", [-1, "8", 8.5, True, None, 2**62])
def test_wrong_size(target: Target, size: Any) -> None:
    """binary_data_size is the number of bytes."""
    head, tail = all_binary(target)
    head["inputs"][0]["parameters"]["binary_data_size"] = size
    target.rejected(target.binary(head, tail), target.sample["inputs"][0]["name"] if size is not None else "parameters")


def test_size_and_shape_differ(target: Target) -> None:
    """binary_data_size is the size of shape and datatype."""
    head, tail = all_binary(target)
    head["inputs"][0]["shape"][0] += 1
    target.rejected(target.binary(head, tail), target.sample["inputs"][0]["name"])


@pytest.mark.house
def test_data_twice(target: Target) -> None:
    """An input has either data or binary data."""
    head, tail = all_binary(target)
    first = target.sample["inputs"][0]
    head["inputs"][0]["data"] = first["data"]
    target.rejected(target.binary(head, tail), first["name"], "both")


@pytest.mark.parametrize("flag", [1, "true", 0.5])
@pytest.mark.house
def test_wrong_flag(target: Target, flag: Any) -> None:
    """binary_data and binary_data_output are booleans."""
    target.rejected(target.infer(target.request(parameters={"binary_data_output": flag})), "binary_data_output")
    name = target.output_names[0]
    outputs = [{"name": name, "parameters": {"binary_data": flag}}]
    target.rejected(target.infer(target.request(outputs=outputs)), name, "binary_data")


def with_first(target: Target, datatype: str, raw: bytes) -> Answer:
    """Send the sample with other binary data for its first input."""
    first, *others = target.request()["inputs"]
    return target.binary(target.request(inputs=[announced({**first, "datatype": datatype}, raw), *others]), raw)


def test_wrong_boolean(target: Target) -> None:
    """A BOOL is the byte 0 or 1."""
    first = target.sample["inputs"][0]
    target.rejected(with_first(target, "BOOL", b"\2" * len(flat(first["data"]))), first["name"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0\0\0\0",
        lambda raw: raw[:3],
        lambda raw: b"\xff\xff\xff\xff" + raw[4:],
        lambda raw: b"\xff\xff\xff\x7f" + raw[4:],
        lambda _: b"",
        lambda raw: raw.replace(b"text", b"\xff\xfe\xfd\xfc"),
    ],
)
def test_wrong_texts(target: Target, spoil: Any) -> None:
    """Each element of BYTES is its length and then its bytes; text is UTF-8."""
    first = target.sample["inputs"][0]
    raw = pack("BYTES", ["text"] * len(flat(first["data"])))
    target.rejected(with_first(target, "BYTES", spoil(raw)), first["name"])


@pytest.mark.parametrize("datatype", [*FORMATS, "BYTES"])
def test_every_datatype_is_parsed(target: Target, datatype: str) -> None:
    """A server parses each datatype: the model answers, or an error names the datatype that it requires."""
    first = target.sample["inputs"][0]
    element: Any = {"BYTES": "größe 雪", "BOOL": True}.get(datatype, 1)
    answer = with_first(target, datatype, pack(datatype, [element] * len(flat(first["data"]))))
    if answer.status == 200:
        target.outputs(answer)
    else:
        target.rejected(answer, first["name"], datatype)
