"""Object stores: which objects are a model's files, and how variables and a mounted Secret configure each store.

``tests/integration/server/test_storage.py`` tests S3 and Google with real servers. Azure has no lightweight server, so
a recorder of requests replaces it here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote

import pytest

from mlmodel_server.errors import RefusedModel, UnreachableSource, not_installed

pytest.importorskip("obstore", reason=not_installed("the test", "obstore", "storage"))

from obstore.store import MemoryStore

from mlmodel_server import package
from mlmodel_server.loading import limits
from mlmodel_server.loading.load import load
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources import Source, locate, objects, storage, transfer
from mlmodel_server.manifest import MANIFEST, sha256
from tests.unit.server.loading.web import Reply, Request, Web, serving
from tests.unit.server.models import iris

ANY = "0" * 64
Serve = Callable[[Callable[[Request], Reply]], AbstractContextManager[Web]]
VARIABLES = ("AWS_", "GOOGLE_", "AZURE_", "OCI_", "MLMODEL_STORAGE", "HTTP", "HTTPS", "ALL_PROXY")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of this machine have no effect, and retries do not wait."""
    for name in os.environ:
        if name.upper().startswith(VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setattr(transfer, "PAUSE", 0.0)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """An empty bucket, in which every ``s3://`` URI is."""
    store = MemoryStore()
    monkeypatch.setattr(objects, "store_of", lambda _kind, _bucket: (store, "storage"))
    return store


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Servers whose authority is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    return lambda answer: serving(tmp_path, answer)


def at(uri: str, digest: str = ANY) -> Source:
    return locate(uri, None, digest)


def test_an_object_is_a_bare_file(bucket: MemoryStore) -> None:
    bucket.put("models/model.onnx", b"weights")
    bucket.put("models/other.onnx", b"others")
    source = at("s3://bucket/models/model.onnx")
    assert (source.entry, source.names()) == ("model.onnx", ("model.onnx",))
    assert source.read("model.onnx") == b"weights"
    bucket.put(f"models/{SIGNATURE}", b"{}")
    assert source.names() == ("model.onnx", SIGNATURE)


@pytest.mark.parametrize("uri", ["s3://bucket/iris", "s3://bucket/iris/", f"s3://bucket/iris/{MANIFEST}"])
def test_a_prefix_is_a_directory(bucket: MemoryStore, uri: str) -> None:
    files = package.build(*iris(), compile=False)
    for name, data in {**files, "variables/index": b"1", ".git/HEAD": b"2", "variables": b""}.items():
        bucket.put(f"iris/{name}", data)
    bucket.put("iris-2/model.skops", b"a neighbour")
    source = at(uri)
    assert source.entry == MANIFEST
    assert source.names() == (MANIFEST, "model.skops", "variables/index")
    assert load(source, sha256(files[MANIFEST])).manifest is not None
    with pytest.raises(RefusedModel, match="is not a valid file name"):
        source.read("../iris-2/model.skops")


def test_large_objects_are_read_in_blocks_and_empty_ones_without_a_request(
    bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 3
    bucket.put("model.onnx", content)
    bucket.put("empty.onnx", b"")
    monkeypatch.setattr(objects, "BLOCK", 100)
    assert at("s3://bucket/model.onnx").read("model.onnx") == content
    assert at("s3://bucket/empty.onnx").read("empty.onnx") == b""


def test_an_object_that_is_replaced_during_the_download_is_not_mixed(
    bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("model.onnx", b"first")
    source = at("s3://bucket/model.onnx")
    bucket.put("model.onnx", b"other")
    with pytest.raises(UnreachableSource, match="was replaced during the download"):
        source.read("model.onnx")


def test_size_and_number_of_objects_are_limited_before_they_are_read(
    bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        bucket.put(f"many/{number}", b"12345")
    monkeypatch.setattr(limits, "MAX_FILE", 4)
    with pytest.raises(RefusedModel, match="0 is larger than"):
        at("s3://bucket/many/0").read("0")
    monkeypatch.setattr(limits, "MAX_FILES", 2)
    with pytest.raises(RefusedModel, match="more than 2 files"):
        at("s3://bucket/many/")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://bucket/gone", r"s3://bucket/gone has no model yet: .*aws s3 cp --recursive model s3://bucket/gone/$"),
        ("gs://bucket/gone/", r"gcloud storage cp --recursive model gs://bucket/gone/$"),
        ("az://box/a/gone", r"az storage blob upload-batch .* --destination box --destination-path a/gone$"),
    ],
)
def test_an_error_for_a_missing_model_has_the_command_that_copies_it(bucket: MemoryStore, uri: str, words: str) -> None:
    with pytest.raises(UnreachableSource, match=words):
        at(uri)


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "s3://me:hush@bucket/key", "s3:///key"])
def test_an_address_without_bucket_or_path_is_rejected(uri: str) -> None:
    with pytest.raises(RefusedModel, match=r"the URI of the (S3 )?model is not valid: give ") as caught:
        at(uri)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("key", ["a//b", "../b", "a/.hidden/b", "a\\b"])
def test_a_key_that_is_not_a_path_is_rejected(key: str) -> None:
    with pytest.raises(RefusedModel, match="is not a valid file name"):
        at(f"s3://bucket/{key}")


def test_an_endpoint_without_tls_must_be_on_this_machine_or_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example")
    words = "AWS_ENDPOINT_URL is an address without TLS: use https://, or set AWS_ALLOW_HTTP=true"
    with pytest.raises(RefusedModel, match=words):
        at("s3://bucket/model.onnx")


def test_an_unreadable_or_wrong_secret_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLMODEL_STORAGE_CREDENTIALS", str(tmp_path / "missing"))
    with pytest.raises(UnreachableSource, match="mount the Secret at the directory that MLMODEL_STORAGE_CREDENTIALS"):
        at("s3://bucket/model.onnx")
    monkeypatch.setenv("MLMODEL_STORAGE_CREDENTIALS", str(tmp_path))
    (tmp_path / "AWS_SECRET_KEY").write_text("hush")
    with pytest.raises(RefusedModel, match="have AWS_SECRET_KEY, which is not a variable of S3: use AWS_ACCESS_KEY_ID"):
        at("s3://bucket/model.onnx")
    (tmp_path / "AWS_SECRET_KEY").write_bytes(b"\xff")
    with pytest.raises(RefusedModel, match="are not text"):
        at("s3://bucket/model.onnx")
    (tmp_path / "AWS_SECRET_KEY").write_bytes(b"x" * 70_000)
    with pytest.raises(RefusedModel, match="AWS_SECRET_KEY of the storage credentials is larger than 64 KiB"):
        at("s3://bucket/model.onnx")


def test_the_secret_takes_precedence_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret as Kubernetes mounts it, through links, with a newline at the end."""
    dated = tmp_path / "..2026_01_01"
    dated.mkdir()
    (dated / "OCI_PASSWORD").write_text("mounted\n")
    (tmp_path / "..data").symlink_to(dated.name)
    (tmp_path / "OCI_PASSWORD").symlink_to("..data/OCI_PASSWORD")
    monkeypatch.setenv("MLMODEL_STORAGE_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("OCI_PASSWORD", "environment")
    monkeypatch.setenv("OCI_USERNAME", "environment")
    secret = storage.mounted()
    assert secret == {"OCI_PASSWORD": "mounted"}
    assert storage.setting("OCI_PASSWORD", secret) == "mounted"
    assert storage.setting("OCI_USERNAME", secret) == "environment"
    assert storage.setting("OTHER", secret) == ""


@pytest.mark.parametrize(
    ("uri", "secret", "path", "authorization"),
    [
        (
            "s3://bucket/models/model.onnx",
            {
                "AWS_ENDPOINT_URL": "{url}",
                "AWS_ACCESS_KEY_ID": "me",
                "AWS_SECRET_ACCESS_KEY": "hush",
                "AWS_REGION": "eu-central-1",
            },
            "/bucket/models/model.onnx",
            "AWS4-HMAC-SHA256 Credential=me/",
        ),
        (
            "gs://bucket/models/model.onnx",
            {"GOOGLE_BASE_URL": "{url}", "GOOGLE_BEARER_TOKEN": "hush-token"},
            "/bucket/models/model.onnx",
            "Bearer hush-token",
        ),
        (
            "az://box/models/model.onnx",
            {
                "AZURE_STORAGE_ENDPOINT": "{url}",
                "AZURE_STORAGE_ACCOUNT_NAME": "me",
                "AZURE_STORAGE_ACCOUNT_KEY": "aHVzaA==",
            },
            "/box/models/model.onnx",
            "SharedKey me:",
        ),
    ],
)
def test_each_store_gets_requests_over_tls_with_the_mounted_credentials(
    uri: str,
    secret: dict[str, str],
    path: str,
    authorization: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Serve,
) -> None:
    with serve(lambda _: Reply(403, b"<Error/>")) as web:
        folder = tmp_path / "secret"
        folder.mkdir()
        for name, value in secret.items():
            (folder / name).write_text(value.format(url=web.url))
        monkeypatch.setenv("MLMODEL_STORAGE_CREDENTIALS", str(folder))
        with pytest.raises(UnreachableSource, match=r"127\.0\.0\.1:\d+ rejected the credentials: check \w+") as caught:
            at(uri)
    assert "hush" not in str(caught.value)
    assert unquote(web.requests[0].path.partition("?")[0]) == path
    assert web.requests[0].headers["authorization"].startswith(authorization)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("s3://bucket/model.onnx", {"AWS_ENDPOINT_URL": "{url}", "AWS_ACCESS_KEY_ID": "me",
                                    "AWS_SECRET_ACCESS_KEY": "hush", "AWS_REGION": "r"}),
        ("gs://bucket/model.onnx", {"GOOGLE_BASE_URL": "{url}", "GOOGLE_BEARER_TOKEN": "hush-token"}),
        ("az://box/model.onnx", {"AZURE_STORAGE_ENDPOINT": "{url}", "AZURE_STORAGE_ACCOUNT_NAME": "me",
                                 "AZURE_STORAGE_ACCOUNT_KEY": "aHVzaA=="}),
    ],
)  # fmt: skip
def test_a_store_that_redirects_takes_the_credentials_nowhere(
    uri: str, secret: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    places = [""]

    def moved(request: Request) -> Reply:
        return Reply(307, b"", {"Location": places[-1] + request.path})

    folder = tmp_path / "secret"
    folder.mkdir()
    monkeypatch.setenv("MLMODEL_STORAGE_CREDENTIALS", str(folder))
    with serve(moved) as web, serving(tmp_path, lambda _: Reply(403), web.authority) as other:
        for name, value in secret.items():
            (folder / name).write_text(value.format(url=web.url))
        places.append(other.url)
        with pytest.raises(UnreachableSource):
            at(uri)
        with socket.create_server(("127.0.0.1", 0)) as plain:
            plain.setblocking(False)
            places.append(f"http://127.0.0.1:{plain.getsockname()[1]}")
            with pytest.raises(UnreachableSource):
                at(uri)
            with pytest.raises(BlockingIOError):
                plain.accept()  # no one has connected: a redirect out of TLS is not followed
    assert other.requests
    for sent in other.requests:
        assert "authorization" not in sent.headers
        assert "hush" not in str(sent)


def test_azure_requires_the_account() -> None:
    with pytest.raises(UnreachableSource, match=r"Azure Blob Storage is not configured correctly .*ACCOUNT_NAME"):
        at("az://box/model.onnx")
