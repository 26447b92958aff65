"""Models whose pods cannot be scheduled cost the operator nothing until something changes."""

from __future__ import annotations

import json
import re
import time

import pytest

from hack import installed_operator
from hack.cluster import Cluster
from hack.quickstart import Model
from hack.traffic import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.whole]

MODELS = 200
SECONDS = 60
_SERIES = re.compile(r"^mlmodel_operator_(reconciles|api_requests)_total(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


def costs(cluster: Cluster) -> tuple[int, int]:
    """Return the reconciles and the requests to the API server so far, without watches and the Lease."""
    pod = installed_operator.leader(cluster)
    page = cluster.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{installed_operator.NAMESPACE}/pods/{pod}:8081/proxy/metrics"
    )
    totals = {"reconciles": 0, "api_requests": 0}
    for name, labels, value in _SERIES.findall(page):
        if 'verb="watch"' not in labels and 'resource="leases"' not in labels:
            totals[name] += int(float(value))
    return totals["reconciles"], totals["api_requests"]


@pytest.mark.timeout(900)
def test_pending_models_cost_neither_reconciles_nor_requests(cluster: Cluster, model: Model) -> None:
    model("apply", "-f", str(model.out / "tumour-v1.yaml"))
    pending = {
        "model": {"uri": "configmap://tumour-v1", "version": "v1"},
        "serving": {"resources": {"requests": {"cpu": "1000"}}},
        "rollout": {"preparingDeadlineSeconds": 3600},
        "traffic": {"router": {"resources": {"requests": {"cpu": "1000"}}}},
    }
    items = [
        {
            "apiVersion": "mlmodel.dev/v1alpha1",
            "kind": "MLModel",
            "metadata": {"name": f"pending-{number}"},
            "spec": pending,
        }
        for number in range(MODELS)
    ]
    for first in range(0, MODELS, 20):
        batch = {"apiVersion": "v1", "kind": "List", "items": items[first : first + 20]}
        model("apply", "-f", "-", input=json.dumps(batch))

    def unschedulable() -> bool:
        listed = json.loads(model("get", "mlm", "-o", "json"))["items"]
        return all("0/1 nodes" in json.dumps(item.get("status", {})) for item in listed)

    wait_for("every model reports that its pods cannot be scheduled", 400, unschedulable, every=2)
    last = costs(cluster)

    def is_quiet() -> bool:
        nonlocal last
        before, last = last, costs(cluster)
        return before == last

    wait_for("the operator is quiet for 10 s", 200, is_quiet, every=10)
    before = costs(cluster)
    time.sleep(SECONDS)  # what is measured
    after = costs(cluster)
    reconciles, requests = after[0] - before[0], after[1] - before[1]
    print(f"{MODELS} pending models, {SECONDS} s: {reconciles} reconciles, {requests} API requests")
    assert reconciles <= 10
    assert requests == 0
