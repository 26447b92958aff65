"""The protocol over gRPC: every method, typed and raw contents, errors, health and reflection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from tests.conformance.target import TIMEOUT, Target, flat
from tests.conformance.test_binary import FORMATS, pack, same, unpack

pytestmark = [pytest.mark.section("inference_grpc.md"), pytest.mark.grpc]

SERVICE = "inference.GRPCInferenceService"
FIELDS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class Client:
    """Calls methods by name."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def call(self, method: str, /, **fields: Any) -> Any:
        """Call a method with a request of these fields."""
        return self.send(method, getattr(pb, f"{method}Request")(**fields))

    def send(self, method: str, message: Any) -> Any:
        """Call a method with a message."""
        called: Any = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        return called(message, timeout=TIMEOUT, wait_for_ready=True)


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    """A connection to the server under test."""
    assert target.grpc
    made = Client(target.grpc)
    yield made
    made.channel.close()


def request(target: Target, *, raw: bool, **fields: Any) -> Any:
    """Return the sample as a message."""
    message = pb.ModelInferRequest(model_name=target.model, **fields)
    for sent in target.sample["inputs"]:
        tensor = message.inputs.add(name=sent["name"], datatype=sent["datatype"], shape=sent["shape"])
        data = flat(sent["data"])
        if raw:
            message.raw_input_contents.append(pack(sent["datatype"], data))
        else:
            elements = [text.encode() for text in data] if sent["datatype"] == "BYTES" else data
            getattr(tensor.contents, FIELDS[sent["datatype"]]).extend(elements)
    return message


def read(answer: Any) -> dict[str, list[Any]]:
    """Return the data of every output by name."""
    found = {}
    assert len(answer.raw_output_contents) in (0, len(answer.outputs)), "all outputs or none have raw contents"
    for index, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            assert not output.contents.ListFields(), "an output has either contents or raw contents"
            found[output.name] = unpack(output.datatype, answer.raw_output_contents[index])
        else:
            data = list(getattr(output.contents, FIELDS[output.datatype]))
            found[output.name] = [text.decode() for text in data] if output.datatype == "BYTES" else data
    return found


def rejected(
    target: Target, client: Client, message: Any, *names: str, code: Any = grpc.StatusCode.INVALID_ARGUMENT
) -> None:
    """Check that a request gets an error of the protocol; our server also names what is wrong."""
    with pytest.raises(grpc.RpcError) as caught:
        client.send("ModelInfer", message)
    error: Any = caught.value
    target.check_message(error.details(), *names)
    if target.own:  # the specification defines no codes
        assert error.code() == code


def test_live_and_ready(client: Client, target: Target) -> None:
    """ServerLive, ServerReady and ModelReady return true."""
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    assert client.call("ModelReady", name=target.model).ready
    if target.version:
        assert client.call("ModelReady", name=target.model, version=target.version).ready


def test_metadata(client: Client, target: Target) -> None:
    """ServerMetadata and ModelMetadata return the same as REST."""
    metadata = client.call("ServerMetadata")
    assert [metadata.name, metadata.version, list(metadata.extensions)] == list(target.server.values())
    for version in {"", target.version or ""}:
        model = client.call("ModelMetadata", name=target.model, version=version)
        assert (model.name, model.platform) == (target.metadata["name"], target.metadata["platform"])
        assert list(model.versions) == target.metadata.get("versions", [])
        for kind in ("inputs", "outputs"):
            tensors = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(model, kind)]
            assert tensors == target.metadata[kind]


@pytest.mark.parametrize("raw", [False, True])
def test_infer(client: Client, target: Target, raw: bool) -> None:
    """ModelInfer accepts typed and raw contents, and returns the same as REST."""
    plain = target.outputs(target.infer(target.sample))
    for version in {"", target.version or ""}:
        answer = client.send("ModelInfer", request(target, raw=raw, model_version=version))
        assert answer.model_name == target.model
        found = read(answer)
        assert found.keys() == plain.keys()
        for output in answer.outputs:
            assert list(output.shape) == plain[output.name]["shape"]
            assert output.datatype == plain[output.name]["datatype"]
            same(found[output.name], plain[output.name]["data"])


@pytest.mark.parametrize("text", ["a", "größe-雪-😀", "x" * 1000])
def test_id_is_returned(client: Client, target: Target, text: str) -> None:
    """The response repeats the id of the request."""
    assert client.send("ModelInfer", request(target, raw=True, id=text)).id == text


@pytest.mark.house
def test_contents_have_the_form_of_the_request(client: Client, target: Target) -> None:
    """A request with raw contents gets raw contents, and one with typed contents typed ones."""
    for raw in (False, True):
        assert bool(client.send("ModelInfer", request(target, raw=raw)).raw_output_contents) == raw


def test_outputs_are_selected(client: Client, target: Target) -> None:
    """The response has only the outputs that the request selects."""
    for name in target.output_names:
        message = request(target, raw=False)
        message.outputs.add(name=name)
        assert list(read(client.send("ModelInfer", message))) == [name]


def test_unknown_parameters_are_accepted(client: Client, target: Target) -> None:
    """A request, its inputs and its outputs may have parameters of every type."""
    message = request(target, raw=True)
    output = message.outputs.add(name=target.output_names[0])
    for parameters in (message.parameters, message.inputs[0].parameters, output.parameters):
        parameters["x-flag"].bool_param = True
        parameters["x-whole"].int64_param = -1
        parameters["x-text"].string_param = "é"
        parameters["x-half"].double_param = 0.5
        parameters["x-large"].uint64_param = 2**64 - 1
    client.send("ModelInfer", message)


def test_unknown_model_and_version(client: Client, target: Target) -> None:
    """An unknown model or version is NOT_FOUND."""
    sample = request(target, raw=False)
    sample.model_name = "no-such-model"
    rejected(target, client, sample, code=grpc.StatusCode.NOT_FOUND)
    sample.model_name, sample.model_version = target.model, "no-such-version"
    if target.version:
        rejected(target, client, sample, "no-such-version", code=grpc.StatusCode.NOT_FOUND)
    with pytest.raises(grpc.RpcError):
        client.call("ModelMetadata", name="no-such-model")


def test_wrong_requests(client: Client, target: Target) -> None:
    """An invalid request is INVALID_ARGUMENT."""
    name = target.sample["inputs"][0]["name"]
    rejected(target, client, pb.ModelInferRequest(model_name=target.model), "inputs is empty")
    for field, value, *words in (
        ("datatype", "FP8", name, "datatype"),
        ("datatype", "", name, "datatype"),
        ("shape", [], name, "shape"),
        ("shape", [-1], name, "shape"),
        ("shape", [2**62], name, "shape"),
    ):
        for raw in (False, True):
            sample = request(target, raw=raw)
            sample.inputs[0].ClearField(field)
            if isinstance(value, list):
                sample.inputs[0].shape.extend(value)
            else:
                sample.inputs[0].datatype = value
            rejected(target, client, sample, *words)
    sample = request(target, raw=False)
    sample.outputs.add(name="no-such-output")
    rejected(target, client, sample, "no-such-output")


def test_typed_contents_in_the_wrong_field(client: Client, target: Target) -> None:
    """Elements are in the field of their datatype."""
    sample = request(target, raw=False)
    tensor = sample.inputs[0]
    count = len(flat(target.sample["inputs"][0]["data"]))
    tensor.ClearField("contents")
    wrong = "int64_contents" if tensor.datatype != "INT64" else "fp64_contents"
    getattr(tensor.contents, wrong).extend([1] * count)
    rejected(target, client, sample, tensor.name, FIELDS[tensor.datatype])


def test_raw_contents_cover_every_input(client: Client, target: Target) -> None:
    """With raw contents, every input has them and none has typed contents."""
    sample = request(target, raw=True)
    sample.raw_input_contents.append(b"")
    rejected(target, client, sample, "raw_input_contents")
    sample = request(target, raw=False)
    sample.raw_input_contents.extend(request(target, raw=True).raw_input_contents)
    rejected(target, client, sample, target.sample["inputs"][0]["name"], "both")


def test_raw_contents_of_the_wrong_length(client: Client, target: Target) -> None:
    """Raw contents have the length of shape and datatype."""
    for shorter in (True, False):
        sample = request(target, raw=True)
        raw = sample.raw_input_contents[0]
        sample.raw_input_contents[0] = raw[:-1] if shorter else raw + b"\0"
        rejected(target, client, sample, target.sample["inputs"][0]["name"])


@pytest.mark.parametrize("datatype", [*FORMATS, "BYTES"])
def test_every_datatype_is_parsed(client: Client, target: Target, datatype: str) -> None:
    """A server parses each datatype: the model answers, or an error names the datatype that it requires."""
    sample = request(target, raw=True)
    element: Any = {"BYTES": "größe 雪", "BOOL": True}.get(datatype, 1)
    sample.inputs[0].datatype = datatype
    sample.raw_input_contents[0] = pack(datatype, [element] * len(flat(target.sample["inputs"][0]["data"])))
    try:
        assert read(client.send("ModelInfer", sample))
    except grpc.RpcError:
        rejected(target, client, sample, sample.inputs[0].name, datatype)


@pytest.mark.house
def test_narrow_integers_are_not_wrapped_round(client: Client, target: Target) -> None:
    """A number outside the range of INT8 is rejected, although the field can hold it."""
    sample = request(target, raw=False)
    count = len(flat(target.sample["inputs"][0]["data"]))
    sample.inputs[0].datatype = "INT8"
    sample.inputs[0].contents.CopyFrom(pb.InferTensorContents(int_contents=[128] * count))
    rejected(target, client, sample, sample.inputs[0].name, "outside the range of INT8")


@pytest.mark.house
def test_health(client: Client, target: Target) -> None:
    """grpc.health.v1 answers SERVING, for probes of Kubernetes."""
    health: Any = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.house
def test_reflection(client: Client, target: Target) -> None:
    """Reflection lists the service, so that grpcurl needs no .proto file."""
    messages: Any = reflection_pb2
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = [messages.ServerReflectionRequest(list_services="")]
    (answer,) = stub.ServerReflectionInfo(iter(requests), timeout=TIMEOUT)
    assert SERVICE in [service.name for service in answer.list_services_response.service]


@pytest.mark.house
def test_version_metadata(client: Client, target: Target) -> None:
    """Every response names the version that answered."""
    called: Any = client.channel.unary_unary(f"/{SERVICE}/ServerLive", response_deserializer=lambda raw: raw)
    _, call = called.with_call(b"", timeout=TIMEOUT)
    assert dict(call.trailing_metadata())["x-mlmodel-version"] == target.version
