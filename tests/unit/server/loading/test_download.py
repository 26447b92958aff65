"""Downloads over HTTPS: they go on where they broke off, tell what may heal, and keep secrets."""

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
from tests.unit.server.loading.web import Asked, Reply, Web, ranged, serving
from tests.unit.server.models import iris

CONTENT = bytes(range(256)) * 40_000
CUT = 4_000_000

Serve = Callable[[Callable[[Asked], Reply]], AbstractContextManager[Web]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Servers whose authority is trusted, and downloads that do not wait between two tries."""
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


def test_a_download_goes_on_where_it_broke_off(serve: Serve) -> None:
    with serve(lambda asked: ranged(CONTENT, asked, None if "range" in asked.headers else CUT)) as web:
        assert download(f"{web.url}/model.bin") == CONTENT
    assert [request.headers.get("range") for request in web.asked] == [None, f"bytes={CUT}-"]
    assert web.asked[1].headers["if-range"] == '"1"', "only of the file that was begun"


def test_a_file_that_changed_in_between_is_read_from_the_start(serve: Serve) -> None:
    def answer(asked: Asked) -> Reply:
        return ranged(CONTENT[::-1], asked, etag='"2"') if "range" in asked.headers else ranged(CONTENT, asked, CUT)

    with serve(answer) as web:
        assert download(f"{web.url}/model.bin") == CONTENT[::-1]


@pytest.mark.parametrize("validator", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_validator_a_download_begins_again(serve: Serve, validator: dict[str, str]) -> None:
    replies = [Reply(200, CONTENT, validator, CUT), Reply(200, CONTENT, validator)]
    with serve(lambda _: replies.pop(0)) as web:
        assert download(f"{web.url}/model.bin") == CONTENT
    assert all("range" not in request.headers for request in web.asked)


def test_a_part_that_was_not_asked_for_is_not_pieced_in(serve: Serve) -> None:
    wrong = {"Content-Range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}", "ETag": '"1"'}
    replies = [ranged(CONTENT, Asked("", {}), CUT), Reply(206, CONTENT[7:], wrong)]
    with serve(lambda asked: replies.pop(0) if replies else ranged(CONTENT, asked)) as web:
        assert download(f"{web.url}/model.bin") == CONTENT


def test_a_server_that_never_gets_further_is_given_up(serve: Serve) -> None:
    words = r"model\.bin: the download from 127.* broke off, tried 4 times"
    with serve(lambda _: Reply(200, CONTENT, {}, CUT)) as web, pytest.raises(UnreachableSource, match=words):
        download(f"{web.url}/model.bin")
    assert len(web.asked) == transfer.TRIES


def test_what_passes_is_tried_again_and_what_does_not_is_told_at_once(serve: Serve) -> None:
    replies = [Reply(503), Reply(429), Reply(200, b"here")]
    with serve(lambda _: replies.pop(0)) as web:
        assert download(f"{web.url}/model.bin") == b"here"
    with serve(lambda _: Reply(404)) as web, pytest.raises(UnreachableSource, match="answered 404: check the URL"):
        download(f"{web.url}/model.bin")
    assert len(web.asked) == 1


def test_each_further_try_waits_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(UnreachableSource, match="it: nobody there, tried 4 times"):
        transfer.retried("it", broken)
    assert waits == [0.5, 1.0, 2.0]


def broken() -> None:
    raise transfer.Broken("nobody there")


def test_the_log_tells_how_far_a_long_download_is(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transfer, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "mlmodel_server"), serve(lambda asked: ranged(CONTENT, asked)) as web:
        download(f"{web.url}/model.bin")
    assert caplog.messages[0] == "model.bin: 1 of 10 MB"


def test_a_download_that_takes_forever_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "DEADLINE", 0.0)
    with serve(lambda asked: ranged(CONTENT, asked)) as web, pytest.raises(UnreachableSource, match="took longer"):
        download(f"{web.url}/model.bin")


def test_a_file_that_is_too_large_is_refused_by_its_announced_size(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_FILE", len(CONTENT) - 1)
    with serve(lambda _: Reply(200, CONTENT, {}, 1)) as web, pytest.raises(RefusedModel, match="is larger than"):
        download(f"{web.url}/model.bin")


def test_a_package_is_fetched_with_its_neighbours_and_its_signature(serve: Serve) -> None:
    files = package.build(*iris(), compile=False)
    key = ec.generate_private_key(ec.SECP256R1())
    files[SIGNATURE] = sign(files, pem(key), "iris")
    with serve(lambda asked: Reply(200, files[asked.path.rpartition("/")[2]])) as web:
        source = at(f"{web.url}/models/iris/mlmodel.json")
        assert source.names() == tuple(sorted(files))
        assert {name: source.read(name) for name in source.names()} == files
        assert load(source, trust="signed", keys=[public(key)]).signed_by
        with pytest.raises(RefusedModel, match="is no name of a model's file"):
            source.read("../other/model.skops")


def test_a_redirect_stays_on_tls(serve: Serve) -> None:
    places = {"/plain": "http://127.0.0.1:1/model", "/moved": "/final"}

    def answer(asked: Asked) -> Reply:
        return Reply(302, b"", {"Location": places[asked.path]}) if asked.path in places else Reply(200, b"here")

    with serve(answer) as web:
        assert download(f"{web.url}/moved") == b"here"
        with pytest.raises(RefusedModel, match="redirects to one without TLS"):
            download(f"{web.url}/plain")


def test_a_token_in_the_address_is_in_no_message(serve: Serve) -> None:
    with serve(lambda _: Reply(403)) as web, pytest.raises(UnreachableSource, match="answered 403") as caught:
        download(f"{web.url}/model.bin?token=hush")
    assert "hush" not in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(RefusedModel, match="without user name or password") as caught:
        at("https://me:hush@127.0.0.1/model.bin")
    assert "hush" not in str(caught.value)


def test_a_directory_without_a_list_of_its_files_is_refused() -> None:
    with pytest.raises(RefusedModel, match=r"MLmodel cannot be listed over https://: pack it as \.tar\.gz"):
        at("https://127.0.0.1/model/MLmodel")


def test_a_certificate_nobody_vouches_for_is_not_tried_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda _: Reply()) as web:
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(UnreachableSource, match=r"cannot be reached \(.*CERTIFICATE_VERIFY_FAILED"):
            download(f"{web.url}/model.bin")
    assert web.asked == []


def test_the_digest_of_an_archive_is_checked_before_it_is_unpacked(serve: Serve) -> None:
    with serve(lambda _: Reply(200, b"this is no archive")) as web:
        with pytest.raises(RefusedModel, match=r"model\.tar\.gz has sha256 .*, but 0{64} was asked for"):
            at(f"{web.url}/model.tar.gz")
        digest = manifest.sha256(b"this is no archive")
        with pytest.raises(RefusedModel, match=r"model\.tar\.gz cannot be unpacked \(ReadError\)"):
            locate(f"{web.url}/model.tar.gz", None, digest)
