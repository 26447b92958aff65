"""What a tenant changes in the objects of a model, on a whole cluster under traffic: it costs no request."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from hack.quickstart import NAME, Model
from hack.traffic import Traffic, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.attack]

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
QUICK = {"steps": [{"weight": 50}], "bakeSeconds": 1, "gates": {"errors": {"maxPercent": 20}}}
NOWHERE = "id 00\nslot a 192.0.2.1 8080\nslot b 192.0.2.2 8080\nstable a\n"


def read(model: Model, kind: str, name: str) -> dict[str, Any]:
    """Return an object."""
    body: dict[str, Any] = json.loads(model("get", kind, name, "-o", "json"))
    return body


def test_frozen_routes_cost_no_request_and_the_rollout_goes_on(model: Model, traffic: StartTraffic) -> None:
    """Kubelet keeps the content of an immutable ConfigMap, for new pods on the node too, after it was made again."""
    routes = f"{NAME}-routes"
    model.apply("v1")
    model.wait_ready(180, "v1")
    with traffic(rate=20) as clients:
        former = read(model, "configmap", routes)
        change = {"data": {"routes": NOWHERE}, "immutable": True}
        model("patch", "configmap", routes, "--type=merge", "-p", json.dumps(change))

        def is_ours() -> bool:
            found = model("get", "configmap", routes, "-o", "json", "--ignore-not-found")
            body = json.loads(found) if found else {"data": {}}
            return body["data"] == former["data"] and "immutable" not in body

        wait_for("the ConfigMap is that of the operator again", 60, is_ours)
        assert read(model, "configmap", routes)["metadata"]["uid"] != former["metadata"]["uid"]
        # The next pod of the router mounts what kubelet keeps on this node.
        model("rollout", "restart", f"deployment/{NAME}-router")
        model("rollout", "status", f"deployment/{NAME}-router", "--timeout=90s")
        clients.wait_for_requests(100)
        model.apply("v2", rollout=QUICK)
        model.wait_ready(180, "v2")
        clients.wait_for_requests(100)
        seen = clients.stop()
    print(f"{seen.failed} of {seen.sent} failed, by version {seen.versions}")
    assert seen.failed == 0, seen.errors
    assert seen.versions["v2"] > 0


def test_what_runs_is_neither_chosen_by_status_nor_by_a_changed_deployment(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    status = model.wait_ready(180, "v1")
    name = f"{NAME}-{status['stable']['revision']}"
    template = read(model, "deployment", name)["spec"]["template"]
    pods = model.pods()
    with traffic(rate=20) as clients:
        change = {"status": {"stable": {"snapshot": {"image": "attacker/image"}, "version": "evil"}}}
        model("patch", "mlm", NAME, "--subresource=status", "--type=merge", "-p", json.dumps(change))
        wait_for("the status is undone", 60, lambda: model.status()["stable"] == status["stable"])
        assert pods.items() <= model.pods().items(), "no pod is restarted or replaced"
        extra = {"name": "extra", "image": "attacker/image", "imagePullPolicy": "Never"}
        patch = {"spec": {"template": {"spec": {"containers": [extra], "hostNetwork": True}}}}
        model("patch", "deployment", name, "-p", json.dumps(patch))
        wait_for(
            "the Deployment is undone", 60, lambda: read(model, "deployment", name)["spec"]["template"] == template
        )
        clients.wait_for_requests(100)
        seen = clients.stop()
    assert seen.failed == 0, seen.errors
    assert model.status()["stable"]["version"] == "v1"
