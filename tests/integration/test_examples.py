"""The commands of the examples' READMEs, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import ROOT
from tests.fixtures.readme import Folder, blocks

EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/README.md"))
CLUSTER = "Roll out in a cluster"


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_commands_of_an_example_work_on_a_laptop(example: str, tmp_path: Path) -> None:
    found = blocks((ROOT / "examples" / example / "README.md").read_text())
    local = [block for block in found if block.heading != CLUSTER]
    assert [block.heading for block in found if block.heading == CLUSTER], "it has a part for a cluster"
    assert any(block.expected for block in local), "it shows a response"
    Folder(tmp_path).run(local)
