"""HAProxy from Debian and the programs that a router needs beside it, for the tests and the image of the router: the
HAProxy that we ship, and the oldest that we support.

Each is a tree with the program and its libraries, unpacked from packages, so that it runs beside the libraries of any
machine. The index is verified with the keys of Debian's archive, and each package with the index.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import ClusterError, progress
from hack.cluster.shell import locked, run

SUITES: Mapping[str, str] = {"shipped": "sid", "oldest": "trixie"}
"""Debian suite by use: unstable has HAProxy 3.2, stable (13) has 3.0."""

PROGRAMS = ("haproxy", "dash", "coreutils", "gzip", "tar")
"""Packages with what a router runs; the official image has all of it."""

CONTENTS = "packages"
"""File in each tree with its packages, one per line: name, version and digest."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MERGED = ("bin", "lib", "lib64", "sbin")  # links into usr/, as every Debian system has
_SECONDS = 120

Package = Mapping[str, str]


def program(which: str) -> list[str]:
    """Return the command that runs HAProxy ``which``, a key of ``SUITES``, without its arguments; fetch it first."""
    root = tree(which)
    loaders = sorted((root / "usr/lib").glob("*/ld-linux-*.so.*"))
    if not loaders:
        raise ClusterError(f"{root} has no dynamic loader: delete it and try again")
    return [str(loaders[0]), "--library-path", str(loaders[0].parent), str(root / "usr/sbin/haproxy")]


def tree(which: str) -> Path:
    """Return the folder with HAProxy ``which`` and its libraries; fetch them first."""
    suite = SUITES[which]
    folder = paths.cache() / "haproxy" / "-".join((suite, *PROGRAMS))
    if folder.is_dir():
        return folder
    with locked(paths.cache() / "haproxy.lock"):
        if folder.is_dir():
            return folder
        progress(f"Fetching HAProxy from Debian {suite}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{suite}-") as work:
            root = Path(work) / "tree"
            _unpack(suite, root)
            root.rename(folder)
    return folder


def _unpack(suite: str, root: Path) -> None:
    mirror = debian_mirror()
    architecture = run(["dpkg", "--print-architecture"], what="Reading the architecture").strip()
    index = _index(mirror, suite, architecture)
    (root / "usr").mkdir(parents=True)
    for name in _MERGED:
        (root / "usr" / name).mkdir()
        (root / name).symlink_to(f"usr/{name}")
    packages = _closure(index, *PROGRAMS)
    for package in packages:
        content = _get(f"{mirror}/{package['Filename']}")
        if hashlib.sha256(content).hexdigest() != package["SHA256"]:
            raise ClusterError(f"{package['Filename']} from {mirror} does not have the digest in the index: try again")
        with tempfile.NamedTemporaryFile(suffix=".deb") as file:
            file.write(content)
            file.flush()
            # Not `--extract` to the root: it would replace the links above by folders.
            packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", file.name], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", str(root)], input=packed, check=True)
    listed = (f"{package['Package']} {package['Version']} {package['SHA256']}\n" for package in packages)
    (root / CONTENTS).write_text("".join(sorted(listed)))
    for waste in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/x86_64-linux-gnu/gconv"):
        shutil.rmtree(root / waste, ignore_errors=True)


def debian_mirror() -> str:
    """Return the address of the mirror that this machine's apt uses for Debian."""
    if shutil.which("apt-get") is not None:
        # By label: the security archive has another one, and so has every archive that is not of Debian.
        command = ["apt-get", "indextargets", "--format", "$(SITE) $(COMPONENT) $(LABEL)", "Created-By: Packages"]
        for line in run(command, what="Reading the Debian mirror of apt").splitlines():
            if line.split()[1:] == ["main", "Debian"]:
                return line.split()[0].rstrip("/")
    return "http://deb.debian.org/debian"


def _index(mirror: str, suite: str, architecture: str) -> dict[str, Package]:
    """Return the packages of a suite by name."""
    path = f"main/binary-{architecture}/Packages.xz"
    with tempfile.TemporaryDirectory() as work:
        signed, release = Path(work) / "InRelease", Path(work) / "Release"
        signed.write_bytes(_get(f"{mirror}/dists/{suite}/InRelease"))
        run(
            ["gpgv", "--quiet", "--keyring", _KEYRING, "--output", release, signed],
            what=f"Verifying the index of Debian {suite}",
        )
        listed = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {re.escape(path)}$", release.read_text(), re.MULTILINE)
    packed = _get(f"{mirror}/dists/{suite}/{path}")
    if listed is None or hashlib.sha256(packed).hexdigest() != listed[1]:
        raise ClusterError(f"{path} of Debian {suite} does not have the digest in its release: try again")
    return {package["Package"]: package for package in _paragraphs(lzma.decompress(packed).decode())}


def _paragraphs(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
        if fields:
            yield fields


def _closure(index: Mapping[str, Package], *names: str) -> list[Package]:
    """Return packages and the libraries that they require, directly or not: programs are for installing, which we do
    not."""
    seen: dict[str, Package] = {}
    todo = list(names)
    while todo:
        package = index.get(todo.pop())
        if package is None or package["Package"] in seen:
            continue
        seen[package["Package"]] = package
        for field in ("Depends", "Pre-Depends"):
            first = (choice.split("|")[0].strip() for choice in package.get(field, "").split(","))
            required = (re.split(r"[ :(]", choice)[0] for choice in first)
            todo += [library for library in required if library.startswith("lib") or library == "zlib1g"]
    return list(seen.values())


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            content: bytes = response.read()
            return content
    except OSError as error:
        raise ClusterError(f"{url} cannot be fetched: {error}") from error
