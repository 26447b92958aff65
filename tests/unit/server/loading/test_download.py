"""Downloads over HTTPS: they resume after interruptions, retry only what may succeed, and keep secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mlmodel_server import manifest, package
from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading import limits
from mlmodel_server.loading.load import load
from mlmodel_server.loading.signing import SIGNATURE, sign
from mlmodel_server.loading.sources import Source, locate, transfer
from tests.unit.server.loading.test_signing import pem, public
from tests.unit.server.loading.web import Reply, Request, Web, ranged, serving
from tests.unit.server.loglines import events
from tests.unit.server.models import iris

CONTENT = bytes(range(256)) * 40_000
CUT = 4_000_000

Serve = Callable[[Callable[[Request], Reply]], AbstractContextManager[Web]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Servers whose authority is trusted, and downloads that do not wait before a retry."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    return lambda answer: serving(tmp_path, answer)


def download(url: str) -> bytes:
    source = at(url)
    return source.read(source.entry)


def at(url: str) -> Source:
    return locate(url, None, "0" * 64)


def test_an_interrupted_download_resumes(serve: Serve) -> None:
    with serve(lambda request: ranged(CONTENT, request, None if "range" in request.headers else CUT)) as web:
        assert download(f"{web.url}/model.bin") == CONTENT
    assert [request.headers.get("range") for request in web.requests] == [None, f"bytes={CUT}-"]
    assert web.requests[1].headers["if-range"] == '"1"', "only if it is still the same file"


def test_a_file_that_changed_in_between_is_read_from_the_start(serve: Serve) -> None:
    def answer(request: Request) -> Reply:
        return (
            ranged(CONTENT[::-1], request, etag='"2"') if "range" in request.headers else ranged(CONTENT, request, CUT)
        )

    with serve(answer) as web:
        assert download(f"{web.url}/model.bin") == CONTENT[::-1]


@pytest.mark.parametrize("validator", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_validator_a_download_starts_again(serve: Serve, validator: dict[str, str]) -> None:
    replies = [Reply(200, CONTENT, validator, CUT), Reply(200, CONTENT, validator)]
    with serve(lambda _: replies.pop(0)) as web:
        assert download(f"{web.url}/model.bin") == CONTENT
    assert all("range" not in request.headers for request in web.requests)


def test_a_part_that_was_not_requested_is_ignored(serve: Serve) -> None:
    wrong = {"Content-Range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}", "ETag": '"1"'}
    replies = [ranged(CONTENT, Request("", {}), CUT), Reply(206, CONTENT[7:], wrong)]
    with serve(lambda request: replies.pop(0) if replies else ranged(CONTENT, request)) as web:
        assert download(f"{web.url}/model.bin") == CONTENT


def test_a_download_without_progress_fails_after_four_tries(serve: Serve) -> None:
    words = r"model\.bin failed 4 times: the download from 127.* was interrupted"
    with serve(lambda _: Reply(200, CONTENT, {}, CUT)) as web, pytest.raises(UnreachableSource, match=words):
        download(f"{web.url}/model.bin")
    assert len(web.requests) == transfer.TRIES


def test_transient_errors_are_retried_and_others_fail_at_once(serve: Serve) -> None:
    replies = [Reply(503), Reply(429), Reply(200, b"here")]
    with serve(lambda _: replies.pop(0)) as web:
        assert download(f"{web.url}/model.bin") == b"here"
    with serve(lambda _: Reply(404)) as web, pytest.raises(UnreachableSource, match="answered 404: check the URL"):
        download(f"{web.url}/model.bin")
    assert len(web.requests) == 1


def test_each_further_retry_waits_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(UnreachableSource, match="it failed 4 times: no response"):
        transfer.with_retries("it", broken)
    assert waits == [0.5, 1.0, 2.0]


def broken() -> None:
    raise transfer.Broken("no response")


def test_the_log_has_the_progress_of_a_long_download(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transfer, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "mlmodel_server"), serve(lambda request: ranged(CONTENT, request)) as web:
        download(f"{web.url}/model.bin")
    assert events(caplog)[0] == '"downloading" file=model.bin received_mb=1 total_mb=10'


def test_a_download_that_takes_too_long_fails(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "DEADLINE", 0.0)
    with serve(lambda request: ranged(CONTENT, request)) as web, pytest.raises(UnreachableSource, match="took longer"):
        download(f"{web.url}/model.bin")


@pytest.mark.attack(held=True)
def test_a_file_that_is_too_large_is_rejected_by_its_declared_size(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_FILE", len(CONTENT) - 1)
    with serve(lambda _: Reply(200, CONTENT, {}, 1)) as web, pytest.raises(RefusedModel, match="is larger than"):
        download(f"{web.url}/model.bin")


def test_a_package_is_downloaded_with_its_files_and_its_signature(serve: Serve) -> None:
    files = package.build(*iris(), compile=False)
    key = ec.generate_private_key(ec.SECP256R1())
    files[SIGNATURE] = sign(files, pem(key), "iris")
    with serve(lambda request: Reply(200, files[request.path.rpartition("/")[2]])) as web:
        source = at(f"{web.url}/models/iris/mlmodel.json")
        assert source.names() == tuple(sorted(files))
        assert {name: source.read(name) for name in source.names()} == files
        assert load(source, trust="signed", keys=[public(key)], name="iris").signed_by
        with pytest.raises(RefusedModel, match="is not a valid file name"):
            source.read("../other/model.skops")


@pytest.mark.attack(held=True)
def test_a_redirect_stays_on_tls(serve: Serve) -> None:
    places = {"/plain": "http://127.0.0.1:1/model", "/moved": "/final"}

    def answer(request: Request) -> Reply:
        return Reply(302, b"", {"Location": places[request.path]}) if request.path in places else Reply(200, b"here")

    with serve(answer) as web:
        assert download(f"{web.url}/moved") == b"here"
        with pytest.raises(RefusedModel, match="redirects to one without TLS"):
            download(f"{web.url}/plain")


@pytest.mark.attack(held=True)
def test_a_token_in_the_address_is_in_no_message(serve: Serve) -> None:
    with serve(lambda _: Reply(403)) as web, pytest.raises(UnreachableSource, match="answered 403") as caught:
        download(f"{web.url}/model.bin?token=hush")
    assert "hush" not in str(caught.value)


@pytest.mark.attack(held=True)
def test_a_password_in_the_address_is_rejected_and_not_repeated() -> None:
    with pytest.raises(RefusedModel, match="without user name, password") as caught:
        at("https://me:hush@127.0.0.1/model.bin")
    assert "hush" not in str(caught.value)


def test_a_directory_without_a_list_of_its_files_is_rejected() -> None:
    with pytest.raises(RefusedModel, match=r"MLmodel cannot be listed over https://: pack it as \.tar\.gz"):
        at("https://127.0.0.1/model/MLmodel")


@pytest.mark.attack(held=True)
def test_an_untrusted_certificate_is_not_retried(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda _: Reply()) as web:
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(UnreachableSource, match=r"cannot be reached \(.*CERTIFICATE_VERIFY_FAILED"):
            download(f"{web.url}/model.bin")
    assert web.requests == []


@pytest.mark.attack(held=True)
def test_the_digest_of_an_archive_is_checked_before_it_is_unpacked(serve: Serve) -> None:
    with serve(lambda _: Reply(200, b"not an archive")) as web:
        with pytest.raises(RefusedModel, match=r"model\.tar\.gz has sha256 .*, but 0{64} is required"):
            at(f"{web.url}/model.tar.gz")
        digest = manifest.sha256(b"not an archive")
        with pytest.raises(RefusedModel, match=r"model\.tar\.gz cannot be unpacked \(ReadError\)"):
            locate(f"{web.url}/model.tar.gz", None, digest)
