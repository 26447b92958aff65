"""The image store: a containerd root in which the images are unpacked once, and from which every cluster starts.

A node gets a copy of hard links, which takes a fraction of a second. That is safe since layers and blobs are never
written again; the databases beside them are, so these are copied for real.

Filling the store runs containerd for a moment, see importer.py.
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
from hack.cluster.report import ClusterError, say
from hack.cluster.shell import locked, run


def root() -> Path:
    """The containerd root of the store."""
    return paths.cache() / "store" / "root"


def _lock() -> Path:
    return paths.cache() / "store.lock"


def fill(wanted: Sequence[Image], bin_dir: Path) -> int:
    """Bring the store up to date; return how many images had to be imported (0: there was nothing to do)."""
    with locked(_lock()):
        record = paths.cache() / "store" / "images.json"
        present: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
        missing = [image for image in wanted if any(present.get(name) != image.digest for name in image.names)]
        if not missing:
            return 0
        say(f"Importing {len(missing)} images: {', '.join(image.names[0] for image in missing)}")
        record.parent.mkdir(parents=True, exist_ok=True)
        kept = blobs_of(root(), present.values())
        new = {name: image.digest for image in missing for name in image.names}
        # Should the import end halfway, nobody knows which images the new names stand for.
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
    """Return the digests of the blobs that a containerd root keeps, given the manifests that its names stand for.

    There are others in it, of images whose names now stand for newer ones. These don't count: containerd deletes them
    in its own time, a moment after its start for instance, which is when an import begins.
    """
    content = containerd_root / "io.containerd.content.v1.content"
    held = [manifest for manifest in manifests if (content / "blobs" / manifest.replace(":", "/")).exists()]
    return {blob for manifest in held for blob in images.blobs(content, manifest)}


def write_archive(out: IO[bytes], layout: Path, wanted: Sequence[Image], present: set[str]) -> None:
    """Write an OCI archive of images, without the blobs that are `present` where it goes: layers are large."""

    def add(name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))

    with tarfile.open(fileobj=out, mode="w|") as archive:
        add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        manifests = []
        needed: dict[str, None] = {}
        for image in wanted:
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


def load(wanted: Sequence[Image], bin_dir: Path, run_dir: Path, node_pid: int) -> int:
    """Import into a running node those images that it has in another version; return how many that were."""
    ctr = [
        *("nsenter", f"--mount=/proc/{node_pid}/ns/mnt", str(bin_dir / "ctr")),
        *("--address", config.CONTAINERD_SOCKET, "--namespace", "k8s.io", "images"),
    ]
    listing = run([*ctr, "list"], what="Listing the node's images")
    # The columns: name, media type, digest, …
    there = {words[0]: words[2] for words in map(str.split, listing.splitlines()[1:])}
    missing = [image for image in wanted if any(there.get(name) != image.digest for name in image.names)]
    if missing:
        ours = [there[name] for image in wanted for name in image.names if name in there]
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
