"""Which blobs an import into the store, or into a running node, contains; also on the way back to an earlier image."""

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from hack.cluster import images, store
from hack.cluster.images import Image
from hack.cluster.report import ClusterError

NAMES = ("localhost/a:1", "docker.io/library/a:1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def built(version: str) -> Image:
    """Create an image in the layout: with the layer "base", which all versions share, and one more layer."""
    folder = images.layout() / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    layers = ["base", f"layer-{version}"]
    manifest = {
        "config": {"digest": f"sha256:config-{version}"},
        "layers": [{"digest": f"sha256:{layer}"} for layer in layers],
    }
    (folder / f"manifest-{version}").write_text(json.dumps(manifest))
    for blob in (f"config-{version}", *layers):
        (folder / blob).write_text(blob)
    return Image(NAMES, f"sha256:manifest-{version}")


def whole(version: str) -> set[str]:
    """Return the blobs of a version, without the shared one."""
    return {f"{kind}-{version}" for kind in ("manifest", "config", "layer")}


class Containerd:
    """Imports archives. It keeps blobs that no name refers to; the real containerd may delete these at any moment."""

    def __init__(self, root: Path) -> None:
        self.content = root / "io.containerd.content.v1.content"
        self.names: dict[str, str] = {}
        self.imported: list[set[str]] = []
        self.broken = False

    def import_archive(self, file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file) as archive:
            members = [name for name in archive.getnames() if name.startswith("blobs/")]
            index_file = archive.extractfile("index.json")
            assert index_file is not None
            for entry in json.load(index_file)["manifests"]:
                self.names[entry["annotations"]["io.containerd.image.name"]] = entry["digest"]
            archive.extractall(self.content, [archive.getmember(name) for name in members], filter="data")
        self.imported.append({Path(name).name for name in members})

    def listing(self) -> str:
        rows = [
            f"{name} application/vnd.oci.image.manifest.v1+json {digest} 9.0 MiB linux/amd64 -"
            for name, digest in self.names.items()
        ]
        return "\n".join(["REF TYPE DIGEST SIZE PLATFORMS LABELS", *rows]) + "\n"


@pytest.fixture
def containerd(monkeypatch: pytest.MonkeyPatch) -> Containerd:
    """The containerd of the store."""
    fake = Containerd(store.root())

    def run(argv: Sequence[str | Path], **_: object) -> str:
        with Path(argv[-1]).open("rb") as archive:
            fake.import_archive(archive)
        if fake.broken:
            raise ClusterError("The disk is full.")
        return ""

    monkeypatch.setattr(store, "run", run)
    return fake


def test_an_earlier_image_is_imported_with_all_blobs_that_no_present_image_has(
    containerd: Containerd, tmp_path: Path
) -> None:
    one, two = built("1"), built("2")
    assert [store.fill([image], tmp_path) for image in (one, one, two, one)] == [1, 0, 1, 1]
    assert containerd.imported == [{"base"} | whole("1"), whole("2"), whole("1")]


def test_after_a_failed_import_the_store_is_expected_to_have_neither_image(
    containerd: Containerd, tmp_path: Path
) -> None:
    one, two = built("1"), built("2")
    store.fill([one], tmp_path)
    containerd.broken = True
    with pytest.raises(ClusterError):
        store.fill([two], tmp_path)
    containerd.broken = False
    assert store.fill([one], tmp_path) == 1
    assert containerd.imported[-1] == {"base"} | whole("1")
    assert set(containerd.names.values()) == {one.digest}


def test_an_earlier_image_is_imported_completely_into_a_running_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Containerd(tmp_path / "run" / "containerd")

    def imports(*_: object, stdin: IO[bytes], **__: object) -> subprocess.CompletedProcess[bytes]:
        node.import_archive(io.BytesIO(stdin.read()))
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr(store, "run", lambda *_, **__: node.listing())
    monkeypatch.setattr(subprocess, "run", imports)
    one, two = built("1"), built("2")
    done = [store.load([image], tmp_path, tmp_path / "run", node_pid=1) for image in (one, one, two, one)]
    assert done == [1, 0, 1, 1]
    assert node.imported == [{"base"} | whole("1"), whole("2"), whole("1")]
