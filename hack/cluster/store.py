"""The image store: a containerd root in which the images are unpacked once, and from which every cluster starts.

A node gets a copy of it with hard links, which takes a fraction of a second. That is safe because layers and blobs
never change. The databases beside them do, so these are copied.

To fill the store, containerd runs for a short time, see importer.py.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from hack import ROOT
from hack.cluster import config, images, paths
from hack.cluster.images import Image
from hack.cluster.report import ClusterError, progress
from hack.cluster.shell import locked, run


def root() -> Path:
    """Return the containerd root of the store."""
    return paths.cache() / "store" / "root"


def _lock() -> Path:
    return paths.cache() / "store.lock"


def fill(desired: Sequence[Image], bin_dir: Path) -> int:
    """Import the images that the store lacks; return their number."""
    with locked(_lock()):
        record = paths.cache() / "store" / "images.json"
        present: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
        missing = [image for image in desired if any(present.get(name) != image.digest for name in image.names)]
        if not missing:
            return 0
        progress(f"Importing {len(missing)} images: {', '.join(image.names[0] for image in missing)}")
        record.parent.mkdir(parents=True, exist_ok=True)
        kept = blobs_of(root(), present.values())
        new = {name: image.digest for image in missing for name in image.names}
        # If the import is interrupted, the images behind the new names are unknown.
        unchanged = {name: digest for name, digest in present.items() if name not in new}
        record.write_text(json.dumps(unchanged, indent=1))
        with tempfile.TemporaryDirectory(dir=record.parent, prefix="import-") as work:
            archive = Path(work) / "images.tar"
            with archive.open("wb") as file:
                write_archive(file, images.layout(), missing, kept)
            run(
                [
                    *("unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc"),
                    *(sys.executable, "-m", "hack.cluster.importer"),
                    *(root(), work, bin_dir, archive),
                ],
                cwd=ROOT,
                what="Importing the images",
                log=record.parent / "import.log",
            )
        record.write_text(json.dumps(unchanged | new, indent=1))
        return len(missing)


def blobs_of(containerd_root: Path, manifests: Iterable[str]) -> set[str]:
    """Return the digests of the blobs that a containerd root keeps, given the manifests that its names refer to.

    It may have other blobs, of images whose names now refer to newer ones. These do not count: containerd deletes them
    at any time, for example just after its start, which is when an import starts.
    """
    content = containerd_root / "io.containerd.content.v1.content"
    present = [manifest for manifest in manifests if (content / "blobs" / manifest.replace(":", "/")).exists()]
    return {blob for manifest in present for blob in images.blobs(content, manifest)}


def write_archive(out: IO[bytes], layout: Path, missing: Sequence[Image], present: set[str]) -> None:
    """Write an OCI archive of images, without the blobs that are `present` at its destination: layers are large."""

    def add(name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))

    with tarfile.open(fileobj=out, mode="w|") as archive:
        add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        manifests = []
        needed: dict[str, None] = {}
        for image in missing:
            path = layout / "blobs" / image.digest.replace(":", "/")
            needed |= dict.fromkeys(images.blobs(layout, image.digest))
            manifests += [
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": image.digest,
                    "size": path.stat().st_size,
                    "annotations": {"io.containerd.image.name": name},
                }
                for name in image.names
            ]
        for digest in needed:
            if digest not in present:
                name = f"blobs/{digest.replace(':', '/')}"
                archive.add(layout / name, arcname=name, recursive=False)
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
        add("index.json", json.dumps(index).encode())


def clone(target: Path) -> None:
    """Give a node its containerd root."""
    with locked(_lock()):
        shutil.copytree(root(), target, symlinks=True, copy_function=_link, ignore_dangling_symlinks=True)


def load(desired: Sequence[Image], bin_dir: Path, run_dir: Path, node_pid: int) -> int:
    """Import the images that a running node has in another version; return their number."""
    ctr = [
        *("nsenter", f"--mount=/proc/{node_pid}/ns/mnt", str(bin_dir / "ctr")),
        *("--address", config.CONTAINERD_SOCKET, "--namespace", "k8s.io", "images"),
    ]
    listing = run([*ctr, "list"], what="Listing the node's images")
    # The columns: name, media type, digest, …
    there = {words[0]: words[2] for words in map(str.split, listing.splitlines()[1:])}
    missing = [image for image in desired if any(there.get(name) != image.digest for name in image.names)]
    if missing:
        ours = [there[name] for image in desired for name in image.names if name in there]
        with tempfile.TemporaryFile() as archive:
            write_archive(archive, images.layout(), missing, blobs_of(run_dir / "containerd", ours))
            archive.seek(0)
            done = subprocess.run(
                [*ctr, "import", "--snapshotter", "overlayfs", "-"], stdin=archive, capture_output=True
            )
        if done.returncode:
            raise ClusterError(f"Importing the images into the running cluster failed: {done.stderr.decode()}")
    return len(missing)


def _link(source: str, target: str) -> str:
    if source.endswith(".db"):
        shutil.copy2(source, target)
    else:
        os.link(source, target, follow_symlinks=False)
    return target
