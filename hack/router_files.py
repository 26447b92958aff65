"""Write what a router pod unpacks: `python -m hack.router_files`; `--check` reports whether it is out of date.

The operator and the admission policy, which permits nothing else in a router, read the written file. So they have the
same text, also if their compression libraries differ.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress

from hack import ROOT
from mlmodel_operator.resources.router import PACKED, directives, router_files

FILE = ROOT / "operator" / "mlmodel_operator" / "resources" / "haproxy" / PACKED


def packed(texts: Mapping[str, str]) -> str:
    """Return the files without comments as the base64 of a tar.gz: the same text for the same directives."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in sorted(texts.items()):
            data = directives(text).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return b64encode(gzip.compress(content.getvalue(), mtime=0)).decode() + "\n"


def is_current(text: str, texts: Mapping[str, str]) -> bool:
    """Whether ``text`` unpacks to these files, also if another library has compressed it."""
    with suppress(ValueError, OSError, EOFError):
        return gzip.decompress(b64decode(text)) == gzip.decompress(b64decode(packed(texts)))
    return False


def main() -> None:
    """Write the file, or with ``--check`` exit with 1 if it is out of date."""
    parser = argparse.ArgumentParser(prog="python -m hack.router_files", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is out of date")
    is_check = parser.parse_args().check
    if FILE.exists() and is_current(FILE.read_text("ascii"), router_files()):
        return
    if is_check:
        sys.exit(f"{FILE.relative_to(ROOT)} is out of date: run make generate")
    FILE.write_text(packed(router_files()), "ascii")


if __name__ == "__main__":
    main()
