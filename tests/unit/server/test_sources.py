"""Sources: what is found where, digests before parsing, and which failure may heal by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlmodel_server import manifest, package
from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Local, Memory, locate
from mlmodel_server.manifest import MANIFEST

from .models import iris, joblib_bytes


def files() -> dict[str, bytes]:
    return package.build(*iris())


def test_a_config_map_mount_is_read_through_its_links(tmp_path: Path) -> None:
    dated = tmp_path / "..2026_01_01"
    dated.mkdir()
    for name, data in files().items():
        (dated / name).write_bytes(data)
        (tmp_path / name).symlink_to(Path("..data") / name)
    (tmp_path / "..data").symlink_to(dated.name)
    source = Local(tmp_path)
    assert source.entry == MANIFEST
    assert load(source).manifest is not None


def test_a_bare_file_is_found_in_a_directory_and_by_its_path_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "iris.joblib").write_bytes(joblib_bytes(iris()[0]))
    assert Local(tmp_path).entry == "iris.joblib"
    mounted = tmp_path / "model"  # a subPath mount of one file has no suffix
    mounted.write_bytes(joblib_bytes(iris()[0]))
    assert load(Local(mounted)).opened.format == "joblib"


def test_files_that_may_come_later_are_no_refusal(tmp_path: Path) -> None:
    with pytest.raises(UnreachableSource, match="not there yet"):
        Local(tmp_path / "nothing")
    with pytest.raises(UnreachableSource, match=r"no mlmodel\.json"):
        Local(tmp_path)
    (tmp_path / MANIFEST).write_bytes(files()[MANIFEST])
    with pytest.raises(UnreachableSource, match=r"model\.skops cannot be read now"):
        load(Local(tmp_path))


def test_two_models_without_a_description_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a.joblib", "b.skops"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RefusedModel, match=r"several models \(a\.joblib, b\.skops\)"):
        Local(tmp_path)


def test_the_pinned_digest_is_of_the_description_or_of_the_bare_file() -> None:
    content = files()
    digest = manifest.sha256(content[MANIFEST])
    assert load(Memory(content), digest.upper()).sha256 == digest
    with pytest.raises(RefusedModel, match=rf"mlmodel\.json has sha256 {digest}, but 0{{64}} was asked for"):
        load(Memory(content), "0" * 64)
    bare = joblib_bytes(iris()[0])
    assert load(Memory({"m": bare}, "m"), manifest.sha256(bare)).manifest is None


def test_a_changed_file_of_a_package_is_refused_before_it_is_parsed() -> None:
    content = files()
    content["model.skops"] = b"this would not even parse"
    with pytest.raises(RefusedModel, match=r"model\.skops has sha256 \w{64}, but mlmodel\.json lists"):
        load(Memory(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((b'"schema":1', b'"schema":2'), "has schema 2, this server reads 1"),
        ((b'"artefact":"model.skops"', b'"artefact":"other"'), "does not list its artefact"),
        ((b'"model.skops":{', b'"../model.skops":{'), "does not list its artefact"),
        ((b'"layout":"matrix"', b'"layout":"cube"'), "is not a package description"),
        ((b'{"artefact"', b'["artefact"'), "is not a package description"),
    ],
)
def test_a_wrong_description_is_refused_with_the_reason(change: tuple[bytes, bytes], words: str) -> None:
    content = files()
    assert change[0] in content[MANIFEST]
    content[MANIFEST] = content[MANIFEST].replace(*change)
    with pytest.raises(RefusedModel, match=words):
        load(Memory(content))


def test_the_format_asked_for_must_be_the_one_found() -> None:
    with pytest.raises(RefusedModel, match=r"model\.skops is skops, but the format asked for is joblib"):
        load(Memory(files()), format="joblib")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/model", "'ftp://host/model' is no model source: use builtin://"),
        ("http://me:secret@host/model.skops?token=secret", "'http://host/model.skops' is no model source"),
        ("model.joblib", "'model.joblib' is no model source.* path of a file or directory that exists"),
        ("file://model.joblib", "three slashes"),
        ("builtin://nothing", "no built-in model 'nothing'"),
        ("configmap://model", "configmap:// needs --path"),
        ("https://host/model.skops", "an https:// model needs its digest"),
        ("s3://bucket/model", "an s3:// model needs its digest"),
        ("gs://bucket/model", "a gs:// model needs its digest"),
        ("az://bucket/model", "an az:// model needs its digest"),
        ("oci://host/model:1", "an oci:// model needs its digest: .* or the digest in the reference"),
    ],
)
def test_a_uri_that_cannot_work_says_what_to_use(uri: str, words: str) -> None:
    with pytest.raises(RefusedModel, match=words):
        locate(uri, None, "")


def test_the_built_in_model_is_a_package_like_any_other() -> None:
    loaded = load(locate("builtin://iris", None, ""))
    assert loaded.manifest is not None
    assert loaded.manifest.metrics["accuracy"] > 0.9
