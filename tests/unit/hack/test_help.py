"""Every tool that developers start parses its command line, so that --help and a typo never start the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import ROOT

CHILDREN = {"client", "grpc_client", "importer", "keeper", "kserve_app", "node", "own", "relay"}
"""Programs that another program starts with arguments of its making."""

TOOLS = [
    path
    for folder in ("hack", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if '\nif __name__ == "__main__":\n' in path.read_text("utf-8") and path.stem not in CHILDREN
]


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_is_parsed(path: Path) -> None:
    assert "parse_args(" in path.read_text("utf-8")


def test_the_tools_are_found() -> None:
    assert {"demo", "links", "lint", "lock", "words"} <= {path.stem for path in TOOLS}
