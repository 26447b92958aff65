"""A status that is lost on a whole cluster under traffic: with the same MLModel, and with a new one of another UID."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from hack.quickstart import NAME, Model, condition
from hack.traffic import Traffic, wait_for

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
Status = dict[str, Any]


def held(weight: int, **more: Any) -> dict[str, Any]:
    """Return a rollout that stays at one weight."""
    return {"steps": [{"weight": weight, "minSeconds": 3600}], **more}


MOMENTS: dict[str, tuple[str, dict[str, Any], Callable[[Status], bool]]] = {
    # the second version, its rollout, and the state in which the status is lost
    "preparing": ("v2", {"paused": True}, lambda status: status["phase"] == "Preparing"),
    "canary-5": ("v2", held(5), lambda status: (status.get("candidate") or {}).get("weight") == 5),
    "canary-25": ("v2", held(25), lambda status: (status.get("candidate") or {}).get("weight") == 25),
    "canary-50": ("v2", held(50), lambda status: (status.get("candidate") or {}).get("weight") == 50),
    "baking": (
        "v2",
        {"steps": [{"weight": 50}], "bakeSeconds": 3600, "gates": {"errors": {"maxPercent": 20}}},
        lambda status: status["phase"] == "Baking",
    ),
    "promoted": (
        "v2",
        {"steps": [{"weight": 50}], "bakeSeconds": 1, "gates": {"errors": {"maxPercent": 20}}},
        lambda status: status["stable"]["version"] == "v2",
    ),
    "rolled-back": ("v3-all", held(5), lambda status: condition(status, "RolledBack") == "True"),
}


def empty_status(model: Model) -> None:
    """Empty the status, as anyone who may write it can."""
    change = [{"op": "replace", "path": "/status", "value": {}}]
    model("patch", "mlm", NAME, "--subresource=status", "--type=json", "-p", json.dumps(change))


def replace_model(model: Model) -> None:
    """Delete the MLModel without its children, and create it again: another UID, and no status."""
    body = model.get()
    model("delete", "mlm", NAME, "--cascade=orphan")
    meta = {"name": NAME, "namespace": model.namespace}
    create = {key: body[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": meta}
    model("create", "-f", "-", input=json.dumps(create))


WAYS: dict[str, Callable[[Model], None]] = {"same-uid": empty_status, "new-uid": replace_model}
ALWAYS = {
    ("preparing", "same-uid"),
    ("canary-25", "new-uid"),
    ("baking", "same-uid"),
    ("promoted", "new-uid"),
    ("rolled-back", "new-uid"),
}
"""Combinations that run with every change; `make soak` runs all."""


@pytest.mark.parametrize(
    ("moment", "lose"),
    [
        pytest.param(moment, lose, id=f"{moment}-{way}", marks=() if (moment, way) in ALWAYS else (pytest.mark.whole,))
        for moment in MOMENTS
        for way, lose in WAYS.items()
    ],
)
def test_a_lost_status_costs_no_request(
    model: Model, traffic: StartTraffic, moment: str, lose: Callable[[Model], None]
) -> None:
    version, rollout, until = MOMENTS[moment]
    model.apply("v1")
    model.wait_ready(180, "v1")
    with traffic(rate=20) as clients:
        model.apply(version, rollout=rollout)
        before = model.wait(moment, 300, until)
        pods, address = model.pods(), model("get", "service", NAME, "-o", "jsonpath={.spec.clusterIP}")
        lose(model)
        # The routers follow the new routes within a second.
        clients.wait_for_requests(20)
        answered = clients.now.versions.get(version, 0)
        status = model.wait("the status is rebuilt", 30, lambda status: bool(status.get("stable")))
        assert status["stable"]["version"] == before["stable"]["version"]
        assert status["stable"]["slot"] == before["stable"]["slot"]
        assert status.get("rejected") == before.get("rejected")
        assert status.get("history") == before.get("history")
        clients.wait_for_requests(300)
        seen = clients.stop()
    print(f"{moment}: {seen.failed} of {seen.sent} failed, by version {seen.versions}")
    assert seen.failed == 0, seen.errors
    if moment == "rolled-back":
        assert seen.versions.get(version, 0) == answered == 0, "a rejected version gets no request"
        assert condition(model.status(), "RolledBack") == "True"
    elif moment != "promoted":
        assert model.status()["candidate"]["version"] == version
        assert pods.items() <= model.pods().items(), "no pod is restarted or replaced"
    serving = {name: pod for name, pod in pods.items() if before["stable"]["revision"] in name}
    assert serving.items() <= model.pods().items()
    assert model("get", "service", NAME, "-o", "jsonpath={.spec.clusterIP}") == address
    events = json.loads(model("get", "events.events.k8s.io", "-o", "json"))["items"]
    assert [event["reason"] for event in events].count("StatusRebuilt") == 1


@pytest.mark.attack(held=True)
def test_a_deployment_that_was_changed_is_not_adopted(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    status = model.wait_ready(180, "v1")
    name = f"{NAME}-{status['stable']['revision']}"
    with traffic(rate=20) as clients:
        body = model.get()
        model("delete", "mlm", NAME, "--cascade=orphan")
        model("set", "env", f"deployment/{name}", "LD_PRELOAD=/tmp/x")
        changed = json.loads(model("get", "deployment", name, "-o", "json"))["spec"]["template"]
        create = {key: body[key] for key in ("apiVersion", "kind", "spec")}
        create |= {"metadata": {"name": NAME, "namespace": model.namespace}}
        model("create", "-f", "-", input=json.dumps(create))

        def reported() -> bool:
            events = json.loads(model("get", "events.events.k8s.io", "-o", "json"))["items"]
            return any(event["reason"] == "NotAdopted" and name in event["note"] for event in events)

        wait_for("the foreign Deployment is reported", 60, reported)
        found = json.loads(model("get", "deployment", name, "-o", "json"))
        assert found["spec"]["template"] == changed
        assert "ownerReferences" not in found["metadata"]
        clients.wait_for_requests(100)
        assert clients.stop().failed == 0
        model("delete", "deployment", name)
        model.wait_ready(180, "v1")
