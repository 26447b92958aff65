"""An upgrade of the operator during a rollout, from an earlier revision of this repository, and the way back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack import ROOT, installed_operator
from hack.cluster import Cluster, images
from hack.cluster.report import ClusterError
from hack.quickstart import NAME, Model, condition, train
from hack.traffic import Traffic, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.whole]

HELD = [{"weight": 25, "minSeconds": 3600}]
"""The candidate keeps a quarter of the requests until the spec has other steps."""
STEPS = [{"weight": 25}, {"weight": 50}]
SECONDS = 300.0
"""Limit of each wait, while other processes may use the CPUs."""


class Release:
    """A release of the operator: the files of ``folder``, and images with the tag ``version``."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder, self.version = folder, version

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

    def install(self, cluster: Cluster, *, with_definition: bool = True) -> None:
        """Apply its install.yaml, also without the CustomResourceDefinition; return when only its operator runs, and
        leads."""
        manifest = (self.folder / "manifests" / "install.yaml").read_text()
        if not with_definition:
            parts = manifest.split("---\n")
            manifest = "---\n".join(part for part in parts if "kind: CustomResourceDefinition" not in part)
        manifest = manifest.replace(installed_operator.STOCK_ROUTER, f"mlmodel-router:{self.version}")
        manifest = re.sub(r"\b(mlmodel-(?:operator|server)):[\w.]+", rf"\1:{self.version}", manifest)
        cluster.kubectl("apply", "-f", "-", input=manifest)
        installed_operator.wait_installed(cluster)
        leads = partial(installed_operator.leader, cluster)
        wait_for("its operator leads", SECONDS, lambda: [f"pod/{leads()}"] == installed_operator.pods(cluster))


def release_of(revision: str, folder: Path) -> Release:
    """Return the release of a Git revision, unpacked in ``folder``. Its images get another tag than those of this
    checkout, as those of two releases have: an upgrade changes the names of the images too."""
    # Not a work tree of Git, which would outlive a test that is killed.
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.fail(f"git archive {revision}: {archive.stderr.decode()}", pytrace=False)
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    version = f"{images.project_version()}.dev0"
    project = folder / "pyproject.toml"
    project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text(), count=1))
    return Release(folder, version)


@pytest.fixture
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    """The release of ``--upgrade-from``."""
    revision = request.config.getoption("upgrade_from")
    if not revision:
        pytest.skip("type `make upgrade FROM=REVISION` to upgrade from a Git revision")
    return release_of(revision, tmp_path / "release")


KEPT = ("phase", "stable", "draining", "rejected", "history")
OF_CANDIDATE = (
    "revision",
    "version",
    "phase",
    "step",
    "weight",
    "slot",
    "snapshot",
    "startedAt",
    "retries",
    "unproven",
)


def decisions(status: dict[str, Any]) -> dict[str, Any]:
    """Return what has been decided, from a status with a candidate: without its evidence, and without messages."""
    candidate = {name: status["candidate"].get(name) for name in OF_CANDIDATE}
    conditions = {kind: condition(status, kind) for kind in ("Available", "Ready", "RolledBack", "Stalled")}
    return {**{name: status.get(name) for name in KEPT}, "candidate": candidate, "conditions": conditions}


def counted(status: dict[str, Any]) -> int:
    """Return the number of requests that the operator counts for both sides of a rollout."""
    evidence = (status.get("candidate") or {}).get("evidence") or {}
    return sum(evidence.get(side, {}).get("requests", 0) for side in ("candidate", "stable"))


class Upgrades:
    """A model with clients over HTTP and gRPC, whose operator is replaced."""

    def __init__(self, cluster: Cluster, model: Model, clients: Sequence[Traffic]) -> None:
        self._cluster, self._model, self._clients = cluster, model, clients
        self._started = time.monotonic()

    def hold(self, version: str, **serving: Any) -> None:
        """Roll out ``version`` until it has a quarter of the requests, and keep it there."""
        self._model.apply(version, rollout={"steps": HELD, "bakeSeconds": 20}, serving=serving)
        self._model.wait(
            f"{version} gets a quarter of the requests",
            SECONDS,
            lambda status: (status.get("candidate") or {}).get("weight") == 25 and counted(status) > 0,
        )

    def end(self, version: str, **serving: Any) -> None:
        """Let the version that was held go on; return when it is promoted."""
        self._model.apply(version, rollout={"steps": STEPS, "bakeSeconds": 20}, serving=serving)
        self._model.wait_ready(SECONDS, version)
        status = self._model.wait("the rollout is over", SECONDS, lambda status: status["phase"] == "Stable")
        last = status["history"][0]
        assert (last["version"], last["outcome"]) == (version, "Promoted"), last
        print(f"  {version}: {last['message']}")

    def reject(self, version: str, **serving: Any) -> None:
        """Roll out a version that fails; return when it is rejected."""
        self._model.apply(version, rollout={"steps": STEPS, "bakeSeconds": 20}, serving=serving)
        status = self._model.wait_rejected(SECONDS)
        print(f"  {version}: {status['rejected'][0]['message']}")

    def refresh(self, text: str) -> None:
        """Roll out the stable version with the server image of the operator, as the manual says."""
        model = self._model
        assert condition(model.status(), "OutdatedImage") == "True"
        model("patch", "mlmodel", NAME, "--type=merge", "-p", json.dumps({"spec": {"serving": {"refresh": text}}}))
        model.wait("it is ready", SECONDS, lambda status: condition(status, "Ready") == "True")
        model.wait("no image is outdated", SECONDS, lambda status: condition(status, "OutdatedImage") == "False")
        model.wait("the rollout is over", SECONDS, lambda status: status["phase"] == "Stable")

    def replace_operator(self, release: Release, *, is_way_back: bool = False) -> None:
        """Install ``release`` during a canary, without its older definition on the way back, as the manual says."""
        with self._unchanged():
            release.install(self._cluster, with_definition=not is_way_back)
            self._wait_counted("its operator counts")
            routers = ("-n", self._model.namespace, f"deployment/{NAME}-router", f"--timeout={SECONDS:g}s")
            self._cluster.kubectl("rollout", "status", *routers, seconds=SECONDS + 10)
            self._model.wait("its routers follow the routes", SECONDS, lambda status: bool(status.get("routes")))
            self._wait_counted("its operator counts what its routers count")

    def try_older_operator(self, release: Release) -> None:
        """Install ``release``, whose operator cannot read the status, during a canary: it only says so."""
        with self._unchanged("NewerStatus"):
            release.install(self._cluster, with_definition=False)
            posts = partial(self._model, "get", "events", "--field-selector=reason=NewerStatus", "-o", "name")
            wait_for("it posts NewerStatus", SECONDS, lambda: bool(posts()))
            for each in self._clients:
                each.wait_for_requests(400)

    def lost_nothing(self, after: str) -> None:
        """Print the counts of the clients; fail if a request was lost."""
        for each in self._clients:
            each.wait_for_requests(100)
        seen = [each.now for each in self._clients]
        sent, lost = [each.sent for each in seen], [each.failed for each in seen]
        took, retried = time.monotonic() - self._started, sum(each.fallbacks for each in seen)
        print(f"{took:.0f} s: {after}: {sent} requests over HTTP and gRPC, {retried} retried, {lost} lost")
        assert not any(lost), [each.errors for each in seen]

    def _wait_counted(self, what: str) -> None:
        """Wait until more requests are counted than now."""
        before = counted(self._model.get()["status"])
        wait_for(what, SECONDS, lambda: counted(self._model.get()["status"]) > before)

    def _row(self) -> list[str]:
        """Return what ``kubectl get mlm`` prints, without the age."""
        return self._model("get", "mlm", NAME, "--no-headers").split()[:-1]

    def _events(self) -> dict[str, str]:
        """Return the reasons of the Events of the model, by name and count."""
        listed = self._cluster.get(
            "events", "-n", self._model.namespace, "--field-selector=involvedObject.kind=MLModel"
        )
        return {f"{item['metadata']['name']} {item.get('count')}": item["reason"] for item in listed["items"]}

    @contextmanager
    def _unchanged(self, *reasons: str) -> Iterator[None]:
        """Inside the context, no server pod starts, stops or restarts, nothing is decided, no count is lost, and the
        operator posts one Event for each of the ``reasons`` and no other."""
        model = self._model
        pods, row, events, status = model.pods(), self._row(), self._events(), model.get()["status"]
        seen, counts, is_over = [decisions(status)], [counted(status)], threading.Event()

        def watch() -> None:
            while not is_over.wait(0.2):
                with suppress(ClusterError):  # the API server starts its resource again when the definition changes
                    status = model.get()["status"]
                    counts.append(counted(status))
                    if decisions(status) != seen[-1]:
                        seen.append(decisions(status))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
        print(f"  {' '.join(row)}: {len(pods)} server pods, {counts[0]} to {counts[-1]} requests counted")
        assert seen == seen[:1], "nothing is decided"
        assert counts == sorted(counts), "what was counted before counts on"
        assert self._row() == row
        assert model.pods() == pods, "no server pod starts, stops or restarts"
        new = self._events()
        assert sorted(new[key] for key in new.keys() - events.keys()) == sorted(reasons)


def clients(cluster: Cluster, model: Model, bodies: Sequence[Any], name: str, url: str) -> Traffic:
    start = partial(Traffic, cluster.kubectl, cluster.kubectl_command, model.namespace)
    return start(url, bodies, image=installed_operator.image("server"), rate=40, clients=4, name=name)


@pytest.mark.timeout(2400)
def test_an_upgrade_during_a_rollout_and_the_way_back_lose_no_request(
    cluster: Cluster, namespace: str, release: Release, tmp_path: Path
) -> None:
    this = Release(ROOT, images.project_version())
    release.run("-m", "hack.cluster", "images", "--name", cluster.name)
    release.install(cluster)
    release.run("examples/quickstart/versions.py", "--out", str(tmp_path))
    model = Model(cluster, namespace, tmp_path)
    bodies = train(tmp_path)
    model.apply("v1")
    model.wait_ready(SECONDS, "v1")
    grpc = f"grpc://{NAME}.{namespace}.svc:9000/{NAME}"
    with (
        clients(cluster, model, bodies, "rest", model.url) as rest,
        clients(cluster, model, bodies, "grpc", grpc) as calls,
    ):
        upgrades = Upgrades(cluster, model, [rest, calls])
        upgrades.reject("v3-all")
        upgrades.hold("v2")
        upgrades.replace_operator(this)
        upgrades.lost_nothing("upgraded while v2 has a quarter")
        upgrades.end("v2")
        upgrades.lost_nothing("v2 promoted")
        upgrades.refresh("upgraded")
        upgrades.lost_nothing("new server image rolled out")

        upgrades.hold("v1", refresh="upgraded")
        if model.status()["formatVersion"] == release.status_format():
            upgrades.replace_operator(release, is_way_back=True)
            upgrades.lost_nothing("back on the release before while v1 has a quarter")
            upgrades.end("v1", refresh="upgraded")
            upgrades.reject("v3-all", refresh="upgraded")
            upgrades.lost_nothing("v1 promoted and v3-all rejected by the release before")
            upgrades.hold("v2", refresh="upgraded")
            last = "v2"
        else:
            upgrades.try_older_operator(release)
            upgrades.lost_nothing("the release before cannot read the status, and changes nothing")
            last = "v1"
        upgrades.replace_operator(this)
        upgrades.end(last, refresh="upgraded")
        upgrades.lost_nothing(f"upgraded again, {last} promoted")
