"""Which programs and images are built, when they are rebuilt, and which blobs are imported."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest

from hack import ROOT
from hack.cluster import binaries, images, store
from hack.cluster.images import Image
from hack.cluster.report import ClusterError

GO_MOD = "module x\n\nrequire (\n\tk8s.io/kubernetes v1.37.2\n)\n"


def test_the_version_of_kubernetes_is_the_pinned_one() -> None:
    assert binaries.kubernetes_version(GO_MOD) == "v1.37.2"
    flags = binaries.linker_flags("v1.37.2")
    assert "version.gitVersion=v1.37.2" in flags
    assert "version.gitMinor=37" in flags
    with pytest.raises(ClusterError, match="does not require"):
        binaries.kubernetes_version("module x\n")


def test_programs_are_rebuilt_when_any_of_their_inputs_changes() -> None:
    inputs = ["sources", "flags", "x86_64"]
    keys = {binaries.cache_key(*inputs)}
    for position in range(3):
        keys.add(binaries.cache_key(*[text + "!" * (position == i) for i, text in enumerate(inputs)]))
    assert len(keys) == 4
    assert binaries.cache_key(*inputs) in keys
    for name in ("go.mod", "go.sum", "netpol/main.go"):
        assert (binaries.MODULE / name).read_text() in binaries.sources()


def test_the_module_pins_every_program() -> None:
    pinned = set(re.findall(r'_ "(.+)"', (binaries.MODULE / "tools.go").read_text()))
    others = {program.package for program in binaries.PROGRAMS if not program.package.startswith(f"{binaries.OWN}/")}
    assert pinned == others


def test_an_image_is_rebuilt_only_when_its_own_lock_changes() -> None:
    operator = {name for name in images.sources("operator") if name.startswith("requirements/")}
    assert operator == {"requirements/build.txt", "requirements/operator.txt"}
    assert not [name for name in images.sources("router") if name.startswith("requirements/")]


def test_every_source_of_an_image_is_in_the_checkout_and_in_the_build_context() -> None:
    context = (ROOT / ".dockerignore").read_text()
    for target in images.TARGETS:
        for name in images.sources(target):
            assert (ROOT / name).exists()
            assert f"!{name.split('/')[0]}\n" in context or name in ("Dockerfile", ".dockerignore")


def test_an_image_has_the_name_of_the_published_manifests() -> None:
    # Kubernetes expands "mlmodel-server:0.1.0" to this.
    assert "docker.io/library/mlmodel-server:0.1.0" in images.image_names("server", "0.1.0")


def test_a_change_of_sources_changes_the_hash_and_byte_code_does_not(tmp_path: Path) -> None:
    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    source = tmp_path / "code" / "a.py"
    source.write_text("1")
    first = images.hash_of_files(tmp_path, ["code"])
    (tmp_path / "code" / "__pycache__" / "a.pyc").write_text("x")
    assert images.hash_of_files(tmp_path, ["code"]) == first
    source.write_text("2")
    second = images.hash_of_files(tmp_path, ["code"])
    source.rename(tmp_path / "code" / "b.py")
    third = images.hash_of_files(tmp_path, ["code"])
    assert len({first, second, third}) == 3


def test_an_image_is_built_from_local_files_only(tmp_path: Path) -> None:
    arguments = images.build_args("server", "localhost/x:1", "localhost/base:1", tmp_path)
    assert "--pull-never" in arguments
    assert f"wheels={tmp_path}" in arguments
    assert {"BASE_IMAGE=localhost/base:1", "ROUTER_IMAGE=localhost/base:1", "WHEELS=yes"} <= set(arguments)


def test_the_dockerfile_has_every_target() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for target in images.TARGETS:
        assert re.search(rf"^FROM .+ AS {target}$", dockerfile, re.MULTILINE)


@pytest.fixture
def layout(tmp_path: Path) -> tuple[Path, Image]:
    """A layout with one image: a manifest "sha256:m", a configuration "sha256:c", a layer "sha256:l"."""
    folder = tmp_path / "layout" / "blobs" / "sha256"
    folder.mkdir(parents=True)
    manifest = {"config": {"digest": "sha256:c"}, "layers": [{"digest": "sha256:l"}]}
    (folder / "m").write_text(json.dumps(manifest))
    (folder / "c").write_text("{}")
    (folder / "l").write_text("layer")
    return tmp_path / "layout", Image(("first:1", "second:1"), "sha256:m")


def test_an_archive_holds_only_the_blobs_that_are_missing(layout: tuple[Path, Image]) -> None:
    folder, image = layout
    out = io.BytesIO()
    store.write_archive(out, folder, [image], present={"sha256:l"})
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        assert {name for name in archive.getnames() if name.startswith("blobs/")} == {
            "blobs/sha256/m",
            "blobs/sha256/c",
        }
        index_file = archive.extractfile("index.json")
        assert index_file is not None
        index = json.load(index_file)
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert names == ["first:1", "second:1"]


def test_a_node_gets_links_to_layers_and_copies_of_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (store.root() / "layers").mkdir(parents=True)
    (store.root() / "layers" / "file").write_text("content")
    os.symlink("nowhere", store.root() / "layers" / "link")
    (store.root() / "meta.db").write_text("database")

    target = tmp_path / "node"
    store.clone(target)

    assert (target / "layers" / "file").samefile(store.root() / "layers" / "file")
    assert os.readlink(target / "layers" / "link") == "nowhere"
    assert (target / "meta.db").read_text() == "database"
    assert not (target / "meta.db").samefile(store.root() / "meta.db")
