"""Operation on a whole cluster: writes when idle, memory, restarts, autoscaling, messages, permissions."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack import faults, installed_operator
from hack.cluster import Cluster
from hack.quickstart import NAME, Model, condition, message
from hack.traffic import Traffic, wait_for

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
MIB = 1024 * 1024
SERVERS = "mlmodel.dev/component=server"


def test_an_idle_operator_writes_nothing_but_its_lease(cluster: Cluster, model: Model) -> None:
    def writes(since: float) -> list[str]:
        """What the operator wrote since a time (Unix seconds), without the renewals of its Lease."""
        return [
            f"{event['verb']} {event['objectRef'].get('resource')}/{event['objectRef'].get('name')}"
            for event in cluster.audit_events(since)
            if "mlmodel-operator" in event["user"]["username"]
            # The objects of the previous test may still be terminating.
            and event["objectRef"].get("namespace") in (None, "mlmodel-system", model.namespace)
            and event["objectRef"].get("resource") != "leases"
        ]

    model.apply("v1")
    model.wait_ready(180, "v1")
    assert writes(0), "the audit log shows what the operator wrote for this version"
    # An operator is idle once it has posted the Event of its last decision, which follows the status.
    wait_for("the operator is idle for 5 s", 60, lambda: not writes(time.time() - 5))
    started = time.time()
    # The only deliberate wait: the test shows that the operator writes nothing for a minute.
    time.sleep(60)
    assert writes(started) == []


def test_memory_stays_small(cluster: Cluster, model: Model, traffic: StartTraffic) -> None:
    model.apply("v2")
    model.wait_ready(180, "v2")
    with traffic(rate=50) as clients:
        clients.wait(lambda seen: seen.sent > 500, 60, "500 requests")
        clients.stop()
    server = next(iter(model.pods()))
    router = next(iter(model.pods("router")))
    operator = cluster.kubectl(
        "get", "pods", "-n", "mlmodel-system", "-l", "app.kubernetes.io/name=mlmodel-operator", "-o", "name"
    ).split()[0]
    used = {
        "operator": faults.memory(cluster, "mlmodel-system", operator.removeprefix("pod/")),
        "router": faults.memory(cluster, model.namespace, router),
        "server": faults.memory(cluster, model.namespace, server),
    }
    print({name: f"{size / MIB:.0f} MiB" for name, size in used.items()})
    assert used["operator"] <= 100 * MIB
    # Two processes: HAProxy 3.2 takes 24 MiB without a request, most of it shared.
    assert used["router"] <= 40 * MIB
    assert used["server"] <= 200 * MIB


def test_rolling_restarts_lose_no_request(
    cluster: Cluster, model: Model, traffic: StartTraffic, trained: tuple[Path, list[Any]], restarts: int
) -> None:
    """Half of the restarts with one pod, half with two, under three kinds of requests at once: short HTTP and gRPC
    requests, on keep-alive and on new connections; and large ones, which take longer to send than the time until
    SIGTERM, so that the pod has some of them in flight, and which the router cannot retry."""
    model.apply("v1")
    model.wait_ready(180, "v1")
    (deployment,) = model("get", "deployments", "-l", SERVERS, "-o", "name").split()
    start = partial(
        Traffic, cluster.kubectl, cluster.kubectl_command, model.namespace, image=installed_operator.image("server")
    )
    grpc = start(f"grpc://{NAME}.{model.namespace}.svc:9000/{NAME}", trained[1], rate=20, name="grpc")
    slow = start(model.url, [large(trained[1])], rate=4, send_seconds=7, name="slow")
    with traffic(rate=75) as http, grpc, slow:
        started, replaced = time.monotonic(), 0
        for number in range(restarts):
            if number == restarts // 2:
                model.apply("v1", serving={"replicas": 2})
                model.wait("2 pods are ready", 60, lambda status: status.get("replicas") == "2/2")
            before = model.pods()
            model("rollout", "restart", deployment)
            model("rollout", "status", deployment, "--timeout=55s")
            after = model.pods()
            assert len(after) == len(before)
            assert not before.keys() & after.keys(), "each pod was replaced"
            replaced += len(before)
        took = time.monotonic() - started
        still = ("get", "pods", "-l", SERVERS, "-o", "name")
        wait_for("the terminating pods are deleted", 60, lambda: len(model(*still).split()) == len(after))
        all_clients = {"http": http, "grpc": grpc, "slow": slow}
        for clients in all_clients.values():
            clients.wait_for_requests(10)
        seen = {kind: clients.stop() for kind, clients in all_clients.items()}
    sent, failed = sum(total.sent for total in seen.values()), sum(total.failed for total in seen.values())
    each = ", ".join(f"{kind} {total.sent} (slowest {total.slowest_ms:.0f} ms)" for kind, total in seen.items())
    print(f"{restarts} rolling restarts ({replaced} pods) in {took:.0f} s: {sent} requests, {failed} failed; {each}")
    assert failed == 0, {kind: total.errors for kind, total in seen.items()}
    assert sent == sum(total.ok for total in seen.values())
    status = model.status()
    assert status["phase"] == "Stable"
    assert not status.get("history"), "the operator does not count a restart as a rollout"


def large(bodies: list[Any]) -> dict[str, Any]:
    """Return one request with the rows of many, larger than the buffer of the router (64 KiB, haproxy.cfg)."""
    rows = [body["inputs"][0]["data"] for body in bodies] * 4
    values = [value for row in rows for value in row]
    body = {"inputs": [{"name": "row", "datatype": "FP64", "shape": [len(rows), len(rows[0])], "data": values}]}
    assert len(json.dumps(body)) > 2 * 64 * 1024
    return body


def test_load_adds_pods_to_the_revision_under_load(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1", serving={"autoscaling": {"maxReplicas": 3, "cpuPercent": 20}})
    model.wait_ready(180, "v1")
    with traffic(rate=300):
        wait_for("the autoscaler has added a pod", 180, lambda: len(model.pods()) > 1, every=1)
        status = model.wait(
            "the status has the new number of replicas", 60, lambda status: status["stable"]["replicas"] > 1
        )
    assert condition(status, "Available") == "True"


def test_a_missing_configmap_is_reported_and_then_found(model: Model) -> None:
    model.apply("v1")
    model("delete", "mlm", "tumour", "--wait=true")
    model("delete", "configmap", "tumour-v1")
    model("apply", "-f", "examples/quickstart/mlmodel.yaml")
    status = model.wait(
        "the message names it", 60, lambda status: "ConfigMap tumour-v1 not found in namespace" in message(status)
    )
    assert condition(status, "Ready") == "False"
    model("apply", "-f", str(model.out / "tumour-v1.yaml"))
    model.wait_ready(180, "v1")


def test_a_first_version_that_cannot_load_gives_the_reason_and_a_good_one_replaces_it(model: Model) -> None:
    model.apply("v4")
    status = model.wait("v4 is stalled", 60, lambda status: condition(status, "Stalled") == "True")
    assert "clipped" in message(status)
    assert condition(status, "Ready") == "False"
    model.apply("v1")
    model.wait_ready(180, "v1")


def test_kubectl_wait_and_the_columns_of_kubectl_get(model: Model) -> None:
    model.apply("v1")
    model("wait", "mlmodel/tumour", "--for=condition=Ready", "--timeout=90s")
    header, row = model("get", "mlm").splitlines()
    assert header.split() == ["NAME", "PHASE", "READY", "STABLE", "CANDIDATE", "WEIGHT", "REPLICAS", "AGE"]
    assert row.split()[:4] == ["tumour", "Stable", "True", "v1"]
    wide = model("get", "mlm", "-o", "wide")
    assert "Serving" in wide
    assert f"http://tumour.{model.namespace}.svc" in wide


@pytest.mark.attack(held=True)
def test_pods_meet_the_restricted_profile_and_the_operator_cannot_read_secrets(cluster: Cluster, model: Model) -> None:
    """The namespace enforces the profile, so pods that violate it would not exist."""
    cluster.kubectl("label", "namespace", model.namespace, "pod-security.kubernetes.io/enforce=restricted")
    model.apply("v1", serving={"replicas": 2})
    model.wait_ready(180, "v1")
    denied = subprocess.run(
        [
            *cluster.kubectl_command,
            "auth",
            "can-i",
            "get",
            "secrets",
            "--as",
            "system:serviceaccount:mlmodel-system:mlmodel-operator",
        ],
        capture_output=True,
        text=True,
    )
    assert denied.stdout.strip() == "no"
    assert json.loads(model("get", "pods", "-o", "json"))["items"]
