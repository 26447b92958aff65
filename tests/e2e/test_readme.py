"""Every command of the README, unchanged, on a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hack import ROOT, installed_operator
from hack.cluster import Cluster

pytestmark = pytest.mark.cluster

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Return the command lines of the README in its order; blocks marked ``shell`` need a registry or an index."""
    text = (ROOT / "README.md").read_text()
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line]


def test_the_commands_of_the_readme_work(cluster: Cluster, operator: Cluster, namespace: str, tmp_path: Path) -> None:
    for name in ("examples", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig.read_text())
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kubectl").symlink_to(cluster.backend.kubectl)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": path}

    def run(command: str) -> str:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    run(f"kubectl config set-context --current --namespace {namespace}")
    ran = []
    for command in commands():
        if command.startswith(("make ", "KEEP=1 make ")):
            continue  # test_demo.py tests `make demo`, and `make test` runs this test
        print(f"$ {command}\n{run(command)}")
        ran.append(command)
        if command.endswith("manifests/install.yaml"):
            installed_operator.install(cluster)  # with the router image of this cluster
    assert len(ran) >= 8
    assert "tumour" in run("kubectl get mlm")
    assert (tmp_path / "out" / "tumour-mine.yaml").read_text().count("immutable: true") == 1
