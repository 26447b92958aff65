"""Lint shell scripts, Dockerfiles, the page's JavaScript and Lua: ``python -m hack.lint``.

The virtual environment has all linters but luacheck, which is a Debian package. Without it, Lua is not linted, and a
line reports that. ``--install`` installs it with apt.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hack import ROOT, tracked
from hack.cluster import doctor

PAGE = ROOT / "server" / "mlmodel_server" / "page"
BIN = Path(sys.executable).parent
_SCRIPT = re.compile(r'<script src="(\w+\.js)"></script>')
_FINDING = re.compile(r"^[^:\n]*page\.js:(\d+):", re.MULTILINE)


def shell() -> int:
    """Run shellcheck on every file that names a shell in its first line."""
    return _run(BIN / "shellcheck", [file for file in tracked() if is_shell(file)])


def is_shell(file: Path) -> bool:
    """Return whether the first line of the file names a shell as its interpreter."""
    with file.open("rb") as opened:
        return re.match(rb"#!.*\b(ba|da|k)?sh\b", opened.readline()) is not None


def dockerfiles() -> int:
    """Run hadolint on every Dockerfile."""
    return _run(BIN / "hadolint", ["--no-color", *tracked("*Dockerfile")])


def javascript(page: Path = PAGE) -> int:
    """Run oxlint on the scripts of a page, joined in its order: as in the browser, they share global names."""
    names = _SCRIPT.findall((page / "index.html").read_text("utf-8"))
    scripts = {name: (page / name).read_text("utf-8").splitlines() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        joined = Path(folder) / "page.js"
        joined.write_text("".join(f"{line}\n" for lines in scripts.values() for line in lines), "utf-8")
        command: list[str | Path] = [
            BIN / "oxlint",
            "--config",
            ROOT / "hack" / "oxlint.json",
            "--format",
            "unix",
            joined,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        places = [
            f"{os.path.relpath(page / name, ROOT)}:{n}"
            for name, lines in scripts.items()
            for n in range(1, len(lines) + 1)
        ]
        # A finding is "FOLDER/page.js:LINE:COLUMN: …".
        print(_FINDING.sub(lambda found: f"{places[int(found[1]) - 1]}:", done.stdout + done.stderr))
    return done.returncode


def lua(*, install: bool) -> int:
    """Run luacheck on every Lua file, with ``install`` after installing it; return 0 if it is missing."""
    found = doctor.find("luacheck", "lua-check") if install else shutil.which("luacheck")
    if found is None:
        print(
            "Lua is not linted, luacheck is missing: apt-get install lua-check (elsewhere: luarocks install luacheck)"
        )
        return 0
    return _run(Path(found), ["--quiet", "--no-color", *tracked("*.lua")])


def _run(linter: Path, arguments: Sequence[str | Path]) -> int:
    # luacheck selects the rules for a file by its path relative to the checkout.
    words = [str(word.relative_to(ROOT)) if isinstance(word, Path) else word for word in arguments]
    return subprocess.run([linter, *words], cwd=ROOT).returncode


def main() -> int:
    """Run all linters; return 1 if one of them reports a problem."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.lint", description="Lint shell scripts, Dockerfiles, JavaScript and Lua."
    )
    parser.add_argument("--install", action="store_true", help="install luacheck with apt if it is missing")
    install = parser.parse_args().install
    return int(any([shell(), dockerfiles(), javascript(), lua(install=install)]))


if __name__ == "__main__":
    sys.exit(main())
