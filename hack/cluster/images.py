"""Build the project's images without Docker: the base by debootstrap, wheels from the index, the rest by buildah.

Unchanged steps are not repeated: each result is cached under a hash of its inputs.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack import ROOT, haproxy, lock
from hack.cluster import paths
from hack.cluster.report import progress
from hack.cluster.shell import locked, run

SUITE = "bookworm"
BASE_PACKAGES = ("python3", "ca-certificates")
PYTHON_TARGETS = ("operator", "server")
"""The targets with Python packages, from the lock of the same name."""
TARGETS = (*PYTHON_TARGETS, "router")
PAUSE = "localhost/pause:3.10"


@dataclass(frozen=True)
class Image:
    """One image in the local OCI layout: its names in the cluster, and the digest of its manifest."""

    names: tuple[str, ...]
    digest: str


def project_version() -> str:
    """Return the version in pyproject.toml, which is the tag of the images."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def image_names(target: str, version: str) -> tuple[str, ...]:
    """Return the names that an image has in the cluster.

    The second is what Kubernetes expands `mlmodel-TARGET:VERSION` of the published manifests to, so that these can be
    applied unchanged.
    """
    return (f"localhost/mlmodel-{target}:{version}", f"docker.io/library/mlmodel-{target}:{version}")


def build() -> list[Image]:
    """Return all images that a cluster needs; rebuild those whose sources changed."""
    cache = paths.cache() / "images"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(paths.cache() / "images.lock"):
        record = _Record(cache / "record.json")
        base = _base(cache)
        for name in (lock.BUILD, *PYTHON_TARGETS):
            _download(cache, name)
        images = [_pause(cache, record)]
        router_base = _router_base(cache)
        for target in TARGETS:
            images.append(_target(cache, record, target, router_base if target == "router" else base))
        _prune(layout(), images)
        return images


def layout() -> Path:
    """Return the folder to which `build` writes the images, with blobs as in an OCI layout."""
    return paths.cache() / "images" / "layout"


# The base ------------------------------------------------------------------------------------------------------------


def _base(cache: Path) -> str:
    """Return the local name of the base image."""
    dockerfile = paths.HERE / "images" / "base" / "Dockerfile"
    key = hash_of([SUITE, *BASE_PACKAGES, dockerfile.read_text(encoding="utf-8")])
    name = f"localhost/mlmodel-base:{key}"
    done = cache / f"base-{key}"
    if done.exists():
        return name
    progress(f"Building the base image: debootstrap of Debian {SUITE} with {', '.join(BASE_PACKAGES)} (about a minute)")
    with tempfile.TemporaryDirectory(dir=cache, prefix="base-") as work:
        tree = Path(work) / "tree"
        context = Path(work) / "context"
        context.mkdir()
        run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                *("debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", SUITE, tree),
                haproxy.debian_mirror(),
            ],
            what="debootstrap",
            log=cache / "debootstrap.log",
        )
        for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(tree / waste, ignore_errors=True)
        run(["tar", "--numeric-owner", "-cf", context / "base.tar", "-C", tree, "."], what="Packing the base image")
        shutil.copy(dockerfile, context)
        _buildah(cache, ["bud", "--isolation", "chroot", "-t", name, context], what="Building the base image")
    done.touch()
    return name


def _router_base(cache: Path) -> str:
    """Return the local name of an image with only HAProxy, for which a stock image stands elsewhere."""
    tree = haproxy.tree("shipped")
    dockerfile = paths.HERE / "images" / "haproxy" / "Dockerfile"
    key = hash_of([(tree / haproxy.CONTENTS).read_text(), dockerfile.read_text(encoding="utf-8")])
    name = f"localhost/mlmodel-haproxy:{key}"
    done = cache / f"haproxy-{key}"
    if done.exists():
        return name
    with tempfile.TemporaryDirectory(dir=cache, prefix="haproxy-") as context:
        run(["tar", "--numeric-owner", "-cf", f"{context}/haproxy.tar", "-C", tree, "."], what="Packing HAProxy")
        shutil.copy(dockerfile, context)
        _buildah(cache, ["bud", "--isolation", "chroot", "-t", name, context], what="Building the image of HAProxy")
    done.touch()
    return name


# Wheels --------------------------------------------------------------------------------------------------------------


def _download(cache: Path, name: str) -> None:
    """Download the wheels of a lock, unless they are cached."""
    path = lock.FOLDER / f"{name}.txt"
    key = hash_of([path.read_text(encoding="utf-8")])
    folder = cache / "wheels" / name
    stamp = folder / ".lock"
    if stamp.exists() and stamp.read_text() == key:
        return
    progress(f"Downloading the wheels for {name}")
    with tempfile.TemporaryDirectory(dir=cache, prefix="wheels-") as work:
        # Wheels for the Python of the base image, not for the one that runs this.
        run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", f"{work}/new"),
                *("--only-binary", ":all:", "--python-version", lock.PYTHON, "--require-hashes", "-r", str(path)),
            ],
            what=f"Downloading the wheels for {name}",
        )
        (Path(work) / "new" / ".lock").write_text(key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(f"{work}/new", folder)


# The images ----------------------------------------------------------------------------------------------------------


def hash_of(parts: Iterable[str]) -> str:
    """Return a short hash of texts in this order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def hash_of_files(root: Path, names: Iterable[str]) -> str:
    """Return a hash of the paths, modes and contents of files and of all files in folders, without byte code."""
    digest = hashlib.sha256()
    for name in names:
        top = root / name
        files = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
        for path in files:
            if "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0{path.stat().st_mode}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


class _Record:
    """Records for each image the hash of its sources and its digest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}

    def digest(self, image: str, key: str) -> str | None:
        entry = self._content.get(image, {})
        return entry["digest"] if entry.get("key") == key else None

    def put(self, image: str, key: str, digest: str) -> None:
        self._content[image] = {"key": key, "digest": digest}
        self._path.write_text(json.dumps(self._content, indent=1))


def sources(target: str) -> list[str]:
    """Return the files and folders of the checkout that an image is built from."""
    found = ["Dockerfile", ".dockerignore"]
    if target in PYTHON_TARGETS:
        found += ["pyproject.toml", "README.md", "LICENSE", "crds", "operator", "server"]
        found += [f"requirements/{name}.txt" for name in (lock.BUILD, target)]
    return found


def _target(cache: Path, record: _Record, target: str, base: str) -> Image:
    names = image_names(target, project_version())
    key = hash_of([base, hash_of_files(ROOT, sources(target)), *names])
    digest = record.digest(target, key)
    if digest is None:
        progress(f"Building image {names[0]}")
        _buildah(cache, build_args(target, names[0], base, cache / "wheels"), what=f"Building {names[0]}")
        digest = _push(cache, names[0])
        record.put(target, key, digest)
    return Image(names, digest)


def build_args(target: str, name: str, base: str, wheels: Path) -> list[str]:
    """Return buildah's arguments for one target of the Dockerfile, with a folder of wheels for each lock."""
    arguments = {"BASE_IMAGE": base, "ROUTER_IMAGE": base, "WHEELS": "yes"}
    return [
        *("bud", "--isolation", "chroot", "--layers", "--pull-never", "--target", target, "-t", name),
        *(word for argument, value in arguments.items() for word in ("--build-arg", f"{argument}={value}")),
        *("--build-context", f"wheels={wheels}", "-f", str(ROOT / "Dockerfile"), str(ROOT)),
    ]


def _pause(cache: Path, record: _Record) -> Image:
    source = paths.HERE / "images" / "pause"
    key = hash_of_files(source, ["."])
    digest = record.digest("pause", key)
    if digest is None:
        progress(f"Building image {PAUSE}")
        with tempfile.TemporaryDirectory(dir=cache, prefix="pause-") as work:
            shutil.copy(source / "Dockerfile", work)
            run(["gcc", "-static", "-Os", "-s", "-o", f"{work}/pause", source / "pause.c"], what="Compiling pause.c")
            _buildah(cache, ["bud", "--isolation", "chroot", "-t", PAUSE, work], what=f"Building {PAUSE}")
        digest = _push(cache, PAUSE)
        record.put("pause", key, digest)
    return Image((PAUSE,), digest)


def _push(cache: Path, name: str) -> str:
    """Copy an image into the layout; return the digest of its manifest.

    It goes through a plain directory, because buildah compresses every layer, new or not, when it writes an OCI layout.
    """
    target = layout() / "blobs" / "sha256"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="export-") as work:
        _buildah(cache, ["push", "--disable-compression", name, f"dir:{work}"], what=f"Exporting {name}")
        manifest = (Path(work) / "manifest.json").read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        (target / digest).write_bytes(manifest)
        content = json.loads(manifest)
        for blob in (content["config"], *content["layers"]):
            plain = blob["digest"].removeprefix("sha256:")
            os.replace(Path(work) / plain, target / plain)
    return f"sha256:{digest}"


def _buildah(cache: Path, arguments: Sequence[str | Path], *, what: str) -> None:
    """Run buildah on the project's own store, in new mount and PID namespaces, so that no mount outlives it."""
    run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(
                "buildah",
                "--root",
                cache / "buildah",
                "--runroot",
                cache / "buildah-run",
                "--storage-driver",
                "overlay",
            ),
            *arguments,
        ],
        what=what,
        log=cache / "buildah.log",
    )


def blobs(store: Path, manifest: str) -> list[str]:
    """Return the digests of a manifest, its configuration and its layers."""
    content = json.loads((store / "blobs" / manifest.replace(":", "/")).read_text())
    return [manifest, content["config"]["digest"], *(layer["digest"] for layer in content["layers"])]


def _prune(store: Path, images: Iterable[Image]) -> None:
    """Remove the blobs that none of these images uses."""
    used = {blob for image in images for blob in blobs(store, image.digest)}
    for path in (store / "blobs" / "sha256").iterdir():
        if f"sha256:{path.name}" not in used:
            path.unlink()
