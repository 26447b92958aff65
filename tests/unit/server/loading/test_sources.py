"""Sources: which files they have, digests before parsing, and which failures may pass later."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlmodel_server import manifest, package
from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading import limits
from mlmodel_server.loading.load import load
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources import Local, Memory, locate
from mlmodel_server.loading.sources.entry import entry_of
from mlmodel_server.loading.sources.pin import directory_digest
from mlmodel_server.manifest import MANIFEST
from tests.unit.server.models import iris, joblib_bytes


def files() -> dict[str, bytes]:
    return package.build(*iris(), compile=False)


def test_a_config_map_mount_is_read_through_its_links(tmp_path: Path) -> None:
    dated = tmp_path / "..2026_01_01"
    dated.mkdir()
    for name, data in files().items():
        (dated / name).write_bytes(data)
        (tmp_path / name).symlink_to(Path("..data") / name)
    (tmp_path / "..data").symlink_to(dated.name)
    (dated / "variables").mkdir()
    (dated / "variables" / "index").write_bytes(b"1")
    (tmp_path / "variables").symlink_to(Path("..data") / "variables")
    source = Local(tmp_path)
    assert source.entry == MANIFEST
    assert source.names() == (MANIFEST, "model.skops", "variables/index")
    assert source.read("variables/index") == b"1"
    assert load(source).manifest is not None


@pytest.mark.attack(held=True)
def test_a_config_map_that_was_changed_is_rejected_by_name_with_what_to_do(tmp_path: Path) -> None:
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    digest = directory_digest(files())
    source = locate("configmap://fraud-v7", tmp_path, "", digest)
    assert load(source).sha256 == manifest.sha256(files()[MANIFEST])
    (tmp_path / "README").write_bytes(b"")
    with pytest.raises(RefusedModel) as raised:
        locate("configmap://fraud-v7", tmp_path, "", digest)
    message = str(raised.value)
    assert message.startswith(
        "ConfigMap fraud-v7 was changed after this revision started: give the changed model a new"
    )
    assert "set spec.model.sha256" in message
    assert digest[:12] in message


@pytest.mark.attack(held=True)
def test_what_is_loaded_is_what_was_compared(tmp_path: Path) -> None:
    """A node replaces the files of a mounted ConfigMap at any time, also between the check and the load."""
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    source = locate("configmap://fraud-v7", tmp_path, "", directory_digest(files()))
    for name in files():
        (tmp_path / name).write_bytes(b"changed")
    assert load(source).manifest is not None


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "..", "folder/../../outside"])
def test_a_link_out_of_the_directory_is_rejected_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    folder = tmp_path / "model" / "folder"
    folder.mkdir(parents=True)
    link = folder.parent / "model.joblib"
    link.symlink_to(target)
    with pytest.raises(RefusedModel, match=r"model\.joblib is a link out of the model's directory"):
        Local(folder.parent)
    (folder.parent / MANIFEST).write_bytes(b"{}")
    link.unlink()
    source = Local(folder.parent)
    link.symlink_to(target)  # after the directory was listed
    with pytest.raises(RefusedModel, match=r"model\.joblib is a link out of the model's directory"):
        source.read("model.joblib")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../outside", "./x", ".hidden", "a//b", "a\\b", ""]
)
def test_only_plain_names_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    model = tmp_path / "model"
    model.mkdir()
    for file in (MANIFEST, ".hidden"):
        (model / file).write_bytes(b"{}")
    with pytest.raises(RefusedModel, match="is not a valid file name"):
        Local(model).read(name)


@pytest.mark.attack(held=True)
def test_hidden_files_pipes_and_circular_links_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in (MANIFEST, ".git/HEAD", ".hidden", "a/b/weights"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "a" / "b" / "up").symlink_to("../..")
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "nothing").symlink_to("missing")
    os.mkfifo(tmp_path / "pipe")
    source = Local(tmp_path)
    assert source.names() == ("a/b/weights", MANIFEST)
    with pytest.raises(RefusedModel, match="pipe is not a regular file"):
        source.read("pipe")


@pytest.mark.attack(held=True)
def test_size_number_and_total_size_of_files_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    for name in (MANIFEST, "more/one", "more/two"):
        (tmp_path / name).write_bytes(b"12345")
    source = Local(tmp_path)
    monkeypatch.setattr(limits, "MAX_TOTAL", 10)
    for _ in range(3):  # a file that is read again counts once
        source.read("more/one")
    source.read("more/two")
    with pytest.raises(RefusedModel, match="the model's files are larger than"):
        source.read(MANIFEST)
    monkeypatch.setattr(limits, "MAX_FILE", 4)
    with pytest.raises(RefusedModel, match="more/one is larger than"):
        source.read("more/one")
    monkeypatch.setattr(limits, "MAX_FILES", 2)
    with pytest.raises(RefusedModel, match="more than 2 files"):
        Local(tmp_path)


ONNX = bytes.fromhex("080a 1208 736b6c326f6e6e78")
UBJ = b"{L" + (7).to_bytes(8, "big") + b"learner"


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ({MANIFEST: b"", "MLmodel": b"", "model.onnx": b""}, MANIFEST),
        ({"MLmodel": b"", "model.pkl": b"", "saved_model.pb": b""}, "MLmodel"),
        ({"saved_model.pb": b"", "variables/variables.index": b""}, "saved_model.pb"),
        ({"readme.md": b"", "requirements.txt": b"numpy", "config.json": b"{}", "model.pt2": b""}, "model.pt2"),
        ({"trees.json": b'{"learner":{}}', "config.json": b'{"name": "x"}'}, "trees.json"),
        ({"model.txt": b"tree\nversion=v4\n", "notes.txt": b"trees"}, "model.txt"),
        ({"nested/model.keras": b"", "readme.md": b""}, "nested/model.keras"),
        ({"model.zip.txt": b"", "model.tgz": b""}, "model.tgz"),
        ({"model": b"\x80\x04\x95", "notes": b"x"}, "model"),
        ({"model": ONNX, "notes.md": b"# x"}, "model"),
        ({"model": UBJ, "notes.md": b"# x"}, "model"),
    ],
)
def test_the_entry_file_is_found(content: dict[str, bytes], entry: str) -> None:
    assert entry_of(sorted(content), lambda name: content[name]) == entry


def test_paths_and_file_addresses_of_this_machine_are_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "my model.joblib"
    model.write_bytes(joblib_bytes(iris()[0]))
    monkeypatch.chdir(tmp_path)
    for uri in (str(model), "my model.joblib", ".", f"file://{tmp_path}/my%20model.joblib", f"file://{tmp_path}"):
        source = locate(uri, None, "")
        assert (source.entry, source.names(), source.sha256) == ("my model.joblib", ("my model.joblib",), "")
    with pytest.raises(UnreachableSource, match="do not exist"):
        locate(f"file://{tmp_path}/nothing", None, "")
    assert locate("oci://host/model:1", model, "").entry == "my model.joblib", "an image volume is a mount"


def test_a_directory_that_lists_no_digests_has_one_digest(tmp_path: Path) -> None:
    """The command in the function's docstring prints it."""
    for name, data in {"MLmodel": b"flavors:", "data/a b.bin": b"1", "data-2": b"2", "Z": b"", ".git/x": b"3"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    command = str(directory_digest.__doc__).split("::")[1].strip()
    digest = subprocess.check_output(["sh", "-c", command], cwd=tmp_path, text=True).split()[0]
    source = locate(str(tmp_path), None, digest)
    assert source.sha256 == digest
    assert source.names() == ("MLmodel", "Z", "data-2", "data/a b.bin")
    (tmp_path / "data-2").write_bytes(b"3")
    assert source.read("data-2") == b"2", "the bytes that were checked"
    with pytest.raises(RefusedModel, match=r"the directory with MLmodel has sha256 \w{64}, but"):
        locate(str(tmp_path), None, digest)


def test_a_bare_file_is_found_in_a_directory_and_by_its_path_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "iris.joblib").write_bytes(joblib_bytes(iris()[0]))
    assert Local(tmp_path).entry == "iris.joblib"
    mounted = tmp_path / "model"  # a subPath mount of one file has no suffix
    mounted.write_bytes(joblib_bytes(iris()[0]))
    assert load(Local(mounted)).opened.format == "joblib"
    assert Local(mounted).names() == ("model",)
    (tmp_path / SIGNATURE).write_bytes(b"{}")
    assert Local(mounted).names() == ("model", SIGNATURE)


def test_files_that_may_be_copied_later_do_not_reject_the_model(tmp_path: Path) -> None:
    with pytest.raises(UnreachableSource, match="do not exist"):
        Local(tmp_path / "nothing")
    with pytest.raises(UnreachableSource, match=r"no mlmodel\.json"):
        Local(tmp_path)
    (tmp_path / MANIFEST).write_bytes(files()[MANIFEST])
    with pytest.raises(UnreachableSource, match=r"model\.skops cannot be read now"):
        load(Local(tmp_path))


def test_two_models_without_a_description_are_rejected(tmp_path: Path) -> None:
    for name in ("a.joblib", "b.skops"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RefusedModel, match=r"several models \(a\.joblib, b\.skops\)"):
        Local(tmp_path)


def test_the_required_digest_is_that_of_the_description_or_of_the_bare_file() -> None:
    content = files()
    digest = manifest.sha256(content[MANIFEST])
    assert load(Memory(content), digest.upper()).sha256 == digest
    with pytest.raises(RefusedModel, match=rf"mlmodel\.json has sha256 {digest}, but 0{{64}} is required"):
        load(Memory(content), "0" * 64)
    bare = joblib_bytes(iris()[0])
    assert load(Memory({"m": bare}, "m"), manifest.sha256(bare)).manifest is None


@pytest.mark.attack(held=True)
def test_a_changed_file_of_a_package_is_rejected_before_it_is_parsed() -> None:
    content = files()
    content["model.skops"] = b"not skops"
    with pytest.raises(RefusedModel, match=r"model\.skops has sha256 \w{64}, but mlmodel\.json lists"):
        load(Memory(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((b'"schema":1', b'"schema":2'), "has schema 2, but this server reads 1"),
        ((b'"artefact":"model.skops"', b'"artefact":"other"'), "does not list its artefact"),
        ((b'"model.skops":{', b'"../model.skops":{'), "does not list its artefact"),
        ((b'"layout":"matrix"', b'"layout":"cube"'), "is not a package description"),
        ((b'{"artefact"', b'["artefact"'), "is not a package description"),
    ],
)
def test_a_wrong_description_is_rejected_with_the_reason(change: tuple[bytes, bytes], words: str) -> None:
    content = files()
    assert change[0] in content[MANIFEST]
    content[MANIFEST] = content[MANIFEST].replace(*change)
    with pytest.raises(RefusedModel, match=words):
        load(Memory(content))


def test_the_file_must_have_the_required_format() -> None:
    with pytest.raises(RefusedModel, match=r"model\.skops is skops, but the required format is joblib"):
        load(Memory(files()), format="joblib")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/model", "'ftp://host/model' is not a model source: use builtin://"),
        ("http://me:secret@host/model.skops?token=secret", "'http://host/model.skops' is not a model source"),
        ("model.joblib", "'model.joblib' does not exist: give the path of a model file"),
        ("file://model.joblib", "three slashes"),
        ("configmap://model", "configmap:// requires --path"),
        ("https://host/model.skops", "an https:// model requires its digest"),
        ("s3://bucket/model", "an s3:// model requires its digest"),
        ("gs://bucket/model", "a gs:// model requires its digest"),
        ("az://bucket/model", "an az:// model requires its digest"),
        ("oci://host/model:1", "an oci:// model requires its digest: .* or the digest in the reference"),
    ],
)
def test_an_error_for_an_invalid_uri_says_what_to_use(uri: str, words: str) -> None:
    with pytest.raises(RefusedModel, match=words):
        locate(uri, None, "")
