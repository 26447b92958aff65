"""Lock files: the version and the hashes of every package that developers, images and CI install.

``make lock`` resolves each lock from pyproject.toml into ``requirements/NAME.txt``, for Linux and macOS. It keeps the
versions that still fit; ``UPGRADE=1 make lock`` selects the newest ones. ``dev`` is resolved first and constrains the
others, so that the images contain the versions that the tests ran with. ``--check`` needs no network: each file
contains the hash of the requirements that it was resolved from.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hack import ROOT

FOLDER = ROOT / "requirements"
PYTHON = "3.11"
"""The oldest supported Python; each lock also covers newer ones."""

BUILD = "build"
DEV = "dev"
LOCKS: Mapping[str, tuple[str, ...]] = {
    DEV: (DEV, BUILD),
    BUILD: (BUILD,),
    "operator": ("operator",),
    "server": ("server",),
    "server-pytorch": ("server", "pytorch"),
    "server-tensorflow": ("server", "tensorflow"),
}
"""For each lock file its extras of pyproject.toml; ``build`` has the packages that build the wheel of the project."""

_PIN = re.compile(r"([a-z0-9-]+)==([^ ;\\]+)(?: ; (.+?))?(?: \\)?")
_HASH = re.compile(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?")
_INPUTS = "# Inputs: "


def requirements(pyproject: str, lock: str) -> list[str]:
    """Return the requirements that a lock is resolved from, sorted."""
    project = tomllib.loads(pyproject)
    # An editable installation by hatchling needs `editables`, and an environment without pip takes it from here.
    extras = project["project"]["optional-dependencies"] | {
        BUILD: ["pip", "editables", *project["build-system"]["requires"]]
    }
    return sorted({line for extra in LOCKS[lock] for line in _flat(extras, extra)})


def _flat(extras: Mapping[str, list[str]], extra: str) -> Iterator[str]:
    """Yield the requirements of an extra and of those that it names, as ``mlmodel[a,b]``."""
    for line in extras[extra]:
        if line.startswith("mlmodel["):
            for other in line.removeprefix("mlmodel[").removesuffix("]").split(","):
                yield from _flat(extras, other)
        else:
            yield line


def header(inputs: Sequence[str]) -> str:
    """Return the first lines of a lock that is resolved from these requirements."""
    digest = hashlib.sha256("\n".join([PYTHON, *inputs]).encode()).hexdigest()
    return f"# Written by `make lock` from pyproject.toml; do not edit.\n{_INPUTS}{digest}\n"


@dataclass(frozen=True)
class Pin:
    """One package of a lock: for the machines that fit ``marker``, or for all; ``hashes`` are those of its files."""

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()


def entries(lock: str) -> list[Pin]:
    """Return the packages of a lock, in its order."""
    found: list[Pin] = []
    for line in lock.splitlines():
        if pin := _PIN.fullmatch(line):
            found.append(Pin(pin[1], pin[2], pin[3] or ""))
        elif digest := _HASH.fullmatch(line):
            found[-1] = replace(found[-1], hashes=(*found[-1].hashes, digest[1]))
    return found


def pins(lock: str) -> dict[str, set[str]]:
    """Return the locked versions of each package: one, or one for each range of Python versions."""
    found: dict[str, set[str]] = {}
    for pin in entries(lock):
        found.setdefault(pin.name, set()).add(pin.version)
    return found


def problems(pyproject: str, locks: Mapping[str, str]) -> list[str]:
    """Return one sentence for each lock that differs from what ``make lock`` writes for this pyproject.toml."""
    found = []
    dev = pins(locks.get(DEV, ""))
    for name in LOCKS:
        lock = locks.get(name, "")
        if not lock.startswith(header(requirements(pyproject, name))):
            found.append(f"requirements/{name}.txt does not match pyproject.toml: run make lock")
        elif different := [package for package, pin in pins(lock).items() if dev.get(package, pin) != pin]:
            found.append(
                f"requirements/{name}.txt and requirements/{DEV}.txt lock different versions of "
                f"{', '.join(different)}: run make lock"
            )
        if re.search(r"https?://|--(extra-)?index-url|--find-links", lock):
            found.append(f"requirements/{name}.txt names a package index: remove the address")
    return found


def write(name: str, inputs: Sequence[str], *, upgrade: bool) -> None:
    """Resolve one lock and write it. Raises ``subprocess.CalledProcessError`` if the requirements conflict."""
    path = FOLDER / f"{name}.txt"
    options = ["--quiet", "--universal", "--python-version", PYTHON, "--generate-hashes", "--no-emit-index-url"]
    options += ["--no-header", "--no-annotate", "--output-file", str(path)]
    options += ["--upgrade"] if upgrade else []
    options += [] if name == DEV else ["--constraints", str(FOLDER / f"{DEV}.txt")]
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", *options, "-"],
        input="\n".join(inputs),
        text=True,
        check=True,
        cwd=FOLDER,
    )
    path.write_text(header(inputs) + path.read_text("utf-8"), "utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write all locks, or check them; return 1 if one is out of date."""
    parser = argparse.ArgumentParser(prog="python -m hack.lock", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the locks with pyproject.toml, without a network")
    parser.add_argument("--upgrade", action="store_true", help="select the newest version of every package")
    given = parser.parse_args(argv)
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    if given.check:
        locks = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.txt")}
        found = problems(pyproject, locks)
        print("\n".join(found) or f"{len(LOCKS)} lock files match pyproject.toml")
        return 1 if found else 0
    FOLDER.mkdir(exist_ok=True)
    for name in LOCKS:
        write(name, requirements(pyproject, name), upgrade=given.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
