"""The audit of the locks: what is vulnerable is reported, and what could not be looked up is never called safe."""

from __future__ import annotations

import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack import audit
from hack.audit import KNOWN, NoAnswer, affects, ask_index, read_osv
from hack.lock import Pin

LISTED = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fixed_in": ["2.0"], "withdrawn": None}
SAFE, BAD = Pin("safe", "1.0"), Pin("bad", "1.0")


class Index(http.server.BaseHTTPRequestHandler):
    """A package index: of each path the list of vulnerabilities; None is an index without this part."""

    listed: dict[str, list[dict[str, Any]] | None]

    def do_GET(self) -> None:
        found = self.listed.get(self.path.split("/")[1], [])
        if self.path.split("/")[1] not in self.listed:
            self.send_error(404)
            return
        body = json.dumps({"info": {}} if found is None else {"vulnerabilities": found}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[audit.Source]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield partial(ask_index, index=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_a_vulnerability_of_the_index_is_reported(index: audit.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    Index.listed = {KNOWN.name: [LISTED], "safe": [], "bad": [LISTED, {**LISTED, "withdrawn": "2026-01-01"}]}
    assert audit.audit(index, [SAFE]) == []
    assert audit.audit(index, [SAFE, BAD]) == ["bad 1.0: PYSEC-1, fixed in 2.0"]
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "not reachable"})
    assert audit.audit(index, [BAD]) == []


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({}, "answered 404 for jinja2"),
        ({KNOWN.name: None}, "did not answer \\(KeyError\\)"),
        ({KNOWN.name: []}, "lists no vulnerability of jinja2 2.4.1, which has some"),
        ({KNOWN.name: [LISTED]}, "answered 404 for safe 1.0"),
    ],
)
def test_a_source_without_an_answer_is_not_a_safe_package(
    index: audit.Source, listed: dict[str, Any], words: str
) -> None:
    Index.listed = listed
    with pytest.raises(NoAnswer, match=words):
        audit.audit(index, [SAFE])


def test_without_a_source_the_exit_code_is_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--osv", str(tmp_path / "missing.zip")]) == audit.NOT_AUDITED
    assert capsys.readouterr().err.startswith("NOT AUDITED: missing.zip is not an export of OSV (FileNotFoundError)")


def test_an_export_of_osv_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def entry(identity: str, package: str, **more: Any) -> dict[str, Any]:
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.10"}]}]
        affected = [{"package": {"ecosystem": "PyPI", "name": package}, "ranges": ranges}]
        return {"id": identity, "aliases": [f"CVE-{identity}"], "affected": affected, **more}

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for one in (entry("A", "Jinja2"), entry("B", "Bad"), entry("C", "bad", withdrawn="2026-01-01T00:00:00Z")):
            archive.writestr(f"{one['id']}.json", json.dumps(one))
    source = read_osv(tmp_path / "all.zip")
    assert audit.audit(source, [SAFE, BAD, Pin("bad", "2.10")]) == ["bad 1.0: B, fixed in 2.10"]
    assert audit.main(["--osv", str(tmp_path / "all.zip")]) == 0
    assert "no known vulnerability" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        ([{"introduced": "0"}, {"fixed": "2.10"}], ["0.1", "2.9", "2.10rc1"], ["2.10", "3"]),
        ([{"introduced": "1.5"}, {"last_affected": "1.9"}], ["1.5", "1.9"], ["1.4", "1.10"]),
        (
            [{"introduced": "1"}, {"fixed": "1.3"}, {"introduced": "2"}, {"fixed": "2.2"}],
            ["1.2", "2.1"],
            ["1.3", "2.2"],
        ),
        ([{"fixed": "1.3"}, {"introduced": "0"}], ["1.2"], ["1.3"]),
        ([{"introduced": "0"}], ["99"], []),
    ],
)
def test_ranges_of_osv(events: list[dict[str, str]], inside: list[str], outside: list[str]) -> None:
    part = {"ranges": [{"type": "ECOSYSTEM", "events": events}], "versions": ["5.5.5"]}
    assert all(affects(part, version) for version in (*inside, "5.5.5"))
    assert not any(affects(part, version) for version in outside)
