"""Records and adoption on a real API server: what it stores, what it defaults, and what a lookalike differs in."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hack.cluster import Cluster
from mlmodel_operator import resources
from mlmodel_operator.adoption import Adopter
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import HistoryEntry
from mlmodel_operator.api.types import MLModel, ModelSource, Owner, Revision, Snapshot, Spec
from mlmodel_operator.kept import VIEWS
from mlmodel_operator.names import APPLIED_ANNOTATION, FIELD_MANAGER, MODEL_LABEL, OPERATOR, TEMPLATE_ANNOTATION
from mlmodel_operator.process import CHILDREN
from mlmodel_operator.recorder import Recorder
from mlmodel_operator.resources.common import owner_references
from mlmodel_operator.resources.records import deployment_record, read_records
from mlmodel_operator.rollout.recovery import Decisions
from mlmodel_operator.runtime.api import ApiError, KubeApi
from mlmodel_operator.runtime.apply import Applier
from mlmodel_operator.runtime.clock import SystemClock
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.resource import (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    SERVICES,
    Body,
    controller_of,
    metadata,
    resource_version,
)
from mlmodel_operator.runtime.store import Store

FORMER, NOW = "uid-of-the-former-model", "uid-of-the-model"
MODEL = ModelSource("https://models.example/a?b=1&c=<2>", sha256="9f2c" * 16, version="größer>1")
"""Characters that JSON writers escape in different ways: the data of a record is immutable, byte by byte."""


class Cast:
    """The children of a former model on the API server, and an adopter for the present one."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.former, self.owner = Owner("fraud", namespace, FORMER), Owner("fraud", namespace, NOW)
        self.revision = Revision("5f1c2e9a", Snapshot(MODEL, "example/server:1"))
        message = 'exit message: \x7f \u0085 \ufeff \U0001f600 \\ " <&> größer'
        entry = HistoryEntry("77b0d1c4", "v2", "RolledBack", Time(1.0), Time(2.25), message)
        self.decisions = Decisions(self.revision.id, history=(entry,))
        self.store = Store(MODEL_LABEL, VIEWS)
        self.recorder = Recorder(api, self.store)
        applier = Applier(api, self.store, FIELD_MANAGER, APPLIED_ANNOTATION)
        events = Events(api, SystemClock(), OPERATOR, "operator-1")
        self.adopter = Adopter(api, self.store, applier, self.recorder, events)
        self.applier = applier

    async def build(self) -> None:
        """Build the children as the operator of the former model did, with their records."""
        deployment = resources.deployment(self.former, self.revision)
        await self.recorder.ensure(deployment_record(self.former, deployment, self.revision))
        await self.recorder.ensure_decisions(self.former, self.decisions)
        for r, body in (
            (DEPLOYMENTS, deployment),
            (SERVICES, resources.service(self.former, self.revision.id)),
            (SERVICES, resources.router_service(self.former)),
        ):
            # The garbage collector would delete children of an owner that never existed.
            await self.applier.apply(r, {**body, "metadata": {**body["metadata"], "ownerReferences": []}})
        for body in self.recorder.owned(self.former):
            change = {"resourceVersion": resource_version(body), "ownerReferences": []}
            await self.applier.patch(CONTROLLER_REVISIONS, body, {"metadata": change})

    async def watch(self) -> None:
        """Bring the store up to date."""
        for r in CHILDREN:
            bodies, version = await self.api.list(r, self.namespace)
            self.store.replace(r, bodies, version)

    async def adopt(self) -> None:
        await self.watch()
        model = MLModel(self.owner, 1, Spec(MODEL))
        body = {
            "apiVersion": "mlmodel.dev/v1alpha1",
            "kind": "MLModel",
            "metadata": {"namespace": self.namespace, "name": "fraud", "uid": NOW},
        }
        await self.adopter.adopt(model, body)

    def child(self, r: Any, name: str) -> Body:
        body = self.store.get(r, self.namespace, name)
        assert body is not None
        return body

    def owner_of(self, r: Any, name: str) -> str:
        return str((controller_of(self.child(r, name)) or {}).get("uid", ""))


def run(apiserver: Cluster, namespace: str, test: Callable[[Cast], Awaitable[None]]) -> None:
    """Run a test against the API server."""

    async def main() -> None:
        os.environ["KUBECONFIG"] = str(apiserver.kubeconfig)
        api = await KubeApi.connect("test", lambda *_: None)
        try:
            await test(Cast(api, namespace))
        finally:
            await api.close()

    asyncio.run(main())


def test_equal_children_are_adopted_and_keep_spec_and_address(apiserver: Cluster, api_namespace: str) -> None:
    async def test(cast: Cast) -> None:
        await cast.build()
        await cast.watch()
        before = {name: copy.deepcopy(cast.child(SERVICES, name)) for name in ("fraud", "fraud-5f1c2e9a")}
        deployment = copy.deepcopy(cast.child(DEPLOYMENTS, "fraud-5f1c2e9a"))
        await cast.adopt()
        assert cast.owner_of(DEPLOYMENTS, "fraud-5f1c2e9a") == NOW
        for name, body in before.items():
            assert cast.owner_of(SERVICES, name) == NOW
            assert cast.child(SERVICES, name)["spec"] == body["spec"]
        now = cast.child(DEPLOYMENTS, "fraud-5f1c2e9a")
        assert now["spec"] == deployment["spec"]
        assert metadata(now)["generation"] == metadata(deployment)["generation"]
        # The operator's next apply changes an annotation and no field of the spec.
        applied = await cast.applier.apply(DEPLOYMENTS, resources.deployment(cast.owner, cast.revision))
        assert applied["spec"] == deployment["spec"]
        assert [item["uid"] for item in metadata(applied)["ownerReferences"]] == [NOW]
        recorded = await cast.recorder.load(cast.owner)
        assert recorded.known.decisions == cast.decisions
        assert recorded.known.snapshots == {cast.revision.id: cast.revision.snapshot}

    run(apiserver, api_namespace, test)


@pytest.mark.parametrize(
    "change",
    [
        {"containers": [{"name": "server", "image": "evil:1"}]},
        {"containers": [{"name": "server", "command": ["sh"]}]},
        {"containers": [{"name": "server", "env": [{"name": "LD_PRELOAD", "value": "/x"}]}]},
        {"containers": [{"name": "sidecar", "image": "evil:1"}]},
        {"initContainers": [{"name": "first", "image": "evil:1"}]},
        {"serviceAccountName": "admin"},
        {"hostNetwork": True},
        {"nodeName": "node-1"},
        {"volumes": [{"name": "secret", "secret": {"secretName": "s"}}]},
        {"securityContext": {"runAsNonRoot": False}},
        {"automountServiceAccountToken": True},
        {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["models.example"]}]},
    ],
    ids=lambda change: json.dumps(change)[:50],
)
def test_a_lookalike_that_differs_is_not_adopted(apiserver: Cluster, api_namespace: str, change: Body) -> None:
    async def test(cast: Cast) -> None:
        await cast.build()
        patch = json.dumps({"spec": {"template": {"spec": change}}})
        apiserver.kubectl("-n", api_namespace, "patch", "deployment", "fraud-5f1c2e9a", "-p", patch)
        await cast.watch()
        before = copy.deepcopy(cast.child(DEPLOYMENTS, "fraud-5f1c2e9a"))
        assert TEMPLATE_ANNOTATION in metadata(before)["annotations"]
        await cast.adopt()
        await cast.watch()
        assert cast.child(DEPLOYMENTS, "fraud-5f1c2e9a") == before
        assert cast.owner_of(SERVICES, "fraud") == NOW
        events = json.loads(apiserver.kubectl("-n", api_namespace, "get", "events.events.k8s.io", "-o", "json"))
        (event,) = [item for item in events["items"] if item["reason"] == "NotAdopted"]
        assert "spec.template.spec." in event["note"]
        assert f"kubectl delete deployment fraud-5f1c2e9a -n {api_namespace}" in event["note"]

    run(apiserver, api_namespace, test)


def test_what_kubernetes_and_users_change_later_is_no_difference(apiserver: Cluster, api_namespace: str) -> None:
    async def test(cast: Cast) -> None:
        await cast.build()
        kubectl = ("-n", api_namespace)
        apiserver.kubectl(*kubectl, "scale", "deployment", "fraud-5f1c2e9a", "--replicas=3")
        apiserver.kubectl(*kubectl, "rollout", "restart", "deployment", "fraud-5f1c2e9a")
        labels = ("velero.io/backup-name=nightly", "velero.io/restore-name=nightly-1")
        apiserver.kubectl(*kubectl, "label", "deployment", "fraud-5f1c2e9a", *labels)
        annotation = "deployment.kubernetes.io/revision=7"
        apiserver.kubectl(*kubectl, "annotate", "deployment", "fraud-5f1c2e9a", annotation, "--overwrite")
        await cast.adopt()
        assert cast.owner_of(DEPLOYMENTS, "fraud-5f1c2e9a") == NOW

    run(apiserver, api_namespace, test)


def test_the_data_of_a_record_cannot_be_changed_and_another_controllers_is_none(
    apiserver: Cluster, api_namespace: str
) -> None:
    async def test(cast: Cast) -> None:
        await cast.build()
        (body, *_) = await cast.recorder.read(cast.owner)
        with pytest.raises(ApiError) as raised:
            await cast.api.patch(CONTROLLER_REVISIONS, api_namespace, metadata(body)["name"], {"data": {"x": 1}})
        assert raised.value.invalid
        # As the controller of a tenant's StatefulSet writes it, with labels that the tenant chooses.
        planted = {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {"namespace": api_namespace, "name": "fraud-planted", "labels": metadata(body)["labels"]},
            "revision": 1000,
            "data": {"spec": {"template": {"mlmodelRecord": "{}"}}},
        }
        await cast.api.create(CONTROLLER_REVISIONS, planted)
        await cast.adopt()
        assert cast.owner_of(CONTROLLER_REVISIONS, "fraud-planted") == ""
        assert cast.recorder.stable(cast.owner) == cast.revision.id
        assert read_records([planted]).known.decisions == Decisions()

    run(apiserver, api_namespace, test)


@pytest.mark.parametrize("role", ["edit", "admin"])
def test_tenants_may_not_write_records(apiserver: Cluster, role: str) -> None:
    found = json.loads(apiserver.kubectl("get", "clusterrole", f"system:aggregate-to-{role}", "-o", "json"))
    writes = {"create", "update", "patch", "delete", "deletecollection", "*"}
    for rule in found["rules"]:
        if {"apps", "*"} & set(rule["apiGroups"]) and writes & set(rule["verbs"]):
            assert not {"controllerrevisions", "*"} & set(rule["resources"])


def test_the_commands_of_the_documentation_give_orphans_back(apiserver: Cluster, api_namespace: str) -> None:
    async def test(cast: Cast) -> None:
        await cast.build()
        owner = json.dumps({"metadata": {"ownerReferences": owner_references(cast.owner)}})
        kinds = "deployments,services,configmaps,hpa,pdb"
        kubectl = ("-n", api_namespace)
        names = apiserver.kubectl(*kubectl, "get", kinds, "-l", "mlmodel.dev/model=fraud", "-o", "name").split()
        assert len(names) == 3
        apiserver.kubectl(*kubectl, "patch", "--type=merge", "-p", owner, *names)
        await cast.watch()
        assert cast.owner_of(DEPLOYMENTS, "fraud-5f1c2e9a") == NOW
        assert cast.owner_of(SERVICES, "fraud") == NOW

    run(apiserver, api_namespace, test)
