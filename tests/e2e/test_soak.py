"""Rollouts of every outcome, one after the other, under HTTP and gRPC traffic, while processes are killed.

`make soak` runs twenty of them; `make test` runs few (``--soak``).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from hack import faults, installed_operator
from hack.cluster import Cluster
from hack.quickstart import NAME, Model, condition
from hack.traffic import Totals, Traffic, wait_for
from tests.e2e.test_status_lost import empty_status

pytestmark = pytest.mark.cluster

SEED = 20261128
ROLLOUT = {"steps": [{"weight": 25}, {"weight": 50}], "bakeSeconds": 5, "gates": {"errors": {"maxPercent": 5}}}
HTTP_RATE, GRPC_RATE = 70, 60
IN_FLIGHT = 8
"""Requests of both clients that may be in flight in one router process at a moment: 130 per second of some 10 ms, in
two processes, and those that the kernel had accepted for it."""


@dataclass
class Soak:
    """The model, its clients, and what happened."""

    cluster: Cluster
    model: Model
    clients: list[Traffic]
    good: str = "v1"
    """The version that serves."""
    retries: int = 0
    allowed: int = 0
    """Requests that may be lost: those in flight in killed routers."""
    lost: dict[str, int] = field(default_factory=dict)
    """Requests that were lost around each fault."""

    def apply(self, version: str, **rollout: Any) -> None:
        self.model.apply(version, rollout={**ROLLOUT, "retry": str(self.retries), **rollout}, serving={"replicas": 2})

    def failed(self) -> int:
        return sum(clients.now.failed for clients in self.clients)

    # Outcomes of a rollout -------------------------------------------------------------------------------------------

    def promoted(self, meanwhile: Callable[[], None]) -> None:
        self.good = "v2" if self.good == "v1" else "v1"
        self.apply(self.good)
        self.model.wait("a weight", 120, lambda status: bool((status.get("candidate") or {}).get("weight")))
        meanwhile()
        self.model.wait_ready(300, self.good)

    def rolled_back(self, meanwhile: Callable[[], None]) -> None:
        self.retries += 1
        self.apply("v3-all")
        self.model.wait("a start", 120, lambda status: bool(status.get("candidate") or status.get("rejected")))
        meanwhile()
        self.model.wait_rejected(300)

    def rejected(self, meanwhile: Callable[[], None]) -> None:
        self.retries += 1
        self.apply("v4")
        meanwhile()
        self.model.wait_rejected(300)

    def reverted(self, meanwhile: Callable[[], None]) -> None:
        self._withdraw(meanwhile, self.good)

    def superseded(self, meanwhile: Callable[[], None]) -> None:
        self.retries += 1
        self._withdraw(meanwhile, "v4")
        self.model.wait_rejected(300)

    def _withdraw(self, meanwhile: Callable[[], None], version: str) -> None:
        other = "v2" if self.good == "v1" else "v1"
        self.apply(other, steps=[{"weight": 50, "minSeconds": 600}])
        self.model.wait_weight(50)
        meanwhile()
        self.apply(version)
        if version == self.good:
            self.model.wait_ready(300, version)

    # Faults ----------------------------------------------------------------------------------------------------------

    def kill_operator(self) -> None:
        """Kill the leader; the standby takes over."""
        holder = installed_operator.leader(self.cluster)
        faults.kill_container(self.cluster, installed_operator.NAMESPACE, holder)
        wait_for("a leader", 60, lambda: bool(installed_operator.leader(self.cluster)))

    def kill_standby(self) -> None:
        holder = installed_operator.leader(self.cluster)
        (standby,) = (pod for pod in installed_operator.pods(self.cluster) if not pod.endswith(holder))
        faults.kill_container(self.cluster, installed_operator.NAMESPACE, standby.removeprefix("pod/"))

    def kill_router(self) -> None:
        (pod,) = self.model.pods("router")
        faults.kill_process(self.cluster, self.model.namespace, pod, "haproxy")
        self.allowed += IN_FLIGHT

    def kill_model(self) -> None:
        """Kill one of the two pods of stable."""
        revision = self.model.get()["status"]["stable"]["revision"]
        pod = next(name for name in self.model.pods() if revision in name)
        faults.kill_container(self.cluster, self.model.namespace, pod)

    def kill_api_server(self) -> None:
        faults.kill_program(self.cluster, "kube-apiserver")

    def kill_etcd(self) -> None:
        faults.kill_program(self.cluster, "etcd")

    def lose_status(self) -> None:
        empty_status(self.model)
        self.model.wait("the status is rebuilt", 60, lambda status: bool(status.get("stable")))


OUTCOMES = (Soak.promoted, Soak.rolled_back, Soak.rejected, Soak.reverted, Soak.superseded)
FAULTS = (
    Soak.kill_router,
    Soak.kill_operator,
    Soak.lose_status,
    Soak.kill_api_server,
    Soak.kill_model,
    Soak.kill_etcd,
    Soak.kill_standby,
)


def test_rollouts_of_every_outcome_lose_no_request_while_processes_are_killed(
    cluster: Cluster,
    operator: Cluster,
    model: Model,
    traffic: Callable[..., Traffic],
    trained: tuple[Any, list[Any]],
    soak: int,
) -> None:
    rng = random.Random(SEED)
    outcomes = [OUTCOMES[i % len(OUTCOMES)] for i in range(soak)]
    injected = [FAULTS[i % len(FAULTS)] for i in range(soak)]
    rng.shuffle(outcomes)
    cluster.kubectl("scale", "-n", installed_operator.NAMESPACE, installed_operator.DEPLOYMENT, "--replicas=2")
    try:
        wait_for("two operators", 60, lambda: _ready_operators(cluster) == 2)
        model.apply("v1", rollout=ROLLOUT, serving={"replicas": 2})
        model.wait_ready(180, "v1")
        grpc = Traffic(
            cluster.kubectl,
            cluster.kubectl_command,
            model.namespace,
            f"grpc://{NAME}.{model.namespace}.svc:9000/{NAME}",
            trained[1],
            image=installed_operator.image("server"),
            rate=GRPC_RATE,
            name="grpc",
        )
        with traffic(rate=HTTP_RATE) as http, grpc:
            run = Soak(cluster, model, [http, grpc])
            for number, (outcome, fault) in enumerate(zip(outcomes, injected, strict=True), 1):
                _one(run, number, outcome, fault)
            totals = [clients.stop() for clients in run.clients]
    finally:
        cluster.kubectl("scale", "-n", installed_operator.NAMESPACE, installed_operator.DEPLOYMENT, "--replicas=1")
        installed_operator.wait_installed(cluster)
    _report(run, totals, soak)
    assert sum(seen.failed for seen in totals) <= run.allowed, [error for seen in totals for error in seen.errors]
    others = {name: lost for name, lost in run.lost.items() if lost and name != "kill_router"}
    assert not others, "only requests in flight in a killed router may be lost"


def _one(run: Soak, number: int, outcome: Callable[..., None], fault: Callable[[Soak], None]) -> None:
    before = run.failed()
    outcome(run, lambda: fault(run))
    for clients in run.clients:
        clients.wait_for_requests(20)
    lost = run.failed() - before
    run.lost[fault.__name__] = run.lost.get(fault.__name__, 0) + lost
    sent = sum(clients.now.sent for clients in run.clients)
    print(f"{number}: {outcome.__name__}, {fault.__name__}: {lost} lost; {sent} requests so far", flush=True)
    if outcome is not Soak.promoted and outcome is not Soak.reverted:
        run.apply(run.good)
        run.model.wait_ready(180, run.good)
    status = run.model.status()
    assert status["stable"]["version"] == run.good
    assert condition(status, "Available") == "True"


def _report(run: Soak, totals: list[Totals], soak: int) -> None:
    print(f"seed {SEED}; {soak} rollouts; lost by fault: {json.dumps(run.lost)}; allowed {run.allowed}")
    for name, seen in zip(("HTTP", "gRPC"), totals, strict=True):
        print(
            f"{name}: {seen.sent} requests, {seen.failed} failed, {seen.fallbacks} retried on stable, {seen.versions}"
        )


def _ready_operators(cluster: Cluster) -> int:
    found = cluster.kubectl(
        *("get", "-n", installed_operator.NAMESPACE, installed_operator.DEPLOYMENT),
        *("-o", "jsonpath={.status.readyReplicas}"),
    )
    return int(found or 0)
