"""Health, metadata, and the addresses of everything."""

from __future__ import annotations

import pytest

from mlmodel_server.tensors import DTYPES
from tests.conformance.target import Target, nulls

pytestmark = pytest.mark.section("inference_rest.md, HTTP/REST")

POSTED = [("GET", "infer"), ("PUT", "infer"), ("DELETE", "infer"), ("PATCH", "infer"), ("OPTIONS", "infer")]
READ = [(method, part) for part in ("", "ready") for method in ("POST", "PUT", "DELETE", "OPTIONS")]


def test_live(target: Target) -> None:
    """GET /v2/health/live is 200 while the server lives."""
    assert target.ask("GET", "/v2/health/live").status == 200


def test_ready(target: Target) -> None:
    """GET /v2/health/ready is 200 when every model is ready."""
    assert target.ask("GET", "/v2/health/ready").status == 200


def test_model_ready(target: Target) -> None:
    """GET /v2/models/MODEL[/versions/VERSION]/ready is 200 when the model is ready."""
    for base in target.bases:
        assert target.ask("GET", f"{base}/ready").status == 200, base


@pytest.mark.house
def test_bodies_of_health(target: Target) -> None:
    """Health says in its body what its status says."""
    assert target.ask("GET", "/v2/health/live").json == {"live": True}
    assert target.ask("GET", "/v2/health/ready").json == {"ready": True}
    for base in target.bases:
        assert target.ask("GET", f"{base}/ready").json == {"name": target.model, "ready": True}


def test_server_metadata(target: Target) -> None:
    """GET /v2 gives name, version and extensions."""
    told = target.server
    assert isinstance(told["name"], str)
    assert isinstance(told["version"], str)
    assert all(isinstance(extension, str) for extension in told["extensions"])
    assert not nulls(told)


def test_model_metadata(target: Target) -> None:
    """GET /v2/models/MODEL[/versions/VERSION] gives name, platform, inputs and outputs; -1 is a variable dimension."""
    for base in target.bases:
        told = target.ask("GET", base).json
        assert told == target.metadata, f"{base} tells the same"
    assert told["name"] == target.model
    assert isinstance(told["platform"], str)
    assert all(isinstance(version, str) for version in told.get("versions", []))
    for tensor in told["inputs"] + told["outputs"]:
        assert isinstance(tensor["name"], str)
        assert tensor["datatype"] in DTYPES, f"{tensor['datatype']} is one of the thirteen datatypes"
        assert all(isinstance(size, int) and size >= -1 for size in tensor["shape"])
    assert not nulls(told), "no field of the metadata is null"


@pytest.mark.house
def test_model_metadata_is_real(target: Target) -> None:
    """Metadata has the inputs that the model takes and the outputs that it gives."""
    assert [tensor["name"] for tensor in target.metadata["inputs"]] == [
        tensor["name"] for tensor in target.sample["inputs"]
    ]
    names = [tensor["name"] for tensor in target.metadata["outputs"]]
    given = target.outputs(target.infer(target.request(outputs=[{"name": name} for name in names])))
    for spec in target.metadata["outputs"]:
        assert given[spec["name"]]["datatype"] == spec["datatype"]
        assert given[spec["name"]]["shape"][1:] == spec["shape"][1:]
    assert target.metadata["versions"] == [target.version]


@pytest.mark.parametrize("part", ["", "/ready", "/versions/1/ready", "/versions/1"])
def test_unknown_model(target: Target, part: str) -> None:
    """A model that is not there is an error."""
    answer = target.ask("GET", f"/v2/models/no-such-model{part}")
    assert answer.status >= 400
    if part.endswith("ready"):
        return  # only the status counts for readiness
    target.refused(answer, "no-such-model", status=404)


def test_unknown_model_infer(target: Target) -> None:
    """A model that is not there cannot be asked."""
    target.refused(target.infer(target.sample, "/v2/models/no-such-model/infer"), status=404)


def test_unknown_version(target: Target) -> None:
    """A version that is not there is an error."""
    if not target.version:
        pytest.skip("the server knows no versions")
    base = f"{target.base}/versions/no-such-version"
    target.refused(target.ask("GET", base), status=404)
    assert target.ask("GET", f"{base}/ready").status >= 400
    target.refused(target.infer(target.sample, f"{base}/infer"), "no-such-version", status=404)


@pytest.mark.house
def test_trailing_slash(target: Target) -> None:
    """Every address may end with a slash, with the same answer and no redirect."""
    for path in (
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        *target.bases,
        *(f"{base}/ready" for base in target.bases),
    ):
        assert target.ask("GET", f"{path}/") == target.ask("GET", path), path
    for base in target.bases:
        assert target.infer(target.sample, f"{base}/infer/").json == target.infer(target.sample, f"{base}/infer").json


@pytest.mark.house
@pytest.mark.parametrize(("method", "part"), POSTED + READ)
def test_wrong_method(target: Target, method: str, part: str) -> None:
    """A method that an address does not have is 405 with the allowed ones, and an error in the body."""
    for base in target.bases:
        answer = target.ask(method, f"{base}/{part}" if part else base)
        target.refused(answer, method, status=405)
        assert answer.headers["allow"] == ("POST" if part == "infer" else "GET")


@pytest.mark.house
def test_head(target: Target) -> None:
    """HEAD never has a body, and is no error of the server."""
    for path in ("/v2", "/v2/health/live", target.base, f"{target.base}/infer"):
        answer = target.ask("HEAD", path)
        assert answer.status in (200, 405), f"HEAD {path}: {answer}"
        assert answer.body == b""


@pytest.mark.house
@pytest.mark.parametrize(
    "path", ["/", "/v3", "/v2/", "/v2/models", "/v2/models/", "/v2/health", "/%00", "/v2//", "/v2/models/%2e%2e"]
)
def test_nothing_there(target: Target, path: str) -> None:
    """Every address answers with a page or with an error in JSON."""
    answer = target.ask("GET", path)
    if answer.status >= 400:
        target.refused(answer, status=404)


@pytest.mark.house
def test_who_answered(target: Target) -> None:
    """Every answer says which version gave it, errors too."""
    answers = [target.infer(target.sample), target.infer(b"{"), target.ask("GET", "/v2"), target.ask("GET", "/nothing")]
    assert {answer.headers["x-mlmodel-version"] for answer in answers} == {target.version}
