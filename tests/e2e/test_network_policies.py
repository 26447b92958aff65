"""NetworkPolicies that are enforced: who reaches a pod of a model, and rollouts where everything else is denied."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from hack import ROOT, faults, installed_operator
from hack.cluster import Cluster, policies
from hack.cluster.cluster import Embedded
from hack.quickstart import NAME, Model, condition
from hack.traffic import Traffic
from tests.e2e.test_sources import inside, spec
from tests.e2e.test_tls import write
from tests.integration.router.certificates import Authority

pytestmark = pytest.mark.cluster

T = TypeVar("T")
SECONDS = 30.0
"""Time in which changed policies are enforced."""
OPERATOR = (installed_operator.NAMESPACE, installed_operator.LABEL)
DENY_ALL = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
CONNECT = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def opens(target):
    address, _, port = target.partition(":")
    try:
        socket.create_connection((address, int(port)), 1).close()
    except OSError:
        return False
    return True

with ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(opens, sys.argv[1:]))))
"""
SERVER_PORTS, ROUTER_PORTS = (8080, 8090, 9000), (8080, 9000, 9090, 9091)
OPEN = (set(SERVER_PORTS), set(ROUTER_PORTS))
CLOSED = (set[int](), {8080, 9000})
PERMITTED = {
    "the node, which probes": OPEN,
    "the router": ({8080, 9000}, OPEN[1]),  # itself is always open
    "a pod of the model": ({8080, 9000}, {8080, 9000}),
    "the operator": ({8080, 8090}, OPEN[1]),
    "a pod of the namespace": CLOSED,
    "another model's router": CLOSED,
    "another model's pod": CLOSED,
    "a pod elsewhere": CLOSED,
    "a model's router of the same name elsewhere": CLOSED,
    "a model's pod of the same name elsewhere": CLOSED,
}
"""Ports of a server pod and of a router pod that each source reaches."""
Pod = tuple[str, str, str]
"""Namespace, name and address."""


@pytest.fixture(scope="module")
def enforcing(cluster: Cluster, operator: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """The program that makes the network of the cluster enforce NetworkPolicies."""
    if not isinstance(cluster.backend, Embedded):
        pytest.skip("only the embedded cluster can run programs of this machine in the network of a pod")
    with policies.enforced(cluster) as process:
        yield process


@pytest.fixture
def elsewhere(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A second namespace."""
    name = f"{namespace}-b"
    cluster.kubectl("create", "namespace", name)
    cluster.wait("service account", lambda: bool(cluster.kubectl("get", "serviceaccount", "default", "-n", name)))
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def component(model: str, which: str) -> str:
    return f"mlmodel.dev/model={model},mlmodel.dev/component={which}"


def pods(cluster: Cluster, namespace: str, selector: str) -> list[Pod]:
    """Return the running pods of a selector, by name."""
    items = cluster.get("pods", "-n", namespace, "-l", selector)["items"]
    found = [item for item in items if "deletionTimestamp" not in item["metadata"]]
    return sorted((namespace, item["metadata"]["name"], item["status"].get("podIP", "")) for item in found)


def start_other(cluster: Cluster, namespace: str) -> Pod:
    """Start a pod that belongs to no model and listens on port 8080; return it."""
    run = ["run", "other-pod", "--image", installed_operator.image("server"), "--image-pull-policy=IfNotPresent"]
    cluster.kubectl("-n", namespace, *run, "--command", "--", "python3", "-m", "http.server", "8080")
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/other-pod", "--timeout=60s", seconds=70)
    return pods(cluster, namespace, "run=other-pod")[0]


def reached(cluster: Cluster, source: Pod | None, target: Pod, *ports: int) -> set[int]:
    """Return to which of the ports a pod can connect, or the node without ``source``."""
    argv = ["python3", "-c", CONNECT, *(f"{target[2]}:{port}" for port in ports)]
    out = cluster.run(argv) if source is None else faults.in_network_of(cluster, source[0], source[1], argv)
    return {port for port, opens in zip(ports, json.loads(out), strict=True) if opens}


def wait_equal(read: Callable[[], T], expected: T) -> None:
    """Wait until ``read`` returns what is expected."""
    end = time.monotonic() + SECONDS
    while (found := read()) != expected and time.monotonic() < end:
        pass  # reading takes a second
    assert found == expected


def documented(page: str) -> list[dict[str, Any]]:
    """Return the NetworkPolicies that a page of the manual shows."""
    text = (ROOT / "docs" / "how-to" / page).read_text("utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    return [block for block in blocks if block.get("kind") == "NetworkPolicy"]


def apply_builtin(cluster: Cluster, namespace: str, name: str, **more: Any) -> Model:
    """Apply a model that is in the server's image, and wait for its first pods elsewhere."""
    manifest = spec({"uri": "builtin://iris", "version": "v1"}, **more)
    manifest["metadata"]["name"] = name
    cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(manifest))
    return Model(cluster, namespace, Path())


def wait_serving(cluster: Cluster, namespace: str, name: str) -> None:
    argv = ["wait", "-n", namespace, f"mlm/{name}", "--for=condition=Ready", "--timeout=90s"]
    cluster.kubectl(*argv, seconds=100)


@pytest.mark.attack(held=True)
def test_a_server_pod_accepts_its_router_the_operator_its_own_model_and_probes_and_nothing_else(
    cluster: Cluster, model: Model, enforcing: subprocess.Popen[bytes], elsewhere: str
) -> None:
    here = model.namespace
    model.apply("v1", serving={"replicas": 2})
    apply_builtin(cluster, here, "other")
    apply_builtin(cluster, elsewhere, NAME)
    neighbour, stranger = start_other(cluster, here), start_other(cluster, elsewhere)
    model.wait_ready(180, "v1")
    wait_serving(cluster, here, "other")
    wait_serving(cluster, elsewhere, NAME)
    server, sibling = pods(cluster, here, component(NAME, "server"))
    (router,) = pods(cluster, here, component(NAME, "router"))
    others = [
        pods(cluster, namespace, component(name, which))[0]
        for namespace, name in ((here, "other"), (elsewhere, NAME))
        for which in ("router", "server")
    ]

    def found() -> dict[str, tuple[set[int], set[int]]]:
        (operator,) = pods(cluster, *OPERATOR)  # it is replaced meanwhile
        sources = (None, router, sibling, operator, neighbour, *others[:2], stranger, *others[2:])

        def ports(source: Pod | None) -> tuple[set[int], set[int]]:
            return (
                reached(cluster, source, server, *SERVER_PORTS),
                reached(cluster, source, router, *ROUTER_PORTS),
            )

        with ThreadPoolExecutor(len(sources)) as pool:  # a closed port takes a second
            return dict(zip(PERMITTED, pool.map(ports, sources), strict=True))

    with installed_operator.network_policies(cluster):
        wait_equal(found, PERMITTED)
        cluster.kubectl("label", "namespace", elsewhere, "mlmodel.dev/metrics=true")
        scraper = {name: ({8080}, OPEN[1]) for name in PERMITTED if name.endswith("elsewhere")}
        wait_equal(found, PERMITTED | scraper)
        for target, port in ((server, 8080), (router, 9090)):
            url = f"http://{target[2]}:{port}/metrics"
            assert "# TYPE " in faults.in_network_of(cluster, elsewhere, stranger[1], ["curl", "-fsS", "-m", "5", url])
        assert {restarts for _, restarts in model.pods().values()} == {0}, "the probes pass"

    # What was closed was closed by the policies, not by anything else.
    wait_equal(found, dict.fromkeys(PERMITTED, OPEN))


@pytest.mark.attack(held=True)
def test_a_server_pod_does_not_reach_a_metadata_server_that_the_policy_of_the_manual_denies(
    cluster: Cluster, namespace: str, enforcing: subprocess.Popen[bytes]
) -> None:
    apply_builtin(cluster, namespace, NAME)
    wait_serving(cluster, namespace, NAME)
    (server,) = pods(cluster, namespace, component(NAME, "server"))
    metadata = ("", "", "169.254.169.254")
    cluster.run(["ip", "address", "add", f"{metadata[2]}/32", "dev", "lo"])
    try:
        with inside(cluster, ["python3", "-m", "http.server", "80", "--bind", metadata[2]], metadata[2], 80):
            assert reached(cluster, server, metadata, 80) == {80}
            (policy,) = documented("storage.md")
            cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(policy))
            none: set[int] = set()
            wait_equal(lambda: reached(cluster, server, metadata, 80), none)
    finally:
        cluster.run(["ip", "address", "delete", f"{metadata[2]}/32", "dev", "lo"])
    (router,) = pods(cluster, namespace, component(NAME, "router"))
    assert reached(cluster, router, server, 8080, 9000) == {8080, 9000}


def test_a_rollout_goes_on_where_everything_is_denied_but_what_the_manual_permits(
    cluster: Cluster,
    model: Model,
    enforcing: subprocess.Popen[bytes],
    elsewhere: str,
    trained: tuple[Path, list[Any]],
    tmp_path: Path,
) -> None:
    here, bodies, image = model.namespace, trained[1], installed_operator.image("server")
    host, authority, ca = f"secure.{model.namespace}.svc", Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    write(model, authority.issue("first", host))
    model.apply("v1", serving={"replicas": 2})
    apply_builtin(cluster, here, "secure", traffic={"tls": {"secretName": "tumour-tls"}})
    neighbour, stranger = start_other(cluster, here), start_other(cluster, elsewhere)
    model.wait_ready(180, "v1")
    wait_serving(cluster, here, "secure")
    (router,) = pods(cluster, here, component(NAME, "router"))

    with installed_operator.network_policies(cluster):
        wait_equal(lambda: reached(cluster, neighbour, router, 8080, 9090), {8080})
        wait_equal(lambda: reached(cluster, stranger, neighbour, 8080), {8080})
        port = str(cluster.backend.port) if isinstance(cluster.backend, Embedded) else "6443"
        for policy in documented("install.md"):
            namespace = policy["metadata"].get("namespace", here)
            text = json.dumps(policy).replace("6443", port)
            cluster.kubectl("-n", namespace, "apply", "-f", "-", input=text)
            cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(DENY_ALL))
        try:
            none: set[int] = set()
            # Out of the closed namespace, into it, and to its router.
            wait_equal(lambda: reached(cluster, neighbour, router, 8080), none)
            wait_equal(lambda: reached(cluster, stranger, neighbour, 8080), none)
            wait_equal(lambda: reached(cluster, stranger, router, 8080, 9000, 9090), {8080, 9000})
            grpc_url = f"grpc://{NAME}.{here}.svc:9000/{NAME}"
            start = partial(Traffic, cluster.kubectl, cluster.kubectl_command, elsewhere, bodies=bodies, image=image)
            with start(url=model.url, rate=20) as rest, start(url=grpc_url, rate=5, name="clients-grpc") as grpc:
                rest.wait_for_requests(200)
                model.apply("v2", serving={"replicas": 2}, rollout={"steps": [{"weight": 50}], "bakeSeconds": 3})
                repeated: list[int] = []

                def is_stable(status: dict[str, Any]) -> bool:
                    evidence = (status.get("candidate") or {}).get("rehearsal") or {}
                    repeated.append(evidence.get("requests", 0))
                    return condition(status, "Ready") == "True" and status["stable"]["version"] == "v2"

                status = model.wait("v2 is stable", 180, is_stable)
                over_tls = json.loads(
                    faults.in_network_of(cluster, elsewhere, stranger[1], tls_client(str(ca), host, seconds=2))
                )
                restart_behind_a_late_network(cluster, router, enforcing)
                seen, seen_grpc = rest.stop(), grpc.stop()
        finally:
            cluster.kubectl("-n", installed_operator.NAMESPACE, "delete", "networkpolicies", "--all")
    print(f"{max(repeated)} repeated; {status['history'][0]['message']}; {seen.sent} and {seen_grpc.sent} requests")
    assert max(repeated) > 0
    assert status["history"][0]["outcome"] == "Promoted"
    assert (seen.failed, seen_grpc.failed) == (0, 0), (seen.errors, seen_grpc.errors)
    assert set(seen.versions) == set(seen_grpc.versions) == {"v1", "v2"}
    assert over_tls["lost"] == 0, over_tls
    assert over_tls["sent"] > 10


def restart_behind_a_late_network(cluster: Cluster, router: Pod, process: subprocess.Popen[bytes]) -> None:
    """Restart the router while the network permits no connection of a new pod, which then gets no request either."""
    namespace, name, _ = router
    deployment = f"deployment/{NAME}-router"

    def waits_for_stable() -> bool:
        new = [pod for pod in pods(cluster, namespace, component(NAME, "router")) if pod[1] != name]
        page = cluster.run(["curl", "-s", "-m", "2", f"http://{new[0][2]}:9090/ready"]) if new else ""
        return page == "no server of the model accepts a connection yet"

    process.send_signal(signal.SIGSTOP)
    try:
        cluster.kubectl("-n", namespace, "rollout", "restart", deployment)
        cluster.wait("the new router waits for stable", waits_for_stable, seconds=30)
    finally:
        process.send_signal(signal.SIGCONT)
    cluster.kubectl("-n", namespace, "rollout", "status", deployment, "--timeout=55s")


def tls_client(ca: str, host: str, seconds: int) -> list[str]:
    """Return the command line of a client over TLS, HTTP and gRPC."""
    environment = ["GRPC_DNS_RESOLVER=native", f"PYTHONPATH={os.pathsep.join(sys.path)}"]
    return ["env", *environment, sys.executable, "-m", "tests.e2e.tls_client", ca, host, str(seconds)]
