"""Every command of the README, unchanged, on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import ROOT, installed_operator
from hack.cluster import Cluster
from tests.fixtures.readme import Block, Folder, access, blocks, use

pytestmark = pytest.mark.cluster

INSTALL = "kubectl apply -f manifests/install.yaml"


def commands() -> list[str]:
    """Return the command lines of the README in its order, without those that other tests run: test_demo.py tests
    `make demo`, and `make test` runs this test."""
    lines = [line for block in blocks((ROOT / "README.md").read_text()) for line in block.commands.splitlines()]
    return [line for line in lines if line and not line.startswith(("make ", "KEEP=1 make "))]


def test_the_commands_of_the_readme_work(cluster: Cluster, operator: Cluster, namespace: str, tmp_path: Path) -> None:
    folder, settings = Folder(tmp_path), access(cluster, tmp_path)
    lines = commands()
    assert len(lines) >= 8
    after = lines.index(INSTALL) + 1
    folder.run([use(namespace), *(Block("", line) for line in lines[:after])], **settings)
    installed_operator.install(cluster)  # with the router image of this cluster
    shown = folder.run([*(Block("", line) for line in lines[after:]), Block("", "kubectl get mlm")], **settings)
    assert "tumour" in shown[-1]
    assert (tmp_path / "out" / "tumour-mine.yaml").read_text().count("immutable: true") == 1
