"""The commands of the examples' READMEs that need no cluster, as they stand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures.readme import EXAMPLES, Folder, example_blocks, is_for_cluster


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_commands_of_an_example_work_on_a_laptop(example: str, trained_example: Callable[[str], Folder]) -> None:
    found = [block for block in example_blocks(example) if not is_for_cluster(block)]
    served = [block for block in found if block.heading != "Train"]
    assert len(served) < len(found)
    assert any(block.expected for block in served), "it shows a response"
    trained_example(example).run(served)
