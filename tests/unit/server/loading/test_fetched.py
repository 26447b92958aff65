"""A model that is fetched by one process and opened by another; and no file is read twice."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlmodel_server import package
from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.load import load
from mlmodel_server.loading.signing import SIGNATURE, sign
from mlmodel_server.loading.sources import Memory, Source, fetch, locate
from mlmodel_server.loading.sources.fetched import DESCRIPTION, FILES
from mlmodel_server.loading.sources.pin import directory_digest
from mlmodel_server.manifest import MANIFEST, sha256
from tests.unit.server.loading.test_archive import tar
from tests.unit.server.loading.test_signing import key, pem, public
from tests.unit.server.models import iris, joblib_bytes

URI = "s3://models/iris"


def files() -> dict[str, bytes]:
    return package.build(*iris(), compile=False)


def reopened(directory: Path, digest: str) -> Source:
    return locate(URI, None, digest, fetched_to=directory)


def sources() -> dict[str, tuple[Memory, str]]:
    """Return a source of each kind, and the digest of its model."""
    content, bare = files(), joblib_bytes(iris()[0])
    packed = gzip.compress(tar({f"iris/{name}": data for name, data in content.items()}), mtime=0)
    flow = {"MLmodel": b"flavors: {}", "data/weights.bin": b"1", "Z": b""}
    return {
        "package": (Memory(content | {"README": b"x"}), sha256(content[MANIFEST])),
        "bare file without a suffix": (Memory({"iris": bare}, "iris"), sha256(bare)),
        "bare file in a folder": (Memory({"a/b/iris.joblib": bare}, "a/b/iris.joblib"), sha256(bare)),
        "archive": (Memory({"iris.tar.gz": packed}, "iris.tar.gz"), sha256(packed)),
        "directory": (Memory(flow, "MLmodel"), directory_digest(flow)),
    }


@pytest.mark.parametrize("kind", sources())
def test_what_was_fetched_is_opened_like_the_source_itself(kind: str, tmp_path: Path) -> None:
    source, digest = sources()[kind]
    assert fetch(source, digest, tmp_path, everything=False) > 0
    again = reopened(tmp_path, digest)
    if kind == "directory":
        assert again.sha256 == digest
        assert {name: again.read(name) for name in again.names()} == {n: source.read(n) for n in source.names()}
        return
    loaded = load(again, digest)
    assert loaded.sha256 == digest or kind == "archive"
    assert loaded.opened.format in ("joblib", "skops")
    assert "README" not in again.names(), "what is not opened is not fetched"
    assert (tmp_path / FILES).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", sources())
def test_a_wrong_digest_is_found_before_the_model_counts_as_fetched(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match=r"has sha256 \w{64}, but 0{64} is required"):
        fetch(sources()[kind][0], "0" * 64, tmp_path, everything=False)
    assert not (tmp_path / DESCRIPTION).exists()
    with pytest.raises(UnreachableSource, match="fetch it first, with the same options and --fetch-to"):
        reopened(tmp_path, "0" * 64)


def test_a_file_of_a_package_that_differs_from_its_list_is_found_too(tmp_path: Path) -> None:
    content = files() | {"model.skops": b"other"}
    with pytest.raises(RefusedModel, match=r"model\.skops has sha256 \w{64}, but mlmodel\.json lists"):
        fetch(Memory(content), sha256(content[MANIFEST]), tmp_path, everything=False)
    assert not (tmp_path / DESCRIPTION).exists()


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("file", [MANIFEST, "model.skops"])
def test_a_file_that_is_changed_afterwards_is_refused_by_the_process_that_opens_it(file: str, tmp_path: Path) -> None:
    content = files()
    digest = sha256(content[MANIFEST])
    fetch(Memory(content), digest, tmp_path, everything=False)
    (tmp_path / FILES / file).chmod(0o600)
    (tmp_path / FILES / file).write_bytes(content[file] + b" ")
    with pytest.raises(RefusedModel, match="has sha256"):
        load(reopened(tmp_path, digest), digest)


def test_a_repeated_fetch_replaces_what_an_interrupted_one_left(tmp_path: Path) -> None:
    bare = joblib_bytes(iris()[0])
    with pytest.raises(UnreachableSource):
        fetch(Memory({"MLmodel": b"", "gone": b""} | {}, "missing"), "", tmp_path, everything=False)
    (tmp_path / FILES / "left").write_bytes(b"")
    fetch(Memory({"iris": bare}, "iris"), sha256(bare), tmp_path, everything=False)
    assert reopened(tmp_path, sha256(bare)).names() == ("iris",)


def test_a_signed_model_is_fetched_with_every_file(tmp_path: Path) -> None:
    content = files() | {"README": b"x"}
    content[SIGNATURE] = sign(content, pem(key()), "iris")
    digest = sha256(content[MANIFEST])
    fetch(Memory(content), digest, tmp_path, everything=True)
    again = reopened(tmp_path, digest)
    assert load(again, digest, trust="signed", keys=[public(key())], name="iris").signed_by
    with pytest.raises(RefusedModel, match="signed as 'iris', but is served as 'fraud'"):
        load(again, digest, trust="signed", keys=[public(key())], name="fraud")


def test_a_directory_that_cannot_be_written_is_named_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnreachableSource, match="cannot be written to --fetch-to") as caught:
        fetch(*sources()["package"], tmp_path / "file", everything=False)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("description", [b"", b"{", b'{"entry": 1}', b'{"entry": "x"'])
def test_a_description_that_is_cut_off_is_no_model(description: bytes, tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_bytes(description)
    with pytest.raises(UnreachableSource, match="the directory of --fetched has no model"):
        reopened(tmp_path, "0" * 64)


@pytest.mark.attack(held=True)
def test_a_description_does_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(json.dumps({"entry": "../outside"}))
    with pytest.raises(RefusedModel, match="is not a valid file name"):
        reopened(tmp_path, "0" * 64)


class Changing:
    """A source that somebody writes to while it is read: the reads of a file with the numbers ``at``, from 1, return
    what is ``evil``, all others what was signed."""

    sha256 = ""

    def __init__(self, signed: dict[str, bytes], evil: dict[str, bytes], at: Collection[int]) -> None:
        self._signed, self._evil, self._at = signed, evil, at
        self.entry, self.reads = MANIFEST, Counter[str]()

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._signed))

    def read(self, name: str) -> bytes:
        self.reads[name] += 1
        if name not in self._signed or (name in self._evil and self.reads[name] in self._at):
            return self._evil[name]
        return self._signed[name]


class Ran:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("at", [(), (1,), (2,), (2, 3)])
def test_only_bytes_whose_signature_was_checked_are_opened(at: tuple[int, ...], tmp_path: Path) -> None:
    """The description is replaced for a moment by one that names a file without a signature."""
    content = files()
    content[SIGNATURE] = sign(content, pem(key()), "iris")
    evil = joblib_bytes(Ran(str(tmp_path / "ran")))
    described = json.loads(content[MANIFEST])
    described["artefact"] = "evil.joblib"
    described["files"] = {"evil.joblib": {"sha256": sha256(evil), "bytes": len(evil)}}
    source = Changing(content, {MANIFEST: json.dumps(described).encode(), "evil.joblib": evil}, at)
    if 1 in at:
        with pytest.raises(RefusedModel, match=r"mlmodel\.json changed"):
            load(source, trust="signed", keys=[public(key())], name="iris")
    else:
        assert load(source, trust="signed", keys=[public(key())], name="iris").opened.format == "skops"
    assert set(source.reads.values()) == {1}
    assert not (tmp_path / "ran").exists()


@pytest.mark.attack(held=True)
def test_a_signed_description_cannot_list_a_file_that_was_not_signed(tmp_path: Path) -> None:
    content = files()
    late = content.pop("model.skops")
    content[SIGNATURE] = sign(content, pem(key()), "iris")
    source = Changing(content, {"model.skops": late}, ())
    with pytest.raises(UnreachableSource, match=r"model\.skops is missing from the package"):
        load(source, trust="signed", keys=[public(key())], name="iris")


@pytest.mark.attack(held=True)
def test_each_file_is_read_once_in_strict_too() -> None:
    model = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])
    content = package.build(model, np.eye(4), np.array([0, 1, 0, 1]), compile=False)
    source = Changing(content, {}, ())
    assert load(source).opened.format == "skops"
    assert set(source.reads.values()) == {1}
