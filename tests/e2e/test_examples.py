"""The commands of the examples' READMEs that need a cluster, as they stand: serve, and roll a better version out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hack.cluster import Cluster
from tests.fixtures.readme import EXAMPLES, Folder, access, example_blocks, is_for_cluster, use

pytestmark = pytest.mark.cluster

ALWAYS = ("churn", "prices")
"""The examples of every run: a DataFrame in the server's image, and a compiled model. `make examples` runs all."""


@pytest.mark.parametrize(
    "example", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.whole) for name in EXAMPLES]
)
def test_the_commands_of_an_example_work_on_a_cluster(
    example: str,
    trained_example: Callable[[str], Folder],
    cluster: Cluster,
    operator: Cluster,
    namespace: str,
    tmp_path: Path,
) -> None:
    commands = [block for block in example_blocks(example) if is_for_cluster(block)]
    assert commands
    trained_example(example).run([use(namespace), *commands], 480, **access(cluster, tmp_path))
    (model,) = cluster.get("mlm", "-n", namespace)["items"]
    rolls_out = any("v2.yaml" in block.commands for block in commands)
    assert model["status"]["stable"]["version"] == ("v2" if rolls_out else "v1")
    assert [entry["outcome"] for entry in model["status"].get("history", [])] == ["Promoted"] * rolls_out
