"""Health, metadata and paths."""

from __future__ import annotations

import pytest

from mlmodel_server.tensors import DTYPES
from tests.conformance.target import Target, has_null

pytestmark = pytest.mark.section("inference_rest.md, HTTP/REST")

POSTED = [("GET", "infer"), ("PUT", "infer"), ("DELETE", "infer"), ("PATCH", "infer"), ("OPTIONS", "infer")]
READ = [(method, part) for part in ("", "ready") for method in ("POST", "PUT", "DELETE", "OPTIONS")]


def test_live(target: Target) -> None:
    """GET /v2/health/live answers 200 while the process answers."""
    assert target.send("GET", "/v2/health/live").status == 200


def test_ready(target: Target) -> None:
    """GET /v2/health/ready answers 200 when every model is ready."""
    assert target.send("GET", "/v2/health/ready").status == 200


def test_model_ready(target: Target) -> None:
    """GET /v2/models/MODEL[/versions/VERSION]/ready answers 200 when the model is ready."""
    for base in target.bases:
        assert target.send("GET", f"{base}/ready").status == 200, base


@pytest.mark.house
def test_bodies_of_health(target: Target) -> None:
    """The body of a health response agrees with its status."""
    assert target.send("GET", "/v2/health/live").json == {"live": True}
    assert target.send("GET", "/v2/health/ready").json == {"ready": True}
    for base in target.bases:
        assert target.send("GET", f"{base}/ready").json == {"name": target.model, "ready": True}


def test_server_metadata(target: Target) -> None:
    """GET /v2 returns name, version and extensions."""
    metadata = target.server
    assert isinstance(metadata["name"], str)
    assert isinstance(metadata["version"], str)
    assert all(isinstance(extension, str) for extension in metadata["extensions"])
    assert not has_null(metadata)


def test_model_metadata(target: Target) -> None:
    """GET /v2/models/MODEL[/versions/VERSION] returns name, platform, inputs and outputs; -1 is any size."""
    for base in target.bases:
        metadata = target.send("GET", base).json
        assert metadata == target.metadata, f"{base} returns the same"
    assert metadata["name"] == target.model
    assert isinstance(metadata["platform"], str)
    assert all(isinstance(version, str) for version in metadata.get("versions", []))
    for tensor in metadata["inputs"] + metadata["outputs"]:
        assert isinstance(tensor["name"], str)
        assert tensor["datatype"] in DTYPES, f"{tensor['datatype']} is one of the thirteen datatypes"
        assert all(isinstance(size, int) and size >= -1 for size in tensor["shape"])
    assert not has_null(metadata), "no field of the metadata is null"


@pytest.mark.house
def test_model_metadata_is_real(target: Target) -> None:
    """Metadata has the inputs that the model accepts and the outputs that it returns."""
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
    """A path of an unknown model is an error."""
    answer = target.send("GET", f"/v2/models/no-such-model{part}")
    assert answer.status >= 400
    if part.endswith("ready"):
        return  # only the status counts for readiness
    target.rejected(answer, "no-such-model", status=404)


def test_unknown_model_infer(target: Target) -> None:
    """A request to an unknown model is rejected."""
    target.rejected(target.infer(target.sample, "/v2/models/no-such-model/infer"), status=404)


def test_unknown_version(target: Target) -> None:
    """A path of an unknown version is an error."""
    if not target.version:
        pytest.skip("the server has no versions")
    base = f"{target.base}/versions/no-such-version"
    target.rejected(target.send("GET", base), status=404)
    assert target.send("GET", f"{base}/ready").status >= 400
    target.rejected(target.infer(target.sample, f"{base}/infer"), "no-such-version", status=404)


@pytest.mark.house
def test_trailing_slash(target: Target) -> None:
    """Every path may end with a slash, with the same response and no redirect."""
    for path in (
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        *target.bases,
        *(f"{base}/ready" for base in target.bases),
    ):
        assert target.send("GET", f"{path}/") == target.send("GET", path), path
    for base in target.bases:
        assert target.infer(target.sample, f"{base}/infer/").json == target.infer(target.sample, f"{base}/infer").json


@pytest.mark.house
@pytest.mark.parametrize(("method", "part"), POSTED + READ)
def test_wrong_method(target: Target, method: str, part: str) -> None:
    """Another method than that of the path gets 405, the allowed methods, and an error in the body."""
    for base in target.bases:
        answer = target.send(method, f"{base}/{part}" if part else base)
        target.rejected(answer, method, status=405)
        assert answer.headers["allow"] == ("POST" if part == "infer" else "GET, HEAD")


@pytest.mark.house
def test_head(target: Target) -> None:
    """A response to HEAD has no body and is not a 5xx."""
    for path in ("/v2", "/v2/health/live", target.base, f"{target.base}/infer"):
        answer = target.send("HEAD", path)
        assert answer.status in (200, 405), f"HEAD {path}: {answer}"
        assert answer.body == b""


@pytest.mark.house
@pytest.mark.parametrize(
    "path", ["/", "/v3", "/v2/", "/v2/models", "/v2/models/", "/v2/health", "/%00", "/v2//", "/v2/models/%2e%2e"]
)
def test_any_path(target: Target, path: str) -> None:
    """Every path returns a document or an error in JSON."""
    answer = target.send("GET", path)
    if answer.status >= 400:
        target.rejected(answer, status=404)


@pytest.mark.house
def test_version_header(target: Target) -> None:
    """Every response names the version that answered, errors too."""
    paths = "/v2", "/nothing"
    answers = [target.infer(target.sample), target.infer(b"{"), *(target.send("GET", path) for path in paths)]
    assert {answer.headers["x-mlmodel-version"] for answer in answers} == {target.version}
