"""Generate the Python code of the gRPC messages: ``python -m hack.proto``, part of ``make generate``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

from hack import ROOT

SERVER = ROOT / "server"
PROTO = "mlmodel_server/rpc/proto/open_inference.proto"
HEADER = '# ruff: noqa\n# fmt: off\n# mypy: disable-error-code="type-arg"\n'  # the output of protoc is not reformatted


def generated() -> dict[Path, str]:
    """Return the text of each file that protoc generates, by its path."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-I{SERVER}", f"--python_out={folder}", f"--pyi_out={folder}", PROTO]
        if protoc.main(arguments):
            sys.exit(f"protoc failed on {PROTO}: correct the errors above")
        written = sorted(Path(folder).rglob("*_pb2.py*"))
        return {SERVER / path.relative_to(folder): HEADER + path.read_text() for path in written}


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m hack.proto", description=__doc__).parse_args()
    for path, text in generated().items():
        path.write_text(text)
