"""The objects that `kubectl apply -f manifests/install.yaml` creates."""

from __future__ import annotations

import re

import yaml

from hack import ROOT
from mlmodel_operator import manifests
from mlmodel_operator.api.crd import crd
from tests.unit.operator.resources.cast import Body, container, pod, restricted

COMMITTED = ROOT / "manifests" / "install.yaml"


def of_kind(kind: str) -> list[Body]:
    return [body for body in manifests.install() if body["kind"] == kind]


def rules() -> list[Body]:
    """Return the rules of the operator, cluster-wide and in its namespace."""
    roles = [body for kind in ("ClusterRole", "Role") for body in of_kind(kind)]
    return [rule for role in roles if role["metadata"]["name"] == "mlmodel-operator" for rule in role["rules"]]


def test_the_committed_file_is_what_the_code_says() -> None:
    assert COMMITTED.read_text() == manifests.text(), (
        "manifests/install.yaml is out of date. Type: python -m mlmodel_operator.manifests > manifests/install.yaml"
    )


def test_the_text_has_all_objects_and_no_aliases() -> None:
    assert list(yaml.safe_load_all(manifests.text())) == manifests.install()
    assert not re.search(r"[&*]id[0-9]", manifests.text())


def test_objects_come_after_those_that_they_require() -> None:
    kinds = [body["kind"] for body in manifests.install()]
    assert kinds[:2] == ["Namespace", "CustomResourceDefinition"]
    assert kinds[-1] == "Deployment"
    assert manifests.install()[1] == crd()


def test_all_objects_are_in_a_namespace_that_enforces_restricted_pods() -> None:
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for kind in ("ServiceAccount", "Role", "RoleBinding", "Deployment"):
        assert {body["metadata"]["namespace"] for body in of_kind(kind)} == {namespace["metadata"]["name"]}
    (deployment,) = of_kind("Deployment")
    assert restricted(pod(deployment)) == []


def test_the_operator_has_no_right_to_gain_rights() -> None:
    for rule in rules():
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"])
        for resource in rule["resources"]:
            assert resource not in (
                "secrets",
                "pods/exec",
                "pods/ephemeralcontainers",
                "serviceaccounts/token",
                "nodes",
            )
        assert rule["apiGroups"] != ["rbac.authorization.k8s.io"]
    verbs = {(rule["apiGroups"][0], resource): rule["verbs"] for rule in rules() for resource in rule["resources"]}
    assert verbs[("mlmodel.dev", "mlmodels")] == ["get", "list", "watch"]  # never the spec
    assert verbs[("", "configmaps")] == ["get", "list", "watch", "create", "patch", "delete"]
    (definitions,) = [rule for rule in rules() if rule["apiGroups"] == ["apiextensions.k8s.io"]]
    assert (definitions["verbs"], definitions["resourceNames"]) == (["get"], ["mlmodels.mlmodel.dev"])


def test_the_operator_gets_its_identity_and_the_images() -> None:
    (deployment,) = of_kind("Deployment")
    env = {item["name"]: item for item in container(deployment)["env"]}
    assert set(env) == {"SERVER_IMAGE", "ROUTER_IMAGE", "POD_NAMESPACE", "POD_NAME"}
    assert env["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    tag = container(deployment)["image"].rsplit(":")[-1]
    assert env["SERVER_IMAGE"]["value"] == f"mlmodel-server:{tag}"


def test_bindings_name_existing_roles_and_subjects() -> None:
    (account,) = of_kind("ServiceAccount")
    for kind, role_kind in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
        (binding,) = of_kind(kind)
        assert binding["roleRef"]["name"] in [role["metadata"]["name"] for role in of_kind(role_kind)]
        (subject,) = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == (
            account["metadata"]["name"],
            account["metadata"]["namespace"],
        )
    (deployment,) = of_kind("Deployment")
    assert pod(deployment)["serviceAccountName"] == account["metadata"]["name"]
