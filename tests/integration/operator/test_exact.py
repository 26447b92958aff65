"""What somebody adds to a child of the operator is removed again, on a real API server with its defaults."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from hack.cluster import Cluster
from mlmodel_operator import resources
from mlmodel_operator.api.types import (
    ApiKeys,
    Autoscaling,
    ModelSource,
    Owner,
    Revision,
    RouterResources,
    RouterSpec,
    Snapshot,
    Traffic,
)
from mlmodel_operator.kept import VIEWS
from mlmodel_operator.names import APPLIED_ANNOTATION, FIELD_MANAGER, MODEL_LABEL
from mlmodel_operator.resources.exact import foreign_fields
from mlmodel_operator.rollout.routes import Routes
from mlmodel_operator.runtime.api import ApiError, KubeApi
from mlmodel_operator.runtime.apply import Applier
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    SERVICES,
    Body,
    Resource,
    address,
    metadata,
    uid,
)
from mlmodel_operator.runtime.store import Store

pytestmark = pytest.mark.attack

SHA = "9f2c" * 16
SIDECAR = {"name": "extra", "image": "attacker/image"}
RESTART = {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}


class Children:
    """The children of one model on the API server."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.owner = api, Owner("fraud", namespace, "7f3e")
        self.restart()

    def restart(self) -> None:
        """Forget everything, as a new process of the operator."""
        self.store = Store(MODEL_LABEL, VIEWS)
        self.applier = Applier(self.api, self.store, FIELD_MANAGER, APPLIED_ANNOTATION, foreign_fields)

    def intents(self) -> Iterator[tuple[Resource, Body]]:
        """Yield every kind of child, without an owner: the garbage collector deletes children of one that never was."""
        traffic = Traffic(RouterSpec(2, resources=RouterResources()))
        yield CONFIG_MAPS, resources.router_routes(self.owner, Routes({"a": "10.0.0.1"}, stable="a"), "")
        yield SERVICES, resources.router_service(self.owner)
        yield DEPLOYMENTS, resources.router_deployment(self.owner, traffic, "example/haproxy:1", "0123")
        yield DISRUPTION_BUDGETS, resources.router_disruption_budget(self.owner)
        for policy in resources.network_policies(self.owner):
            yield NETWORK_POLICIES, policy
        uris = (
            "builtin://iris",
            "configmap://fraud-v1",
            "pvc://claim/dir",
            "s3://bucket/key",
            f"oci://r.x/f@sha256:{SHA}",
        )
        for number, uri in enumerate(uris):
            model = ModelSource(uri, sha256=SHA, trust="signed")
            revision = Revision(f"5f1c2e9{number}", Snapshot(model, "example/server:1", api_keys=ApiKeys("keys")))
            yield DEPLOYMENTS, resources.deployment(self.owner, revision, signing_keys="PEM")
            yield SERVICES, resources.service(self.owner, revision.id)
            yield AUTOSCALERS, resources.autoscaler(self.owner, revision.id, Autoscaling(max_replicas=3), 1)
            yield DISRUPTION_BUDGETS, resources.disruption_budget(self.owner, revision.id)

    def intent(self, r: Resource, name: str) -> Body:
        return next(body for kind, body in self.intents() if (kind, address(body)[1]) == (r, name))

    async def apply(self, r: Resource, intent: Body) -> Body:
        """Bring the store up to date with the object, and apply its intent."""
        body = {**intent, "metadata": {**intent["metadata"], "ownerReferences": []}}
        with suppress(ApiError):  # not found
            self.store.put(r, {"kind": r.kind, **await self.api.get(r, *address(body))})
        await self.applier.apply(r, body)
        return await self.api.get(r, *address(body))


def run(apiserver: Cluster, namespace: str, test: Callable[[Children], Awaitable[None]]) -> None:
    """Run a test against the API server."""

    async def main() -> None:
        os.environ["KUBECONFIG"] = str(apiserver.kubeconfig)
        api = await KubeApi.connect("test", lambda *_: None, VIEWS)
        try:
            await test(Children(api, namespace))
        finally:
            await api.close()

    asyncio.run(main())


def test_what_the_api_server_adds_is_not_foreign(apiserver: Cluster, api_namespace: str) -> None:
    """So an idle operator writes nothing, also after a restart."""

    async def test(children: Children) -> None:
        for r, intent in children.intents():
            first = await children.apply(r, intent)
            assert foreign_fields(first, intent) is None, (r.kind, address(intent))
            children.restart()
            again = await children.apply(r, intent)
            assert metadata(again)["resourceVersion"] == metadata(first)["resourceVersion"]

    run(apiserver, api_namespace, test)


CHANGES: list[tuple[Resource, str, str, Body]] = [
    (DEPLOYMENTS, "fraud-5f1c2e90", name, {"spec": change})
    for name, change in {
        "a container": {"template": {"spec": {"containers": [SIDECAR]}}},
        "an init container": {"template": {"spec": {"initContainers": [SIDECAR]}}},
        "an image": {"template": {"spec": {"containers": [{"name": "server", "image": "attacker/image"}]}}},
        "a command": {"template": {"spec": {"containers": [{"name": "server", "command": ["sh"]}]}}},
        "a variable": {
            "template": {"spec": {"containers": [{"name": "server", "env": [{"name": "LD_PRELOAD", "value": "/x"}]}]}}
        },
        "a volume": {"template": {"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}},
        "the network of the node": {"template": {"spec": {"hostNetwork": True}}},
        "a service account": {"template": {"spec": {"serviceAccountName": "admin"}}},
        "its token": {"template": {"spec": {"automountServiceAccountToken": True}}},
        "an annotation of the pods": {"template": {"metadata": {"annotations": {"sidecar.istio.io/inject": "true"}}}},
        "a label of the pods": {"template": {"metadata": {"labels": {"team": "x"}}}},
        "a pull policy": {"template": {"spec": {"dnsPolicy": "Default", "restartPolicy": "Always"}}},
        "a pause": {"paused": True},
    }.items()
] + [
    (SERVICES, "fraud", "another selector", {"spec": {"selector": {"app": "attacker"}}}),
    (SERVICES, "fraud", "addresses of others", {"spec": {"externalIPs": ["192.0.2.1"]}}),
    (SERVICES, "fraud", "a load balancer", {"spec": {"type": "LoadBalancer", "loadBalancerClass": "x.io/y"}}),
    (SERVICES, "fraud", "another name", {"spec": {"type": "ExternalName", "externalName": "attacker.example"}}),
    (SERVICES, "fraud", "a port", {"spec": {"ports": [{"name": "ssh", "port": 22, "targetPort": 22}]}}),
    (SERVICES, "fraud-5f1c2e90", "pods that are not ready", {"spec": {"publishNotReadyAddresses": True}}),
    (SERVICES, "fraud-5f1c2e90", "affinity", {"spec": {"sessionAffinity": "ClientIP"}}),
    (AUTOSCALERS, "fraud-5f1c2e90", "no scaling", {"spec": {"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}}),
    (
        AUTOSCALERS,
        "fraud-5f1c2e90",
        "another target",
        {"spec": {"scaleTargetRef": {"name": "other"}, "maxReplicas": 99}},
    ),
    (DISRUPTION_BUDGETS, "fraud-5f1c2e90", "no eviction", {"spec": {"maxUnavailable": 0}}),
    (NETWORK_POLICIES, "fraud-server", "a way in", {"spec": {"ingress": [{}]}}),
    (CONFIG_MAPS, "fraud-routes", "another file", {"data": {"other": "x"}}),
    (CONFIG_MAPS, "fraud-routes", "binary data", {"binaryData": {"other": "eA=="}}),
    (CONFIG_MAPS, "fraud-routes", "other routes", {"data": {"routes": "id 0\nstable b\n"}}),
    (CONFIG_MAPS, "fraud-routes", "other routes for ever", {"data": {"routes": "x"}, "immutable": True}),
]


def test_what_others_change_is_undone_in_one_reconcile(apiserver: Cluster, api_namespace: str) -> None:
    async def test(children: Children) -> None:
        for number, (r, name, what, change) in enumerate(CHANGES):
            intent = children.intent(r, name)
            before = await children.apply(r, intent)
            kind = {DEPLOYMENTS: "strategic", SERVICES: "strategic"}.get(r, "merge")
            apiserver.kubectl(
                "patch", f"{r.plural}/{name}", "-n", api_namespace, f"--type={kind}", "-p", json.dumps(change)
            )
            changed = await children.api.get(r, api_namespace, name)
            assert content(changed) != content(before), what
            if number % 2:
                children.restart()
            after = await children.apply(r, intent)
            assert content(after) == content(before), what
            assert content(await children.api.get(r, api_namespace, name)) == content(before), what
            settled = await children.apply(r, intent)
            assert metadata(settled)["resourceVersion"] == metadata(after)["resourceVersion"], what
            assert (uid(after) == uid(before)) is not ("immutable" in change), what

    run(apiserver, api_namespace, test)


def test_what_kubernetes_and_its_users_may_change_stays(apiserver: Cluster, api_namespace: str) -> None:
    async def test(children: Children) -> None:
        intent = children.intent(DEPLOYMENTS, "fraud-5f1c2e90")
        await children.apply(DEPLOYMENTS, intent)
        allowed = {
            "metadata": {"labels": {"argocd.argoproj.io/instance": "x"}, "annotations": {"note": "x"}},
            "spec": {"replicas": 5, "template": {"metadata": RESTART}},
        }
        changed = await children.api.patch(DEPLOYMENTS, api_namespace, "fraud-5f1c2e90", allowed)
        for _ in range(2):
            children.restart()
            after = await children.apply(DEPLOYMENTS, intent)
            assert metadata(after)["resourceVersion"] == metadata(changed)["resourceVersion"]

    run(apiserver, api_namespace, test)


def content(body: Body) -> Body:
    """Return what runs: a Service that was of another type gets another address."""
    spec = {key: value for key, value in (body.get("spec") or {}).items() if key not in ("clusterIP", "clusterIPs")}
    return {"spec": spec, **{key: body[key] for key in ("data", "binaryData", "immutable") if key in body}}
