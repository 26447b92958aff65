"""An upgrade of the operator during a rollout, from an earlier revision of this repository, and the way back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack import ROOT, installed_operator
from hack.cluster import Cluster
from hack.quickstart import NAME, Model, condition, train
from hack.traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.whole]

STEPS = [{"weight": 25}, {"weight": 50}]
WAITING = [{"weight": 25, "minSeconds": 3600}]
"""The candidate keeps a quarter of the requests until the spec has other steps: images take minutes to build."""


class Release:
    """The files of one Git revision in ``folder``."""

    def __init__(self, revision: str, folder: Path) -> None:
        self.folder = folder
        # Not a work tree of Git, which would outlive a test that is killed.
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True)
        if archive.returncode:
            pytest.fail(f"git archive {revision}: {archive.stderr.decode()}", pytrace=False)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)

    def run(self, *arguments: str) -> str:
        """Run Python with the packages of this release; return what it prints."""
        places = [self.folder, self.folder / "operator", self.folder / "server"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def status_format(self) -> int:
        """Return the format of ``status`` that its operator writes."""
        return int(self.run("-c", "from mlmodel_operator.api.status import FORMAT_VERSION; print(FORMAT_VERSION)"))

    def install(self, cluster: Cluster) -> None:
        """Load the images, under the names that those of this checkout have, and apply the manifest."""
        self.run("-m", "hack.cluster", "images", "--name", cluster.name)
        installed_operator.install(cluster, self.folder / "manifests" / "install.yaml")


@pytest.fixture
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    """The release of ``--upgrade-from``."""
    revision = request.config.getoption("upgrade_from")
    if not revision:
        pytest.skip("type `make upgrade FROM=REVISION` to upgrade from a Git revision")
    folder = tmp_path / "release"
    folder.mkdir()
    return Release(revision, folder)


def clients(cluster: Cluster, model: Model, bodies: Sequence[Any], name: str, url: str) -> Traffic:
    start = partial(Traffic, cluster.kubectl, cluster.kubectl_command, model.namespace)
    return start(url, bodies, image=installed_operator.image("server"), rate=40, clients=4, name=name)


@pytest.mark.timeout(1500)
def test_an_upgrade_during_a_rollout_and_the_way_back_lose_no_request(
    cluster: Cluster, namespace: str, release: Release, tmp_path: Path
) -> None:
    release.install(cluster)
    release.run("examples/quickstart/versions.py", "--out", str(tmp_path))
    model = Model(cluster, namespace, tmp_path)
    bodies = train(tmp_path)
    model.apply("v1")
    model.wait_ready(120, "v1")
    grpc = f"grpc://{NAME}.{namespace}.svc:9000/{NAME}"
    with (
        clients(cluster, model, bodies, "rest", model.url) as rest,
        clients(cluster, model, bodies, "grpc", grpc) as calls,
    ):
        both = (rest, calls)

        def failed(after: str) -> None:
            lost = {each.now.errors[0] if each.now.errors else "": each.now.failed for each in both if each.now.failed}
            print(f"{after}: {[each.now.sent for each in both]} requests over HTTP and gRPC, lost: {lost or 0}")
            assert not lost

        # The upgrade, while the candidate has a quarter of the requests.
        model.apply("v2", rollout={"steps": WAITING})
        model.wait_weight(25)
        before = model.pods()
        cluster.load_images()
        installed_operator.install(cluster)
        assert model.pods() == before, "no server pod starts, stops or restarts"
        assert model.status()["candidate"]["weight"] == 25
        model.apply("v2", rollout={"steps": STEPS})
        model.wait_ready(300, "v2")
        failed("upgraded during the canary, v2 promoted")

        # The server of the new release.
        model("patch", "mlmodel", NAME, "--type=merge", "-p", '{"spec":{"serving":{"refresh":"upgraded"}}}')
        model.wait("the new image serves", 300, lambda status: condition(status, "Ready") == "True")
        model.wait("no image is outdated", 60, lambda status: condition(status, "OutdatedImage") == "False")
        failed("new server image rolled out")

        written = model.status()["formatVersion"]
        if written != release.status_format():
            print(f"no way back: the release writes format {release.status_format()}, this checkout {written}")
            return
        release.install(cluster)
        model.apply("v3-all", rollout={"steps": STEPS}, serving={"refresh": "upgraded"})
        model.wait_rejected(300)
        failed("back on the release before, v3-all rejected")

        cluster.load_images()
        installed_operator.install(cluster)
        model.apply("v2", rollout={"steps": STEPS}, serving={"refresh": "upgraded"})
        model.wait_ready(300, "v2")
        failed("upgraded again")
