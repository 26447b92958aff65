"""Writes the Python of the gRPC messages from the .proto file: ``python -m hack.proto``, part of ``make generate``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

from hack import ROOT

SERVER = ROOT / "server"
PROTO = "mlmodel_server/rpc/proto/open_inference.proto"
HEADER = '# ruff: noqa\n# fmt: off\n# mypy: disable-error-code="type-arg"\n'  # what protoc writes stays as it is


def generated() -> dict[Path, str]:
    """The text of each file that follows from the .proto file, by its place."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-I{SERVER}", f"--python_out={folder}", f"--pyi_out={folder}", PROTO]
        if protoc.main(arguments):
            sys.exit(f"protoc refuses {PROTO}")
        written = sorted(Path(folder).rglob("*_pb2.py*"))
        return {SERVER / path.relative_to(folder): HEADER + path.read_text() for path in written}


if __name__ == "__main__":
    for place, text in generated().items():
        place.write_text(text)
