"""The admission policies on a real API server, with the real tokens of the operator and of a tenant."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import ROOT
from hack.cluster import Cluster, ClusterError
from mlmodel_operator import manifests, policies, resources
from mlmodel_operator.api.types import (
    ApiKeys,
    Autoscaling,
    FeedbackKey,
    ModelSource,
    Owner,
    Revision,
    Snapshot,
    Tls,
    Traffic,
)
from mlmodel_operator.names import ADOPTED_LABEL, MANAGED_BY_LABEL, MODEL_LABEL, NAMESPACE, OPERATOR, ROUTES_ANNOTATION
from mlmodel_operator.resources.common import container_security, owner_references
from mlmodel_operator.resources.exact import foreign_fields
from mlmodel_operator.resources.records import deployment_record
from mlmodel_operator.rollout.routes import Routes
from mlmodel_operator.runtime.apply import correction
from tests.integration.operator.accounts import Account, Body, policy_of

pytestmark = pytest.mark.attack

INSTALL = ROOT / "manifests" / "install.yaml"
TENANTS = "policies-of-tenants"
OWNER = Owner("fraud", TENANTS, "7f3e7f3e-0000-4000-8000-000000000001")
SHA = "9f2c" * 16
(IMAGES,) = (body["data"] for body in yaml.safe_load_all(INSTALL.read_text()) if body["kind"] == "ConfigMap")
SERVER_IMAGE, ROUTER_IMAGE = IMAGES["server"], IMAGES["router"]
REVISION = "5f1c2e9a"


def server(uri: str = "https://models.example/a", image: str = SERVER_IMAGE) -> Body:
    """Return the Deployment of a revision with everything that it may have."""
    model = ModelSource(uri, sha256=SHA, trust="signed")
    snapshot = Snapshot(model, image, api_keys=ApiKeys("keys"), feedback_key=FeedbackKey("feedback"))
    revision = Revision(REVISION, snapshot)
    return resources.deployment(OWNER, revision, signing_keys="PEM")


def router(owner: Owner = OWNER) -> Body:
    return resources.router_deployment(owner, Traffic(tls=Tls("certificate")), ROUTER_IMAGE, "0123", "keys")


def routes() -> Body:
    return resources.router_routes(OWNER, Routes())


def record() -> Body:
    return deployment_record(OWNER, router())


def event(kind: str = "MLModel") -> Body:
    regarding = {"apiVersion": "mlmodel.dev/v1alpha1", "kind": kind, "namespace": TENANTS, "name": "fraud"}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": TENANTS, "name": "fraud.0123"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": OPERATOR,
        "reportingInstance": "operator-1",
        "type": "Normal",
        "action": "Seen",
        "reason": "Seen",
        "note": "seen",
        "regarding": regarding,
    }


def changed(body: Body, path: str, value: Any) -> Body:
    """Return a copy of ``body`` with ``value`` at a path like ``spec/containers/0/image``; ``+`` appends to a list, and
    ``~`` is a slash in a key."""
    body = copy.deepcopy(body)
    at: Any = body
    *parents, last = path.split("/")
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    if last == "+":
        at.append(value)
    else:
        at[int(last) if isinstance(at, list) else last.replace("~", "/")] = value
    return body


@dataclass(frozen=True)
class Case:
    """A request that must be rejected, and by which policy."""

    name: str
    policy: str
    send: Callable[[Account], str]


def of_pod(name: str, path: str, value: Any, policy: str = policies.DEPLOYMENTS, body: Body | None = None) -> Case:
    """Return the case of a Deployment with another field in its pod template."""
    forged = changed(body or server(), f"spec/template/{path}", value)
    return Case(name, policy, lambda account: account.apply(forged))


def of(name: str, policy: str, body: Body, path: str, value: Any) -> Case:
    forged = changed(body, path, value)
    return Case(name, policy, lambda account: account.apply(forged))


CONTAINER = "spec/containers/0"
THE_MODEL = MODEL_LABEL.replace("/", "~")
SECRET = {"secretName": "theirs"}
ITEMS = {"secretName": "theirs", "items": [{"key": "password", "path": "keys"}]}
TOKEN = {"sources": [{"serviceAccountToken": {"path": "token"}}]}
LEASE = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"namespace": NAMESPACE, "name": "other"}}
SERVICE = resources.router_service(OWNER)
NETWORK = resources.network_policies(OWNER)[0]
OTHERS = {"selector": {"matchLabels": {"app": "theirs"}}}

BESIDE = {"securityContext": container_security()}

FORBIDDEN = [
    # pods that reach the node
    of_pod("host network", "spec/hostNetwork", True),
    of_pod("host PID", "spec/hostPID", True),
    of_pod("host IPC", "spec/hostIPC", True),
    of_pod("host path", "spec/volumes/+", {"name": "config", "hostPath": {"path": "/"}}),
    of_pod("host port", f"{CONTAINER}/ports/+", {"name": "x", "containerPort": 1, "hostPort": 1}),
    of_pod("privileged", f"{CONTAINER}/securityContext", {"privileged": True}),
    of_pod("capability", f"{CONTAINER}/securityContext/capabilities", {"add": ["SYS_ADMIN"]}),
    of_pod("escalation", f"{CONTAINER}/securityContext/allowPrivilegeEscalation", True),
    of_pod("root", "spec/securityContext/runAsUser", 0),
    of_pod("no seccomp", "spec/securityContext/seccompProfile", {"type": "Unconfined"}),
    of_pod("one node", "spec/nodeName", "node1"),
    of_pod("every node", "spec/tolerations", [{"operator": "Exists"}]),
    of_pod("priority", "spec/priorityClassName", "system-node-critical"),
    of_pod("probe of another host", f"{CONTAINER}/readinessProbe/httpGet/host", "169.254.169.254"),
    # pods that have what others own
    of_pod("service account", "spec/serviceAccountName", "admin"),
    of_pod("token", "spec/automountServiceAccountToken", True),
    of_pod("projected token", "spec/volumes/+", {"name": "tls", "projected": TOKEN}),
    of_pod("Secret as the model", "spec/volumes/+", {"name": "model", "secret": SECRET}, body=server("builtin://iris")),
    of_pod("whole Secret as API keys", "spec/volumes/+", {"name": "keys", "secret": SECRET}),
    of_pod("mount that follows the node", f"{CONTAINER}/volumeMounts/0/mountPropagation", "HostToContainer"),
    of_pod("other entry of a Secret", "spec/volumes/+", {"name": "keys", "secret": ITEMS}),
    of_pod("other Secret for the store", "spec/volumes/2", {"name": "storage", "secret": SECRET}),
    of_pod("ConfigMap of others", "spec/volumes/+", {"name": "config", "configMap": {"name": "theirs"}}),
    of_pod("volume of a driver", "spec/volumes/+", {"name": "config", "csi": {"driver": "x"}}),
    of_pod("variable from a Secret", f"{CONTAINER}/envFrom", [{"secretRef": {"name": "theirs"}}]),
    of_pod(
        "variable from an entry",
        f"{CONTAINER}/env/+",
        {"name": "MLMODEL_X", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "x"}}},
    ),
    of_pod("pull secret", "spec/imagePullSecrets", [{"name": "theirs"}]),
    # pods that run something else
    of_pod("command", f"{CONTAINER}/command", ["sh", "-c", "true"]),
    of_pod("command of a router", f"{CONTAINER}/command", ["sh", "-c", "true"], body=router()),
    of_pod("variable of the loader", f"{CONTAINER}/env/+", {"name": "LD_PRELOAD", "value": "/tmp/x"}),
    of_pod("hook", f"{CONTAINER}/lifecycle/postStart", {"exec": {"command": ["true"]}}),
    of_pod("probe that executes", f"{CONTAINER}/livenessProbe", {"exec": {"command": ["true"]}}),
    of_pod("sidecar", "spec/containers/+", BESIDE | {"name": "router", "image": ROUTER_IMAGE}),
    of_pod("init container", "spec/initContainers/+", BESIDE | {"name": "other", "image": SERVER_IMAGE}),
    of_pod("label of another tool", "metadata/labels/azure.workload.identity~use", "true"),
    of_pod("annotation of another tool", "metadata/annotations", {"sidecar.istio.io/inject": "true"}),
    of_pod(
        "pods of another model",
        f"metadata/labels/{THE_MODEL}",
        "other",
        body=changed(server(), f"spec/selector/matchLabels/{THE_MODEL}", "other"),
    ),
    of_pod("foreign image", f"{CONTAINER}/image", "evil:1", policies.RUN_IMAGES),
    of_pod("registry named like our image", f"{CONTAINER}/image", "mlmodel-server:5000/evil", policies.RUN_IMAGES),
    of_pod("image in our folder", f"{CONTAINER}/image", "mlmodel-server/evil:1", policies.RUN_IMAGES),
    of_pod("router as a server", f"{CONTAINER}/image", ROUTER_IMAGE, policies.RUN_IMAGES),
    of_pod("foreign image of a router", f"{CONTAINER}/image", "evil:1", policies.RUN_IMAGES, router()),
    of_pod("foreign files of a router", f"{CONTAINER}/env/1/value", "H4sIAAAA", policies.RUN_IMAGES, router()),
    of_pod("foreign image that downloads", "spec/initContainers/0/image", "evil:1", policies.RUN_IMAGES),
    # objects that are not children of a model
    of("kube-system", policies.CHILDREN, server(), "metadata/namespace", "kube-system"),
    of("the operator's namespace", policies.CHILDREN, server(), "metadata/namespace", NAMESPACE),
    of("no owner", policies.CHILDREN, server(), "metadata/ownerReferences", []),
    of("owner that does not control it", policies.CHILDREN, server(), "metadata/ownerReferences/0/controller", False),
    of("owner of another kind", policies.CHILDREN, server(), "metadata/ownerReferences/0/kind", "Other"),
    of("owner of another group", policies.CHILDREN, server(), "metadata/ownerReferences/0/apiVersion", "apps/v1"),
    of("another model's name", policies.CHILDREN, routes(), "metadata/name", "other-routes"),
    of("not labelled", policies.CHILDREN, routes(), "metadata/labels", {MODEL_LABEL: "fraud"}),
    of("finalizer", policies.CHILDREN, routes(), "metadata/finalizers", ["example.com/x"]),
    of("ConfigMap of a tenant", policies.CHILDREN, routes(), "metadata/name", "fraud-theirs"),
    Case(
        "its own policy",
        policies.CHILDREN,
        lambda account: account.patch(NAMESPACE, f"configmap/{policies.IMAGES}", {"data": {"server": "evil:1"}}),
    ),
    Case(
        "Deployment of a tenant",
        policies.CHILDREN,
        lambda account: account.patch(
            TENANTS,
            "deployment/fraud-theirs",
            {"metadata": {"ownerReferences": owner_references(OWNER), "labels": server()["metadata"]["labels"]}},
        ),
    ),
    Case("deletion", policies.CHILDREN, lambda account: account.delete(TENANTS, "deployment/fraud-theirs")),
    # children that refer to what is not the model's
    of("node port", policies.REFERENCES, SERVICE, "spec/type", "NodePort"),
    of("load balancer", policies.REFERENCES, SERVICE, "spec/type", "LoadBalancer"),
    of("external IP", policies.REFERENCES, SERVICE, "spec/externalIPs", ["192.0.2.1"]),
    of("other name", policies.REFERENCES, SERVICE, "spec/externalName", "evil.example"),
    of("pods of others", policies.REFERENCES, SERVICE, "spec/selector", {"app": "theirs"}),
    of(
        "autoscaler of others",
        policies.REFERENCES,
        resources.autoscaler(OWNER, REVISION, Autoscaling(max_replicas=3), 1),
        "spec/scaleTargetRef/name",
        "theirs",
    ),
    of("budget of others", policies.REFERENCES, resources.router_disruption_budget(OWNER), "spec", OTHERS),
    of("network of others", policies.REFERENCES, NETWORK, "spec/podSelector", {}),
    of("no record", policies.REFERENCES, record(), "data", {"spec": {}}),
    # pods, Events, Leases
    Case(
        "image of a pod",
        policies.PODS,
        lambda account: account.patch(
            TENANTS,
            "pod/fraud-ours",
            {"spec": {"containers": [{"name": "server", "image": "evil:1"}]}},
            "strategic",
        ),
    ),
    Case(
        "label of a pod",
        policies.PODS,
        lambda account: account.patch(TENANTS, "pod/fraud-ours", {"metadata": {"labels": {"app": "theirs"}}}),
    ),
    Case(
        "annotation of a pod",
        policies.PODS,
        lambda account: account.patch(TENANTS, "pod/fraud-ours", {"metadata": {"annotations": {"x": "y"}}}),
    ),
    Case(
        "pod of a tenant",
        policies.PODS,
        lambda account: account.patch(TENANTS, "pod/theirs", {"metadata": {"annotations": {ROUTES_ANNOTATION: "x"}}}),
    ),
    Case("Event about others", policies.EVENTS, lambda account: account.create(event("Pod"))),
    Case("another Lease", policies.LEASES, lambda account: account.create(LEASE)),
]

PERMITTED: dict[str, Callable[[Account], str]] = {
    **{
        f"server of {uri}": partial(Account.apply, body=server(uri))
        for uri in (
            "builtin://iris",
            "configmap://fraud-v1",
            "pvc://claim/dir",
            "s3://bucket/key",
            "https://x.example/a",
        )
    },
    "server of an image": lambda account: account.apply(server(f"oci://r.example:5000/fraud@sha256:{SHA}")),
    "router": lambda account: account.apply(router()),
    "image of the release before": lambda account: account.apply(server(image=SERVER_IMAGE.split(":")[0] + ":0.0.9")),
    "image by digest": lambda account: account.apply(server(image=f"{SERVER_IMAGE}@sha256:{SHA}")),
    "Service": lambda account: account.apply(SERVICE),
    "Service of a revision": lambda account: account.apply(resources.service(OWNER, REVISION)),
    "routes": lambda account: account.apply(routes()),
    "autoscaler": lambda account: account.apply(resources.autoscaler(OWNER, REVISION, Autoscaling(max_replicas=3), 1)),
    "budget": lambda account: account.apply(resources.disruption_budget(OWNER, REVISION)),
    "budget of the router": lambda account: account.apply(resources.router_disruption_budget(OWNER)),
    **{
        f"NetworkPolicy {body['metadata']['name']}": partial(Account.apply, body=body)
        for body in resources.network_policies(OWNER)
    },
    "record": lambda account: account.create(record()),
    "Event": lambda account: account.create(event()),
    "annotation of a pod": lambda account: account.patch(
        TENANTS, "pod/fraud-ours", {"metadata": {"annotations": {ROUTES_ANNOTATION: "5"}}}
    ),
    "number of pods of an older release": lambda account: account.patch(
        TENANTS, "deployment/fraud-older", {"spec": {"replicas": 3}}
    ),
    "adoption": lambda account: account.patch(
        TENANTS, "deployment/fraud-orphan", {"metadata": {"ownerReferences": owner_references(OWNER)}}
    ),
    "adoption of a record": lambda account: account.patch(
        TENANTS,
        "controllerrevision/fraud-orphan",
        {"metadata": {"ownerReferences": owner_references(OWNER), "labels": {ADOPTED_LABEL: "true"}}},
    ),
    "deletion of a child": lambda account: account.delete(TENANTS, "deployment/fraud-older"),
}


@pytest.fixture(scope="module")
def installed(apiserver: Cluster) -> Iterator[Cluster]:
    """The API server with an installation, and a namespace that has objects of the operator and of tenants."""
    text = manifests.text(manifests.Options(network_policies=True))
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)
    apiserver.kubectl("wait", "--for=condition=Established", "crd/mlmodels.mlmodel.dev", "--timeout=30s")
    apiserver.kubectl("create", "namespace", TENANTS)
    apiserver.wait("account", lambda: bool(apiserver.kubectl("-n", TENANTS, "get", "serviceaccount", "default")))
    for body in cast(apiserver):
        apiserver.kubectl("create", "-f", "-", input=json.dumps(body))
    yield apiserver
    apiserver.kubectl("delete", "namespace", TENANTS, "--wait=false")


def cast(apiserver: Cluster) -> Iterator[Body]:
    """Yield what exists in the namespace, with a real model: the garbage collector deletes children of another UID."""
    model = {
        "apiVersion": "mlmodel.dev/v1alpha1",
        "kind": "MLModel",
        "metadata": {"name": "fraud", "namespace": TENANTS},
    }
    model["spec"] = {"model": {"uri": "builtin://iris"}}
    created = apiserver.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(model))
    ours = Owner("fraud", TENANTS, json.loads(created)["metadata"]["uid"])
    older = changed(server(), "metadata/name", "fraud-older")
    older = changed(older, "spec/template/spec/containers/0/image", "registry.example/older:1")
    older = changed(older, "spec/template/spec/hostAliases", [{"ip": "192.0.2.1", "hostnames": ["x"]}])
    yield changed(older, "metadata/ownerReferences", owner_references(ours))
    yield changed(changed(older, "metadata/name", "fraud-orphan"), "metadata/ownerReferences", [])
    orphan = changed(record(), "metadata/ownerReferences", [])
    yield changed(orphan, "metadata/name", "fraud-orphan")
    theirs = changed(older, "metadata", {"name": "fraud-theirs", "namespace": TENANTS})
    theirs = changed(theirs, "spec/selector", {"matchLabels": {"app": "theirs"}})
    yield changed(theirs, "spec/template/metadata", {"labels": {"app": "theirs"}})
    meta = {"name": "fraud-theirs", "namespace": TENANTS}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"x": "y"}}
    template = server()["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
    yield {**pod, "metadata": template["metadata"] | {"name": "fraud-ours", "namespace": TENANTS}}
    yield {**pod, "metadata": {"name": "theirs", "namespace": TENANTS}}


@pytest.fixture(scope="module")
def operator(installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Account:
    """The operator's account, once each policy is in force."""
    account = Account(installed, NAMESPACE, OPERATOR, tmp_path_factory.mktemp("operator"))

    def is_rejected(case: Case) -> bool:
        return policy_of(case.send(account)) == case.policy

    for case in {case.policy: case for case in FORBIDDEN}.values():
        installed.wait(case.policy, partial(is_rejected, case))
    return account


@pytest.fixture(scope="module")
def tenant(operator: Account, installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Account:
    """An account with the role ``edit`` in the namespace."""
    installed.kubectl("-n", TENANTS, "create", "serviceaccount", "tenant")
    grant = ("create", "rolebinding", "tenant", "--clusterrole=edit", f"--serviceaccount={TENANTS}:tenant")
    installed.kubectl("-n", TENANTS, *grant)
    account = Account(installed, TENANTS, "tenant", tmp_path_factory.mktemp("tenant"))
    installed.wait("policy of labels", lambda: policy_of(account.create(labelled("Pod"))) == policies.LABELS)
    return account


@pytest.mark.parametrize("case", FORBIDDEN, ids=lambda case: case.name.replace(" ", "-"))
def test_a_stolen_token_of_the_operator_writes_only_what_the_operator_builds(operator: Account, case: Case) -> None:
    assert policy_of(case.send(operator)) == case.policy


@pytest.mark.parametrize("name", PERMITTED)
def test_the_operator_may_write_what_it_builds(operator: Account, name: str) -> None:
    assert PERMITTED[name](operator) == ""


# --------------------------------------------------------------------------------------------------------- tenants

OURS = {MODEL_LABEL: "fraud", "mlmodel.dev/component": "router"}
MANAGED = {MANAGED_BY_LABEL: OPERATOR}


def labelled(kind: str, labels: Body = OURS, *, in_template: bool = False) -> Body:
    """Return an object of a tenant with these labels, in its pod template if it has one."""
    pod = copy.deepcopy(server()["spec"]["template"]["spec"])
    body: Body = {
        "kind": kind,
        "metadata": {"name": "mine", "namespace": TENANTS, "labels": {} if in_template else labels},
    }
    template = {"metadata": {"labels": {"app": "mine"} | (labels if in_template else {})}, "spec": pod}
    workload = {"selector": {"matchLabels": {"app": "mine"}}, "template": template}
    specs: dict[str, Body] = {
        "Pod": {"apiVersion": "v1", "spec": pod},
        "ReplicaSet": {"apiVersion": "apps/v1", "spec": workload},
        "Deployment": {"apiVersion": "apps/v1", "spec": workload},
        "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 80}]}},
        "ConfigMap": {"apiVersion": "v1", "data": {"routes": "x"}},
        "ControllerRevision": {"apiVersion": "apps/v1", "revision": 1, "data": {"mlmodelRecord": "{}"}},
        "HorizontalPodAutoscaler": {
            "apiVersion": "autoscaling/v2",
            "spec": resources.autoscaler(OWNER, REVISION, Autoscaling(max_replicas=3), 1)["spec"],
        },
        "PodDisruptionBudget": {"apiVersion": "policy/v1", "spec": {"maxUnavailable": 1}},
        "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {}}},
    }
    return body | specs[kind]


def stored(cluster: Cluster, body: Body) -> Body:
    """Create an object, as somebody has changed it, and return it as the API server has it."""
    found: Body = json.loads(cluster.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(body)))
    return found


def test_what_others_changed_and_added_may_be_corrected_in_one_request(operator: Account, installed: Cluster) -> None:
    uid = installed.kubectl("-n", TENANTS, "get", "mlmodel/fraud", "-o", "jsonpath={.metadata.uid}")
    owner = replace(OWNER, uid=uid)  # the garbage collector deletes what an unknown object owns
    ours, service = router(owner), resources.router_service(owner)
    changed, exposed = copy.deepcopy(ours), copy.deepcopy(service)
    containers = changed["spec"]["template"]["spec"]["containers"]
    containers[0]["image"] = "evil:1"
    containers.append({"name": "extra", "image": "evil:1"})
    exposed["spec"]["publishNotReadyAddresses"] = True
    for target, intent, live in (
        ("deployment/fraud-router", ours, stored(installed, changed)),
        ("service/fraud", service, stored(installed, exposed)),
    ):
        try:
            # The half of it, in which the fields of others remain, is rejected.
            assert policy_of(operator.apply(intent)) in (policies.DEPLOYMENTS, policies.RUN_IMAGES, policies.REFERENCES)
            change = correction(intent, foreign_fields(live, intent))
            assert operator.patch(TENANTS, target, change) == ""
        finally:
            installed.kubectl("-n", TENANTS, "delete", target)


def test_an_orphan_of_the_release_before_may_be_compared_and_adopted(operator: Account, installed: Cluster) -> None:
    former = router()
    former["metadata"].pop("ownerReferences")
    container = former["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["sh", "/etc/mlmodel/haproxy/router.sh"]
    live = stored(installed, former)
    try:
        change = correction(former, foreign_fields(live, former))
        change["metadata"] = {"uid": live["metadata"]["uid"], "ownerReferences": owner_references(OWNER)}
        assert operator.patch(TENANTS, "deployment/fraud-router", change) == ""
    finally:
        installed.kubectl("-n", TENANTS, "delete", "deployment/fraud-router")


KINDS = ("Pod", "ReplicaSet", "Deployment", "Service", "ConfigMap", "HorizontalPodAutoscaler", "PodDisruptionBudget")


@pytest.mark.parametrize("labels", [OURS, MANAGED], ids=["mlmodel.dev", "managed-by"])
@pytest.mark.parametrize("kind", [*KINDS, "NetworkPolicy"])
def test_a_tenant_cannot_set_our_labels(tenant: Account, kind: str, labels: Body) -> None:
    rejection = tenant.create(labelled(kind, labels))
    assert policy_of(rejection) == policies.LABELS
    assert "remove them from this object and from its pod template" in rejection


@pytest.mark.parametrize("kind", ["ReplicaSet", "Deployment"])
def test_a_tenant_cannot_set_our_labels_in_a_pod_template(tenant: Account, kind: str) -> None:
    assert policy_of(tenant.create(labelled(kind, in_template=True))) == policies.LABELS


def test_a_tenant_cannot_change_our_labels_of_an_object(tenant: Account) -> None:
    for target in ("pod/theirs", "deployment/fraud-theirs", "configmap/fraud-theirs"):
        change = {"metadata": {"labels": MANAGED}}
        assert policy_of(tenant.patch(TENANTS, target, change)) == policies.LABELS
    moved = {"metadata": {"labels": {MODEL_LABEL: "other"}}}
    assert policy_of(tenant.patch(TENANTS, "pod/fraud-ours", moved)) == policies.LABELS


def test_a_tenant_does_everything_else(tenant: Account) -> None:
    for kind in KINDS:
        assert tenant.create(labelled(kind, {"app": "mine", MANAGED_BY_LABEL: "Helm"})) == ""
    older = "deployment/fraud-older"
    for change in (
        {"metadata": {"labels": {"velero.io/backup-name": "nightly"}}},
        {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}},
        {"metadata": {"labels": {MODEL_LABEL: None}}},  # hides the object, which the operator reverts
    ):
        assert tenant.patch(TENANTS, older, change) == ""
    tenant.kubectl("-n", TENANTS, "scale", older, "--replicas=2", "--dry-run=server")
    assert tenant.delete(TENANTS, older) == ""


def test_cluster_administrators_and_restorers_set_our_labels(
    tenant: Account, installed: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for kind in (*KINDS, "ControllerRevision"):
        body = json.dumps(labelled(kind))
        installed.kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", input=body)
    for name, role in (("administrator", "cluster-admin"), ("restorer", "mlmodel-restorer")):
        installed.kubectl("-n", TENANTS, "create", "serviceaccount", name)
        roles = ("edit", role) if role != "cluster-admin" else (role,)
        for one in roles:
            grant = ("create", "rolebinding", f"{name}-{one}", f"--clusterrole={one}")
            installed.kubectl("-n", TENANTS, *grant, f"--serviceaccount={TENANTS}:{name}")
        account = Account(installed, TENANTS, name, tmp_path_factory.mktemp(name))
        assert account.create(labelled("Pod")) == ""
    # The role is needed: that of the tenant is the same without it.
    assert policy_of(tenant.create(labelled("Pod"))) == policies.LABELS


@pytest.mark.parametrize(
    ("user", "kind", "is_permitted"),
    [
        ("system:serviceaccount:kube-system:replicaset-controller", "Pod", True),
        ("system:serviceaccount:kube-system:deployment-controller", "ReplicaSet", True),
        ("system:kube-controller-manager", "Pod", True),
        ("system:serviceaccount:kube-system:statefulset-controller", "Pod", False),
        ("system:serviceaccount:kube-system:job-controller", "Pod", False),
        ("system:serviceaccount:kube-system:deployment-controller", "Pod", False),
    ],
)
def test_only_the_controllers_of_a_deployment_copy_its_labels(
    tenant: Account, installed: Cluster, user: str, kind: str, is_permitted: bool
) -> None:
    installed.kubectl("create", "clusterrolebinding", "copy", "--clusterrole=edit", f"--user={user}")
    try:
        body = json.dumps(labelled(kind))
        arguments = ("create", "--dry-run=server", "--validate=false", "-f", "-", "--as", user)
        try:
            installed.kubectl(*arguments, input=body)
            rejection = ""
        except ClusterError as error:
            rejection = str(error)
        assert policy_of(rejection) == (policies.LABELS if not is_permitted else "not rejected")
    finally:
        installed.kubectl("delete", "clusterrolebinding", "copy")


# ---------------------------------------------------------------------------------------------- metadata of MLModels


def mlmodel(**meta: Any) -> Body:
    return {
        "apiVersion": "mlmodel.dev/v1alpha1",
        "kind": "MLModel",
        "metadata": {"namespace": TENANTS, "name": "fat", **meta},
        "spec": {"model": {"uri": "builtin://iris"}},
    }


MANAGERS = [
    {
        "manager": f"m{n}",
        "operation": "Apply",
        "apiVersion": "mlmodel.dev/v1alpha1",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:model": {"f:uri": {}}}},
    }
    for n in range(33)
]
OWNERS = [{"apiVersion": "v1", "kind": "ConfigMap", "name": f"c{n}", "uid": f"u{n}"} for n in range(17)]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"annotations": {"a": "x" * 33_000}}, "kubectl annotate mlm NAME KEY-"),
        ({"annotations": {"a": "ü" * 17_000}}, "more than 32 KiB"),
        ({"annotations": {f"a{n}": "x" * 1000 for n in range(33)}}, "more than 32 KiB"),
        ({"annotations": {"mlmodel.dev/approve": "x" * 257}}, "more than 256 bytes"),
        ({"labels": {f"l{n}": "x" for n in range(65)}}, "kubectl label mlm NAME KEY-"),
        ({"ownerReferences": OWNERS}, "metadata.ownerReferences"),
        ({"finalizers": [f"example.com/f{n}" for n in range(17)]}, "metadata.finalizers"),
    ],
    ids=["annotation", "bytes-not-characters", "annotations", "ours", "labels", "owners", "finalizers"],
)
def test_the_metadata_of_a_model_is_bounded(tenant: Account, meta: Body, message: str) -> None:
    rejection = tenant.create(mlmodel(**meta))
    assert policy_of(rejection) == policies.METADATA
    assert message in rejection


def test_the_number_of_field_managers_is_bounded(tenant: Account) -> None:
    """The names of all fields count once for each manager."""
    change = {"metadata": {"managedFields": MANAGERS}}
    rejection = tenant.patch(TENANTS, "mlmodel/fraud", change)
    assert policy_of(rejection) == policies.METADATA
    assert "use one name for --field-manager" in rejection
    assert tenant.patch(TENANTS, "mlmodel/fraud", {"metadata": {"managedFields": MANAGERS[:9]}}) == ""


def test_a_model_that_was_too_large_before_can_become_smaller(tenant: Account, installed: Cluster) -> None:
    binding = ("validatingadmissionpolicybinding", policies.METADATA)
    saved = installed.kubectl("get", *binding, "-o", "json")
    installed.kubectl("delete", *binding)
    fat = mlmodel(annotations={"a": "x" * 40_000, "b": "y"}, finalizers=[f"example.com/f{n}" for n in range(17)])
    installed.wait("no policy", lambda: tenant.create(fat) == "")
    tenant.kubectl("create", "-f", "-", input=json.dumps(fat))
    body = json.loads(saved)
    body["metadata"] = {"name": body["metadata"]["name"]}
    installed.kubectl("create", "-f", "-", input=json.dumps(body))
    grown = {"metadata": {"annotations": {"b": "yy"}}}
    installed.wait("policy", lambda: policy_of(tenant.patch(TENANTS, "mlmodel/fat", grown)) == policies.METADATA)
    assert tenant.patch(TENANTS, "mlmodel/fat", {"metadata": {"annotations": {"b": None}}}) == ""
    assert tenant.patch(TENANTS, "mlmodel/fat", {"metadata": {"finalizers": []}}) == ""
    assert tenant.patch(TENANTS, "mlmodel/fat", {"spec": {"model": {"version": "v2"}}}) == ""
    tenant.kubectl("-n", TENANTS, "patch", "mlm/fat", "--type=merge", "-p", '{"metadata":{"finalizers":[]}}')
    tenant.kubectl("-n", TENANTS, "delete", "mlm", "fat")


# ------------------------------------------------------------------------------------------------------ the policies


def test_the_operator_may_not_change_policies_or_specs(operator: Account, installed: Cluster) -> None:
    user = f"--as={policies.account(NAMESPACE)}"
    for verb, kind in (
        *((verb, kind) for verb in ("get", "create", "update", "patch", "delete") for kind in GUARDED),
        *((verb, "mlmodels.mlmodel.dev") for verb in ("create", "update", "patch", "delete")),
        ("restore", "mlmodels.mlmodel.dev/children"),
        ("get", "secrets"),
    ):
        with pytest.raises(ClusterError, match="no"):
            installed.kubectl("auth", "can-i", verb, kind, "-n", TENANTS, user)


GUARDED = (
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
)


def test_without_the_list_of_images_only_our_deployments_wait(operator: Account, installed: Cluster) -> None:
    name = ("-n", NAMESPACE, "configmap", policies.IMAGES)
    saved = json.loads(installed.kubectl("get", *name, "-o", "json"))
    installed.kubectl("delete", *name)
    try:
        installed.wait("rejected", lambda: policies.RUN_IMAGES in operator.apply(server()))
        body = labelled("Deployment", {"app": "mine"})
        installed.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(body))
    finally:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "data": saved["data"] | {"more": "registry.example/older\n"}}
        body["metadata"] = {"name": policies.IMAGES, "namespace": NAMESPACE}
        installed.kubectl("create", "-f", "-", input=json.dumps(body))
    installed.wait("permitted", lambda: operator.apply(server()) == "")
    assert operator.apply(server(image="registry.example/older:0.0.9")) == ""


def test_the_api_server_finds_no_error_in_the_types_of_the_expressions(operator: Account, installed: Cluster) -> None:
    names = [
        body["metadata"]["name"] for body in policies.policies(NAMESPACE, "a", "b") if body["kind"].endswith("Policy")
    ]

    def checked() -> bool:
        found = installed.get("validatingadmissionpolicies")["items"]
        ours = [body for body in found if body["metadata"]["name"] in names]
        return all("typeChecking" in (body.get("status") or {}) for body in ours)

    installed.wait("types are checked", checked)
    found = installed.get("validatingadmissionpolicies")["items"]
    warnings = {body["metadata"]["name"]: body["status"]["typeChecking"].get("expressionWarnings") for body in found}
    assert {name: warning for name, warning in warnings.items() if warning} == {}


def test_kustomize_changes_the_images_that_the_policies_permit(installed: Cluster, tmp_path: Path) -> None:
    for name in ("install.yaml", "images.yaml", "kustomization.yaml"):
        (tmp_path / "manifests").mkdir(exist_ok=True)
        (tmp_path / "manifests" / name).write_text((INSTALL.parent / name).read_text())
    images = [{"name": name, "newName": f"registry.example/{name.split('/')[-1]}"} for name in NAMES]
    overlay = {"resources": ["manifests"], "configurations": ["manifests/images.yaml"], "images": images}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(overlay))
    bodies = list(yaml.safe_load_all(installed.kubectl("kustomize", str(tmp_path))))
    (permitted,) = [body["data"] for body in bodies if body["kind"] == "ConfigMap"]
    (deployment,) = [body for body in bodies if body["kind"] == "Deployment"]
    env = {item["name"]: item.get("value") for item in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert (permitted["server"], permitted["router"]) == (env["SERVER_IMAGE"], env["ROUTER_IMAGE"])
    assert permitted["server"].startswith("registry.example/mlmodel-server:")
    assert permitted["router"].startswith("registry.example/haproxy:")


NAMES = ("mlmodel-operator", "mlmodel-server", "docker.io/library/haproxy")
