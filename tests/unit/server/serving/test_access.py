"""API keys: found by their hash, reloaded when the file changes, kept when the new file is broken."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from mlmodel_server import files
from mlmodel_server.errors import RequestError, UsageError
from mlmodel_server.serving.access import LOOPBACK, ApiKeys, Hosts


def line(name: str, key: str) -> str:
    return f"{name}: {hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, which tests advance."""
    seconds = [1000.0]
    monkeypatch.setattr(files, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# of the shop\n\n" + line("shop", "s3cret") + line("tests", "other"))
    return path


def replace(path: Path, text: str) -> None:
    """Replace the file by another one, as the kubelet does."""
    new = path.with_name("new")
    new.write_text(text)
    os.replace(new, path)


def test_a_key_is_accepted_in_either_header(file: Path) -> None:
    keys = ApiKeys(file)
    assert keys.check({b"authorization": b"Bearer s3cret"}) == "shop"
    assert keys.check({b"authorization": b"bearer  other "}) == "tests"
    assert keys.check({b"x-api-key": b"other"}) == "tests"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "send it as 'Authorization: Bearer KEY'"),
        ({b"authorization": b"Basic czNjcmV0"}, "send it as"),
        ({b"authorization": b"Bearer "}, "send it as"),
        ({b"x-api-key": b""}, "send it as"),
        ({b"x-api-key": b"S3cret"}, "not known"),
        ({b"authorization": b"Bearer s3cret2"}, "not known"),
        ({b"x-api-key": hashlib.sha256(b"s3cret").hexdigest().encode()}, "not known"),
    ],
)
def test_any_other_key_is_rejected(file: Path, headers: dict[bytes, bytes], reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as rejected:
        ApiKeys(file).check(headers)
    assert rejected.value.status == 401


def test_a_changed_file_takes_effect_after_a_second(file: Path, now: list[float]) -> None:
    keys = ApiKeys(file)
    assert keys.check({b"x-api-key": b"s3cret"}) == "shop"
    replace(file, line("shop", "new"))
    now[0] += files.RELOAD_SECONDS
    assert keys.check({b"x-api-key": b"new"}) == "shop"
    with pytest.raises(RequestError, match="not known"):
        keys.check({b"x-api-key": b"s3cret"})


@pytest.mark.parametrize("broken", ["", "nonsense\n", "shop: abc\n", None])
def test_a_broken_file_leaves_the_former_keys_valid(
    file: Path, now: list[float], caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    keys = ApiKeys(file)
    if broken is None:
        file.unlink()
    else:
        replace(file, broken)
    now[0] += files.RELOAD_SECONDS
    with caplog.at_level(logging.ERROR, "mlmodel_server"):
        assert keys.check({b"x-api-key": b"s3cret"}) == "shop"
    assert caplog.messages == ["API keys not reloaded, the former ones stay valid"]
    with pytest.raises(RequestError):
        keys.check({b"x-api-key": b"anything"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("", "has no key"),
        ("# nothing\n", "has no key"),
        (line("shop", "a") + "tests=abc\n", "line 2 of the API keys is not 'NAME: SHA256'"),
        ("shop: " + "A" * 64 + "\n", "sha256sum"),
    ],
)
def test_a_server_that_requires_keys_never_starts_without_them(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        ApiKeys(path)


OWN_PAGE = {b"host": b"127.0.0.1:8080", b"origin": b"http://127.0.0.1:8080", b"sec-fetch-site": b"same-origin"}
LINK = {b"host": b"localhost:8080", b"sec-fetch-site": b"cross-site", b"sec-fetch-dest": b"document"}


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {b"host": b"127.0.0.1:8080"}),
        ("POST", {b"host": b"LocalHost"}),
        ("POST", {b"host": b"[::1]:65535"}),
        ("POST", OWN_PAGE),
        ("POST", {b"host": b"localhost:8080", b"origin": b"http://localhost:3000", b"sec-fetch-site": b"same-site"}),
        ("POST", {b"host": b"localhost:8080", b"origin": b"https://[::1]:3000"}),
        ("GET", {b"host": b"localhost:8080", b"sec-fetch-site": b"none", b"sec-fetch-dest": b"document"}),
        ("GET", LINK),
    ],
)
def test_clients_of_this_machine_and_the_own_page_reach_a_laptop(method: str, headers: dict[bytes, bytes]) -> None:
    Hosts(LOOPBACK).check(method, headers)


@pytest.mark.attack
@pytest.mark.parametrize(
    "host",
    [
        b"", b"evil.example", b"evil.example:8080", b"127.0.0.1.evil.example", b"localhost.evil.example:8080",
        b"evil.example@127.0.0.1", b"127.0.0.1@evil.example", b"127.0.0.1:80:80", b"127.0.0.1:", b"localhost ",
        b"localhost\t", b"[::1", b"::1", b"[::1].evil.example", b"0.0.0.0:8080", b"[::]:8080", b"2130706433",
        b"127.1", b"localhost,evil.example", b"evil.localhost", b"localhost.", b"local\xc2\xadhost",
    ],
)  # fmt: skip
def test_a_name_that_another_site_may_own_does_not_reach_a_laptop(host: bytes) -> None:
    """The page of a site whose name resolves to 127.0.0.1 could read every response."""
    with pytest.raises(RequestError, match=r"the header Host is .*send requests to 127.0.0.1 or") as caught:
        Hosts(LOOPBACK).check("GET", {b"host": host})
    assert caught.value.status == 403


@pytest.mark.attack
@pytest.mark.parametrize(
    "origin",
    [
        b"null", b"", b"http://evil.example", b"https://127.0.0.1.evil.example", b"http://evil.example:8080",
        b"http://evil.localhost:8080", b"file://", b"chrome-extension://localhost", b"http://localhost@evil.example",
        b"http://127.0.0.1:8080/", b"127.0.0.1:8080", b"http://127.0.0.1:8080 http://evil.example",
    ],
)  # fmt: skip
def test_a_page_of_another_site_does_not_reach_a_laptop(origin: bytes) -> None:
    for more in ({}, {b"sec-fetch-site": b"same-origin"}):
        with pytest.raises(RequestError, match=r"a page of .* sent this request: only pages of") as caught:
            Hosts(LOOPBACK).check("POST", {b"host": b"127.0.0.1:8080", b"origin": origin, **more})
        assert caught.value.status == 403


@pytest.mark.attack
def test_another_site_cannot_load_anything_but_a_page_from_a_laptop() -> None:
    hosts = Hosts(LOOPBACK)
    for method, more in (("POST", {}), ("GET", {b"sec-fetch-dest": b"image"}), ("GET", {b"sec-fetch-dest": b"iframe"})):
        with pytest.raises(RequestError, match="a page of another site sent this request"):
            hosts.check(method, LINK | more)


def test_the_names_are_those_that_the_server_was_started_with() -> None:
    hosts = Hosts({"my.machine"})
    hosts.check("POST", {b"host": b"my.machine:8080", b"origin": b"http://my.machine:8080"})
    with pytest.raises(RequestError):
        hosts.check("POST", {b"host": b"127.0.0.1:8080"})
