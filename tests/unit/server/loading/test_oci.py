"""Registries: which layers are files of the model, who gets which credentials, and digests of everything.

What a real registry answers is tested in ``tests/integration/server/test_storage.py``.
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
from tests.unit.server.loading.web import Asked, Reply, Web, ranged, serving
from tests.unit.server.models import iris

LAYER = "application/vnd.oci.image.layer.v1.tar"
ANY = "0" * 64


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """A repository ``team/model`` with the tag ``1``, which may want a token or a password first."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    challenge: str = ""
    authorization: str = ""
    forged: bytes = b""
    cut: int | None = None
    web: Web | None = None

    def push(self, *layers: tuple[str, bytes, dict[str, str]], **more: Any) -> str:
        """The URI of an artefact with these layers (media type, content, annotations), by its digest."""
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

    def answer(self, asked: Asked) -> Reply:
        path, _, query = asked.path.partition("?")
        if path == "/token":
            wanted = parse_qs(query)
            right = wanted == {"service": ["here"], "scope": ["repository:team/model:pull"]}
            denied = self.authorization == "Bearer denied"
            return Reply(401 if denied or not right else 200, b'{"access_token": "abc"}')
        if path.startswith("/elsewhere/"):
            assert "authorization" not in asked.headers, "a redirect took the token along"
            return ranged(self.blobs[path.removeprefix("/elsewhere/")], asked)
        if self.challenge and asked.headers.get("authorization") != self.authorization:
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
        return ranged(self.blobs[blob], asked, cut)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "OCI_USERNAME", "OCI_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    made = Registry()
    with serving(tmp_path, made.answer) as made.web:
        yield made


def pulled(uri: str, sha: str = "") -> dict[str, bytes]:
    source = locate(uri, None, sha)
    return {name: source.read(name) for name in source.names()}


def test_files_pushed_one_by_one_are_a_package(registry: Registry) -> None:
    """As ``oras push`` does it, which calls every file a tar."""
    files = package.build(*iris(), compile=False)
    uri = registry.push(*((LAYER, data, {TITLE: name}) for name, data in files.items()))
    assert pulled(uri) == files
    assert load(locate(uri, None, "")).manifest is not None
    tagged = f"{registry.name}:1"
    assert load(locate(tagged, None, sha256(files[MANIFEST])), sha256(files[MANIFEST])).manifest is not None
    with pytest.raises(RefusedModel, match=r"an oci:// model needs its digest: .*oci://HOST/NAME@sha256:"):
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


def test_what_is_no_file_of_the_model_is_passed_over(registry: Registry) -> None:
    uri = registry.push(
        ("application/vnd.cncf.model.weight.v1.raw", b"weights", {FILE_PATH: "model.onnx"}),
        ("application/vnd.dev.cosign.simplesigning.v1+json", b"{}", {}),
        (LAYER, b"secret", {TITLE: ".hidden"}),
    )
    assert pulled(uri) == {"model.onnx": b"weights"}


def test_a_layer_that_breaks_off_is_resumed(registry: Registry) -> None:
    content = bytes(range(256)) * 1_000
    registry.cut = 100_000
    assert pulled(registry.push((LAYER, content, {TITLE: "model.onnx"}))) == {"model.onnx": content}
    assert registry.web is not None
    assert registry.web.asked[-1].headers["range"] == "bytes=100000-"


@pytest.mark.parametrize("user", ["", "me"])
def test_a_token_is_fetched_where_the_registry_says_and_not_taken_elsewhere(
    registry: Registry, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_USERNAME", user)
    monkeypatch.setenv("OCI_PASSWORD", "hush")
    registry.challenge, registry.authorization = 'Bearer realm="{url}/token",service="here"', "Bearer abc"
    assert pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))) == {"model.onnx": b"weights"}
    assert registry.web is not None
    token = next(asked for asked in registry.web.asked if asked.path.startswith("/token"))
    basic = "Basic " + base64.b64encode(b"me:hush").decode()
    assert token.headers.get("authorization") == (basic if user else None)
    assert sum(asked.path.startswith("/token") for asked in registry.web.asked) == 1


def test_a_password_is_sent_when_the_registry_asks_for_one(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.challenge = 'Basic realm="here"'
    registry.authorization = "Basic " + base64.b64encode(b"me:hush").decode()
    uri = registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))
    with pytest.raises(UnreachableSource, match="wants credentials: set OCI_USERNAME and OCI_PASSWORD"):
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
        ('Bearer realm="http://127.0.0.1:1/token"', "Bearer abc", "wants credentials: set OCI_USERNAME"),
        ("Negotiate", "Negotiate abc", "wants credentials: set OCI_USERNAME"),
    ],
)
def test_a_challenge_that_cannot_be_met_is_told(
    registry: Registry, challenge: str, authorization: str, words: str
) -> None:
    registry.challenge, registry.authorization = challenge, authorization
    with pytest.raises(UnreachableSource, match=words):
        pulled(registry.push((LAYER, b"weights", {TITLE: "model.onnx"})))


def test_a_wrong_manifest_or_layer_is_refused(registry: Registry) -> None:
    uri = registry.push((LAYER, b"weights", {TITLE: "model.onnx"}))
    registry.blobs[digest(b"weights")] = b"weight5"
    with pytest.raises(RefusedModel, match=r"model\.onnx is not what its digest says"):
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
        (b"[]", "is no OCI artefact"),
        (b"<html>", "is no OCI artefact"),
        (b'{"layers": []}', "holds no model"),
        (b'{"layers": [{"mediaType": "x", "digest": "sha512:1", "size": 1, "annotations": {"%s": "m.onnx"}}]}'
         % TITLE.encode(), "m.onnx has no sha256 digest"),
        (b"x" * (5 << 20), "larger than 4 MiB"),
    ],
)  # fmt: skip
def test_what_is_no_artefact_is_refused(registry: Registry, manifest: bytes, words: str) -> None:
    registry.manifest = manifest
    with pytest.raises(RefusedModel, match=words):
        locate(f"{registry.name}:1", None, ANY)


def test_layers_are_bounded_and_hold_each_file_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = registry.push((LAYER, b"1", {TITLE: "model.onnx"}), (LAYER, b"2", {TITLE: "model.onnx"}))
    with pytest.raises(RefusedModel, match=r"two layers of the artefact hold model\.onnx"):
        pulled(twice)
    out = registry.push((LAYER, b"1", {TITLE: "../model.onnx"}))
    with pytest.raises(RefusedModel, match="is no name of a model's file"):
        pulled(out)
    large = registry.push((LAYER, b"12345", {TITLE: "model.onnx"}))
    monkeypatch.setattr(limits, "MAX_FILE", 4)
    assert registry.web is not None
    registry.web.asked.clear()
    with pytest.raises(RefusedModel, match=r"model\.onnx is larger than"):
        pulled(large)
    assert len(registry.web.asked) == 1, "the announced size was enough"


@pytest.mark.parametrize("uri", ["oci://host", "oci://host/name", "oci://me:hush@host/name:1", "oci://host/Name:1"])
def test_a_reference_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(RefusedModel, match="an oci:// model is given as oci://HOST/NAME:TAG or") as caught:
        locate(uri, None, ANY)
    assert "hush" not in str(caught.value)


def test_a_mounted_image_is_not_pulled(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    assert not isinstance(locate("oci://host/name:1", tmp_path, ""), Memory)
