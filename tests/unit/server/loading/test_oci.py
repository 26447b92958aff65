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
from mlmodel_server.loading.sources.oci import FILE_PATH, TITLE, UNPACK, _Registry
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
    token_at: str = ""
    blobs_at: str = ""
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
            if self.token_at:
                return Reply(302, b"", {"Location": self.token_at})
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
            return Reply(307, b"", {"Location": f"{self.blobs_at}/elsewhere/{blob}"})
        cut, self.cut = self.cut, None
        return ranged(self.blobs[blob], request, cut)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "OCI_USERNAME", "OCI_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OCI_TOKEN_HOST", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    registry = Registry()
    with serving(tmp_path, registry.answer) as registry.web:
        monkeypatch.setenv("OCI_REGISTRY", urlsplit(registry.web.url).netloc)
        yield registry


@pytest.fixture
def other(registry: Registry) -> Iterator[Web]:
    """Another host, which answers every request as an authority and as a store of blobs."""
    assert registry.web is not None

    def answer(request: Request) -> Reply:
        path = request.path.partition("?")[0]
        if path == "/moved":
            return Reply(200, b'{"token": "abc"}')
        blob = path.rpartition("/")[2]
        return ranged(registry.blobs[blob], request) if blob in registry.blobs else Reply(200, b'{"token": "abc"}')

    with serving(registry.web.authority.folder, answer, registry.web.authority) as web:
        yield web


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


BASIC = "Basic " + base64.b64encode(b"me:hush").decode()
BEARER = 'Bearer realm="{url}/token",service="here"'


@pytest.fixture
def password(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_USERNAME", "me")
    monkeypatch.setenv("OCI_PASSWORD", "hush")


def secrets(requests: list[Request]) -> list[Request]:
    """Return the requests with the password or a token anywhere."""
    words = ("hush", "abc", BASIC.split()[1])
    return [sent for sent in requests if any(word in f"{sent.path} {sent.headers}" for word in words)]


@pytest.mark.attack
@pytest.mark.usefixtures("password")
@pytest.mark.parametrize("challenge", [BEARER, 'Basic realm="here"'])
@pytest.mark.parametrize("owner", ["", "registry.example", "127.0.0.1", "127.0.0.1:1"])
def test_a_password_goes_only_to_the_registry_that_it_is_for(
    registry: Registry, challenge: str, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone's registry that a reference names could ask for it."""
    assert registry.web is not None
    monkeypatch.setenv("OCI_REGISTRY", owner)
    registry.challenge, registry.authorization = challenge, "Bearer never"
    with pytest.raises(UnreachableSource, match=r"sent only to OCI_REGISTRY: set it to 127\.0\.0\.1:\d+$"):
        pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"})))
    assert [sent for sent in secrets(registry.web.requests) if "hush" in str(sent) or BASIC in str(sent)] == []


@pytest.mark.attack
@pytest.mark.usefixtures("password")
def test_blobs_on_another_host_get_neither_the_token_nor_the_password(registry: Registry, other: Web) -> None:
    registry.challenge, registry.authorization, registry.blobs_at = BEARER, "Bearer abc", other.url
    assert pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))) == {"model.onnx": b"weights"}
    assert len(other.requests) == 1
    assert secrets(other.requests) == []
    registry.challenge, registry.authorization = 'Basic realm="here"', BASIC
    assert pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))) == {"model.onnx": b"weights"}
    assert secrets(other.requests) == []


@pytest.mark.attack
@pytest.mark.usefixtures("password")
def test_a_token_of_another_host_needs_its_name(
    registry: Registry, other: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.challenge, registry.authorization = f'Bearer realm="{other.url}/token",service="here"', "Bearer abc"
    uri = registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))
    name = urlsplit(other.url).netloc
    for configured in ("", "auth.docker.io", "127.0.0.1", f"{name}.example"):
        monkeypatch.setenv("OCI_TOKEN_HOST", configured)
        with pytest.raises(UnreachableSource, match=f"a token of '{name}', which is not known.*set OCI_TOKEN_HOST"):
            pulled(uri)
        assert other.requests == []
    monkeypatch.setenv("OCI_TOKEN_HOST", name)
    assert pulled(uri) == {"model.onnx": b"weights"}
    assert [sent.headers.get("authorization") for sent in other.requests] == [BASIC]


@pytest.mark.attack
@pytest.mark.usefixtures("password")
@pytest.mark.parametrize(
    "realm",
    [
        "https://user@{host}/token",
        "https://{host}@evil.example/token",
        "https://evil.example#{host}/",
        "//{host}/token",
    ],
)
def test_a_realm_that_only_looks_like_the_registry_gets_nothing(registry: Registry, realm: str) -> None:
    assert registry.web is not None
    address = realm.format(host=urlsplit(registry.web.url).netloc)
    registry.challenge, registry.authorization = f'Bearer realm="{address}",service="here"', "Bearer abc"
    with pytest.raises(UnreachableSource, match=r"which is not known|requires credentials"):
        pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"})))
    assert secrets(registry.web.requests) == []


@pytest.mark.attack
@pytest.mark.usefixtures("password")
def test_an_authority_that_redirects_takes_the_password_nowhere(registry: Registry, other: Web) -> None:
    """The password was sent to the target of the redirect."""
    registry.challenge, registry.authorization = BEARER, "Bearer abc"
    uri = registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))
    registry.token_at = f"{other.url}/moved"
    assert pulled(uri) == {"model.onnx": b"weights"}
    assert len(other.requests) == 1
    assert secrets(other.requests) == []
    registry.token_at = other.url.replace("https://", "http://")
    with pytest.raises(RefusedModel, match="redirects to one without TLS"):
        pulled(uri)


@pytest.mark.attack
@pytest.mark.usefixtures("password")
def test_blobs_without_tls_are_not_requested(registry: Registry, other: Web) -> None:
    registry.challenge, registry.authorization = BEARER, "Bearer abc"
    registry.blobs_at = other.url.replace("https://", "http://")
    with pytest.raises(RefusedModel, match="redirects to one without TLS"):
        pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"})))
    assert other.requests == []


def test_docker_hub_has_a_known_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, authority in (("docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")):
        assert authority in _Registry(given, "team/model")._authorities
    assert _Registry("ghcr.io", "team/model")._authorities == {"ghcr.io"}


def test_a_password_is_sent_when_the_registry_requires_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.challenge = 'Basic realm="here"'
    registry.authorization = "Basic " + base64.b64encode(b"me:hush").decode()
    uri = registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))
    with pytest.raises(UnreachableSource, match="requires credentials: set OCI_USERNAME and OCI_PASSWORD, and OCI_REG"):
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
