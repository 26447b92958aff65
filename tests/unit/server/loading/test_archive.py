"""Archives: a model's directory is unpacked whole; links, paths out of it, bombs and too large files are rejected."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlmodel_server import package
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading import archive
from mlmodel_server.loading.archive import is_archive, unpack
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import locate
from mlmodel_server.manifest import sha256
from tests.unit.server.models import iris

FILES = {"mlmodel.json": b"{}", "variables/weights.bin": b"\x00\x01"}


def tar(files: Mapping[str, bytes], *more: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as packed:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
        for entry in more:
            packed.addfile(entry)
    return stream.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def packed_zip(files: Mapping[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as packed:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.external_attr = method, mode << 16
            packed.writestr(entry, content)
    return stream.getvalue()


@pytest.mark.parametrize("top", ["", "model/", "./model/"])
@pytest.mark.parametrize(
    "pack", [tar, lambda files: gzip.compress(tar(files)), lambda files: bz2.compress(tar(files)),
             lambda files: lzma.compress(tar(files)), packed_zip], ids=["tar", "gz", "bz2", "xz", "zip"],
)  # fmt: skip
def test_files_are_unpacked_without_their_common_directory(pack: object, top: str) -> None:
    assert callable(pack)
    assert unpack(pack({top + name: content for name, content in FILES.items()}), "model.tar") == FILES


def test_files_that_macos_or_git_add_are_ignored() -> None:
    noise = {"__MACOSX/model/._x": b"", "model/._weights.onnx": b"", "model/.git/HEAD": b"", "model/.DS_Store": b""}
    model = {f"model/{name}": content for name, content in FILES.items()}
    assert unpack(tar({**noise, **model}), "model.tar") == FILES
    assert unpack(packed_zip({**noise, **model}), "model.zip") == FILES


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "model/../../evil", "a\\..\\evil", "a//b", "a\nb", "x" * 1_100, "a\u202eb"],
)
def test_a_path_out_of_the_directory_is_rejected_by_name(name: str) -> None:
    with pytest.raises(RefusedModel, match=r"evil|a/|a\\|xxx|is not a valid file name") as caught:
        unpack(tar({name: b""}), "model.tar")
    assert caught.value.args[0].isprintable()
    with pytest.raises(RefusedModel):
        unpack(packed_zip({name: b""}), "model.zip")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (special("model", tarfile.SYMTYPE, "/etc/passwd"), "'model', a link"),
        (special("model", tarfile.LNKTYPE, "mlmodel.json"), "'model', a link"),
        (special("model", tarfile.CHRTYPE), "'model', a special file"),
        (special("model", tarfile.FIFOTYPE), "'model', a special file"),
        (special("model", tarfile.GNUTYPE_SPARSE), "'model', a special file"),
        (special(".hidden", tarfile.SYMTYPE, "/etc"), "'.hidden', a link"),
        (special("../up", tarfile.DIRTYPE), "'../up', a path out of its directory"),
    ],
    ids=["symlink", "hardlink", "device", "pipe", "sparse", "hidden-link", "directory"],
)
def test_only_plain_files_are_unpacked_from_a_tar(entry: tarfile.TarInfo, words: str) -> None:
    with pytest.raises(RefusedModel, match=rf"model\.tar contains {words}"):
        unpack(tar({}, entry, form=tarfile.GNU_FORMAT), "model.tar")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFIFO])
def test_only_plain_files_are_unpacked_from_a_zip(mode: int) -> None:
    with pytest.raises(RefusedModel, match=r"model\.zip contains 'model', a link or special file"):
        unpack(packed_zip({"model": b"/etc/passwd"}, mode), "model.zip")


@pytest.mark.attack(held=True)
def test_a_name_is_that_of_one_file() -> None:
    again = tarfile.TarInfo("mlmodel.json")
    with pytest.raises(RefusedModel, match=r"contains mlmodel\.json twice"):
        unpack(tar(FILES, again), "model.tar")
    with pytest.raises(RefusedModel, match="contains variables as a file and as a directory"):
        unpack(tar({**FILES, "variables": b""}), "model.tar")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("pack", [lambda files: gzip.compress(tar(files)), packed_zip], ids=["tar.gz", "zip"])
def test_a_bomb_is_rejected_by_its_ratio(pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(pack)
    monkeypatch.setattr(archive, "SMALL", 1 << 20)
    zeros = pack({"model": bytes(4 << 20)})
    with pytest.raises(RefusedModel, match=r"200 times its size\)"):
        unpack(zeros, "model.archive")
    assert unpack(pack({"model": bytes(1 << 19)}), "model.archive")["model"] == bytes(1 << 19)


@pytest.mark.attack(held=True)
def test_headers_count_like_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pax header of 4 MiB of zeros, before an empty file."""
    monkeypatch.setattr(archive, "SMALL", 1 << 20)
    entry = tarfile.TarInfo("model")
    entry.pax_headers = {"comment": "0" * (4 << 20)}
    with pytest.raises(RefusedModel, match=r"200 times its size\)"):
        unpack(gzip.compress(tar({}, entry)), "model.tar.gz")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("pack", [tar, packed_zip], ids=["tar", "zip"])
def test_size_and_number_of_files_are_limited(pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(pack)
    with pytest.raises(RefusedModel, match="more than 2,000 files"):
        unpack(pack({f"d{number}/": b"" for number in range(2_001)}), "model.archive")
    monkeypatch.setattr(archive, "MAX_FILE", 1)
    with pytest.raises(RefusedModel, match="more than a model may have"):
        unpack(pack({"model": b"12"}), "model.archive")


@pytest.mark.attack(held=True)
def test_a_zip_is_not_parsed_when_its_directory_is_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(RefusedModel, match="more than 100,000 entries"):
        unpack(b"PK\x03\x04" + b"PK\x01\x02" * 100_001, "model.zip")


@pytest.mark.parametrize(
    "data", [b"", b"nothing", b"PK\x03\x04", b"\x1f\x8b\x08", gzip.compress(tar(FILES))[:-20], tar(FILES)[:513],
             packed_zip(FILES)[:-9], packed_zip(FILES).replace(b"PK\x03\x04", b"PK\x03\x05")],
)  # fmt: skip
def test_a_damaged_archive_is_rejected_in_one_sentence(data: bytes) -> None:
    with pytest.raises(RefusedModel, match=r"model\.tgz cannot be unpacked \(\w+\): pack"):
        unpack(data, "model.tgz")


def test_unsupported_compression_and_encryption_are_named() -> None:
    with pytest.raises(RefusedModel, match="zstd"):
        unpack(b"\x28\xb5\x2f\xfd", "model.tar.zst")
    encrypted = bytearray(packed_zip({"model": b"1"}))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(RefusedModel, match="encrypted"):
        unpack(bytes(encrypted), "model.zip")


def test_formats_that_are_zip_files_are_not_archives() -> None:
    assert all(map(is_archive, ["m.tar", "m.tar.gz", "M.TGZ", "m.zip", "m.tar.xz"]))
    assert not any(map(is_archive, ["m.skops", "m.keras", "m.pt", "m.npz", "m.gz", "zip"]))


def test_a_packed_package_loads_and_its_digest_is_that_of_the_archive(tmp_path: Path) -> None:
    files = {f"iris/{name}": content for name, content in package.build(*iris(), compile=False).items()}
    packed = tmp_path / "iris.tar.gz"
    packed.write_bytes(gzip.compress(tar(files)))
    digest = sha256(packed.read_bytes())
    source = locate(f"file://{tmp_path}", None, digest)
    assert source.sha256 == digest
    assert load(source).manifest is not None
    with pytest.raises(RefusedModel, match=r"iris\.tar\.gz has sha256"):
        locate(str(packed), None, "0" * 64)
    packed.write_bytes(tar({"readme.md": b""}))
    with pytest.raises(RefusedModel, match=r"iris\.tar\.gz contains no model"):
        locate(str(packed), None, "")
