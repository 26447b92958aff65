"""An operator for two namespaces, with the token of its account, exactly its Roles, and all policies in force."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from hack import ROOT
from hack.cluster import Cluster, ClusterError
from hack.ports import free_port
from mlmodel_operator import manifests, policies
from mlmodel_operator.names import OPERATOR, PART_OF_LABEL, PROJECT
from tests.integration.operator.accounts import Account, policy_of

pytestmark = pytest.mark.attack

SYSTEM, SHOP, BANK, OTHER = "operator-of-two", "namespaced-shop", "namespaced-bank", "namespaced-other"
OPTIONS = manifests.Options(SYSTEM, (SHOP, BANK), network_policies=True)
KINDS = "deployments,services,configmaps,horizontalpodautoscalers,poddisruptionbudgets,networkpolicies"
MAIN = "import sys; from mlmodel_operator.__main__ import main; main(port=int(sys.argv[1]), argv=[])"


class Operator:
    """The process of the operator, outside the cluster, with the token and the environment of its Deployment."""

    def __init__(self, account: Account, log: Path) -> None:
        self._port = free_port()
        self.log = log
        (deployment,) = [body for body in manifests.install(OPTIONS) if body["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        env = {item["name"]: item.get("value", "") for item in container["env"]}
        env |= {"POD_NAMESPACE": SYSTEM, "POD_NAME": "operator-1", "KUBECONFIG": str(account.config)}
        with log.open("ab") as out:
            command = [sys.executable, "-c", MAIN, str(self._port)]
            self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=out, stderr=out)

    def requests(self) -> dict[str, float]:
        """Return the number of requests to the API server by the labels of their metric."""
        with urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=60) as answer:  # loopback, our own process
            lines = answer.read().decode().splitlines()
        found = [line.rsplit(" ", 1) for line in lines if line.startswith("mlmodel_operator_api_requests_total{")]
        return {labels: float(value) for labels, value in found}


@pytest.fixture
def operator(apiserver: Cluster, tmp_path: Path) -> Iterator[Operator]:
    for name in (SHOP, BANK, OTHER):
        apiserver.kubectl("create", "namespace", name)
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifests.text(OPTIONS))
    apiserver.kubectl("wait", "--for=condition=Established", "crd/mlmodels.mlmodel.dev", "--timeout=30s")
    account = Account(apiserver, SYSTEM, OPERATOR, tmp_path)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x", "namespace": SYSTEM}}
    apiserver.wait("policies", lambda: policy_of(account.create(lease)) == policies.LEASES)
    started = Operator(account, tmp_path / "operator.log")
    yield started
    started.process.terminate()
    assert started.process.wait(60) == 0
    print(started.log.read_text())
    apiserver.kubectl("delete", "mlmodels", "--all", "-A")
    ours = f"{PART_OF_LABEL}={PROJECT}"
    guards = "validatingadmissionpolicybindings,validatingadmissionpolicies"
    apiserver.kubectl("delete", guards, "-l", ours)
    apiserver.kubectl("delete", "namespace", SHOP, BANK, OTHER, SYSTEM, "--wait=false")


def model(namespace: str, *, is_large: bool) -> str:
    spec: dict[str, object] = {"model": {"uri": "builtin://iris"}}
    if is_large:
        spec |= {
            "serving": {"autoscaling": {"minReplicas": 2, "maxReplicas": 3}},
            "traffic": {"router": {"replicas": 2}},
        }
    meta = {"name": "fraud", "namespace": namespace}
    return json.dumps({"apiVersion": "mlmodel.dev/v1alpha1", "kind": "MLModel", "metadata": meta, "spec": spec})


def test_only_the_named_namespaces_are_served(apiserver: Cluster, operator: Operator) -> None:
    def found(namespace: str) -> set[str]:
        items = apiserver.get(KINDS, "-n", namespace, "-l", f"app.kubernetes.io/managed-by={OPERATOR}")["items"]
        return {item["kind"] for item in items}

    def phase(namespace: str) -> str:
        return str(apiserver.get("mlm", "fraud", "-n", namespace).get("status", {}).get("phase", ""))

    every = {"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"}
    for namespace in (SHOP, BANK, OTHER):
        apiserver.kubectl("apply", "-f", "-", input=model(namespace, is_large=True))
    apiserver.wait("children", lambda: found(SHOP) == found(BANK) == every)
    apiserver.wait("status", lambda: phase(SHOP) == phase(BANK) == "Preparing")
    apiserver.kubectl("apply", "-f", "-", input=model(SHOP, is_large=False))
    smaller = every - {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
    apiserver.wait("deletions", lambda: found(SHOP) == smaller)
    events = apiserver.get("events.events.k8s.io", "-n", SHOP)["items"]
    assert any(event.get("reportingController") == OPERATOR for event in events)

    assert found(OTHER) == set()
    assert phase(OTHER) == ""
    refused = {labels for labels in operator.requests() if 'code="403"' in labels}
    assert {labels for labels in refused if "customresourcedefinitions" not in labels} == set()
    log = operator.log.read_text()
    assert log.count("CustomResourceDefinition not checked") == 1
    assert "orbidden" not in log
    assert "Traceback" not in log
    account = f"system:serviceaccount:{SYSTEM}:{OPERATOR}"
    for namespace in (OTHER, "default", "kube-system"):
        with pytest.raises(ClusterError, match="no"):
            apiserver.kubectl("auth", "can-i", "list", "configmaps", "-n", namespace, f"--as={account}")
