"""Registries: which layers are files of the model, which server gets which credentials, and all digests.

``tests/integration/server/test_storage.py`` tests with a real registry.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mlmodel_server import package
from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading import limits
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory, locate, transfer
from mlmodel_server.loading.sources.oci import FILE_PATH, TITLE, UNPACK
from mlmodel_server.manifest import MANIFEST, sha256
from tests.unit.server.loading.test_archive import tar
from tests.unit.server.loading.web import Reply, Request, Web, ranged, serving
from tests.unit.server.models import iris

LAYER = "application/vnd.oci.image.layer.v1.tar"
ANY = "0" * 64


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """A repository ``team/model`` with the tag ``1``, which may require a token or a password."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    challenge: str = ""
    authorization: str = ""
    forged: bytes = b""
    cut: int | None = None
    web: Web | None = None

    def push(self, *layers: tuple[str, bytes, dict[str, str]], **more: Any) -> str:
        """Push an artefact with these layers (media type, content, annotations); return its URI by digest."""
        listed = [
            {"mediaType": kind, "digest": digest(data), "size": len(data), "annotations": notes}
            for kind, data, notes in layers
        ]
        self.blobs |= {digest(data): data for _, data, _ in layers}
        self.manifest = json.dumps({"schemaVersion": 2, "layers": listed, **more}).encode()
        return f"{self.name}@{digest(self.manifest)}"

    @property
    def name(self) -> str:
        assert self.web is not None
        return f"oci://{urlsplit(self.web.url).netloc}/team/model"

    def answer(self, request: Request) -> Reply:
        path, _, query = request.path.partition("?")
        if path == "/token":
            right = parse_qs(query) == {"service": ["here"], "scope": ["repository:team/model:pull"]}
            denied = self.authorization == "Bearer denied"
            return Reply(401 if denied or not right else 200, b'{"access_token": "abc"}')
        if path.startswith("/elsewhere/"):
            assert "authorization" not in request.headers, "a redirect must not get the token"
            return ranged(self.blobs[path.removeprefix("/elsewhere/")], request)
        if self.challenge and request.headers.get("authorization") != self.authorization:
            assert self.web is not None
            return Reply(401, b"", {"WWW-Authenticate": self.challenge.format(url=self.web.url)})
        if path in ("/v2/team/model/manifests/1", f"/v2/team/model/manifests/{digest(self.manifest)}"):
            return Reply(200, self.forged or self.manifest)
        blob = path.removeprefix("/v2/team/model/blobs/")
        if blob not in self.blobs:
            return Reply(404)
        if self.challenge:
            return Reply(307, b"", {"Location": f"/elsewhere/{blob}"})
        cut, self.cut = self.cut, None
        return ranged(self.blobs[blob], request, cut)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "OCI_USERNAME", "OCI_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    registry = Registry()
    with serving(tmp_path, registry.answer) as registry.web:
        yield registry


def pulled(uri: str, sha: str = "") -> dict[str, bytes]:
    source = locate(uri, None, sha)
    return {name: source.read(name) for name in source.names()}


def test_files_pushed_one_by_one_are_a_package(registry: Registry) -> None:
    """As with ``oras push``, which gives every file the type of a tar."""
    files = package.build(*iris(), compile=False)
    uri = registry.push(*((LAYER, data, {TITLE: name}) for name, data in files.items()))
    assert pulled(uri) == files
    assert load(locate(uri, None, "")).manifest is not None
    tagged = f"{registry.name}:1"
    assert load(locate(tagged, None, sha256(files[MANIFEST])), sha256(files[MANIFEST])).manifest is not None
    with pytest.raises(RefusedModel, match=r"an oci:// model requires its digest: .*oci://HOST/NAME@sha256:"):
        locate(tagged, None, "")


@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        (LAYER, {TITLE: "model", UNPACK: "true"}),
        (f"{LAYER}+gzip", {TITLE: "model"}),
        (f"{LAYER}+gzip", {}),
        (LAYER, {TITLE: "model.tar.gz"}),
        ("application/vnd.cncf.model.weight.v1.tar+gzip", {FILE_PATH: "model"}),
    ],
    ids=["oras", "oras-py", "image", "archive", "ModelPack"],
)
def test_a_packed_directory_is_unpacked(registry: Registry, kind: str, notes: dict[str, str]) -> None:
    files = {MANIFEST: b"{}", "variables/index": b"1"}
    packed = gzip.compress(tar({f"model/{name}": data for name, data in files.items()}))
    assert pulled(registry.push((kind, packed, notes))) == files


def test_layers_that_are_not_files_of_the_model_are_ignored(registry: Registry) -> None:
    uri = registry.push(
        ("application/vnd.cncf.model.weight.v1.raw", b"weights", {FILE_PATH: "model.onnx"}),
        ("application/vnd.dev.cosign.simplesigning.v1+json", b"{}", {}),
        (LAYER, b"secret", {TITLE: ".hidden"}),
    )
    assert pulled(uri) == {"model.onnx": b"weights"}


def test_an_interrupted_layer_resumes(registry: Registry) -> None:
    content = bytes(range(256)) * 1_000
    registry.cut = 100_000
    assert pulled(registry.push((LAYER, content, {TITLE: "model.onnx"}))) == {"model.onnx": content}
    assert registry.web is not None
    assert registry.web.requests[-1].headers["range"] == "bytes=100000-"


@pytest.mark.parametrize("user", ["", "me"])
def test_a_token_comes_from_the_registrys_authority_and_goes_only_to_the_registry(
    registry: Registry, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_USERNAME", user)
    monkeypatch.setenv("OCI_PASSWORD", "hush")
    registry.challenge, registry.authorization = 'Bearer realm="{url}/token",service="here"', "Bearer abc"
    assert pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))) == {"model.onnx": b"weights"}
    assert registry.web is not None
    token = next(request for request in registry.web.requests if request.path.startswith("/token"))
    basic = "Basic " + base64.b64encode(b"me:hush").decode()
    assert token.headers.get("authorization") == (basic if user else None)
    assert sum(request.path.startswith("/token") for request in registry.web.requests) == 1


def test_a_password_is_sent_when_the_registry_requires_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.challenge = 'Basic realm="here"'
    registry.authorization = "Basic " + base64.b64encode(b"me:hush").decode()
    uri = registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))
    with pytest.raises(UnreachableSource, match="requires credentials: set OCI_USERNAME and OCI_PASSWORD"):
        pulled(uri)
    monkeypatch.setenv("OCI_USERNAME", "me")
    monkeypatch.setenv("OCI_PASSWORD", "wrong")
    with pytest.raises(UnreachableSource, match="answered 401: check OCI_USERNAME and OCI_PASSWORD") as caught:
        pulled(uri)
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("OCI_PASSWORD", "hush")
    assert pulled(uri) == {"model.onnx": b"weights"}


@pytest.mark.parametrize(
    ("challenge", "authorization", "words"),
    [
        ('Bearer realm="{url}/token",service="here"', "Bearer denied", "answered 401: set OCI_USERNAME"),
        ('Bearer realm="{url}/token",service="there"', "Bearer abc", "answered 401: set OCI_USERNAME"),
        ('Bearer realm="http://127.0.0.1:1/token"', "Bearer abc", "requires credentials: set OCI_USERNAME"),
        ("Negotiate", "Negotiate abc", "requires credentials: set OCI_USERNAME"),
    ],
)
def test_a_challenge_that_cannot_be_met_is_reported(
    registry: Registry, challenge: str, authorization: str, words: str
) -> None:
    registry.challenge, registry.authorization = challenge, authorization
    with pytest.raises(UnreachableSource, match=words):
        pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"})))


def test_a_wrong_manifest_or_layer_is_rejected(registry: Registry) -> None:
    uri = registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))
    registry.blobs[digest(b"weights")] = b"weight5"
    with pytest.raises(RefusedModel, match=r"model\.onnx does not have its digest in the manifest"):
        pulled(uri)
    registry.forged = b"{}"
    with pytest.raises(RefusedModel, match="another manifest than the one with this digest"):
        pulled(uri)
    with pytest.raises(UnreachableSource, match="answered 404: check the name and the tag"):
        pulled(f"{registry.name}@sha256:{ANY}")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b'{"manifests": [{}]}', "an index of several manifests"),
        (b"[]", "is not an OCI artefact"),
        (b"<html>", "is not an OCI artefact"),
        (b'{"layers": []}', "contains no model"),
        (b'{"layers": [{"mediaType": "x", "digest": "sha512:1", "size": 1, "annotations": {"%s": "m.onnx"}}]}'
         % TITLE.encode(), "m.onnx has no sha256 digest"),
        (b"x" * (5 << 20), "larger than 4 MiB"),
    ],
)  # fmt: skip
def test_a_document_that_is_not_a_manifest_of_a_model_is_rejected(
    registry: Registry, manifest: bytes, words: str
) -> None:
    registry.manifest = manifest
    with pytest.raises(RefusedModel, match=words):
        locate(f"{registry.name}:1", None, ANY)


def test_layers_are_limited_and_contain_each_file_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = registry.push((LAYER, b"1", {TITLE: "model.onnx"}), (LAYER, b"2", {TITLE: "model.onnx"}))
    with pytest.raises(RefusedModel, match=r"two layers of the artefact contain model\.onnx"):
        pulled(twice)
    out = registry.push((LAYER, b"1", {TITLE: "../model.onnx"}))
    with pytest.raises(RefusedModel, match="is not a valid file name"):
        pulled(out)
    large = registry.push((LAYER, b"12345", {TITLE: "model.onnx"}))
    monkeypatch.setattr(limits, "MAX_FILE", 4)
    assert registry.web is not None
    registry.web.requests.clear()
    with pytest.raises(RefusedModel, match=r"model\.onnx is larger than"):
        pulled(large)
    assert len(registry.web.requests) == 1, "the declared size was enough"


@pytest.mark.parametrize("uri", ["oci://host", "oci://host/name", "oci://me:hush@host/name:1", "oci://host/Name:1"])
def test_an_invalid_reference_is_rejected(uri: str) -> None:
    with pytest.raises(RefusedModel, match="the URI of the model is not valid: give ") as caught:
        locate(uri, None, ANY)
    assert "hush" not in str(caught.value)


def test_a_mounted_image_is_not_pulled(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    assert not isinstance(locate("oci://host/name:1", tmp_path, ""), Memory)
