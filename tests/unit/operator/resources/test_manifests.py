"""The objects that `kubectl apply -f manifests/install.yaml` creates."""

from __future__ import annotations

import re

import pytest
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


@pytest.mark.attack(held=True)
def test_all_objects_are_in_a_namespace_that_enforces_restricted_pods() -> None:
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for kind in ("ServiceAccount", "Role", "RoleBinding", "Deployment"):
        assert {body["metadata"]["namespace"] for body in of_kind(kind)} == {namespace["metadata"]["name"]}
    (deployment,) = of_kind("Deployment")
    assert restricted(pod(deployment)) == []


@pytest.mark.attack(held=True)
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
    assert not any("admissionregistration" in group for group, _ in verbs)
    (definitions,) = [rule for rule in rules() if rule["apiGroups"] == ["apiextensions.k8s.io"]]
    assert (definitions["verbs"], definitions["resourceNames"]) == (["get"], ["mlmodels.mlmodel.dev"])


def test_an_operator_for_some_namespaces_has_rights_only_there() -> None:
    options = manifests.Options(namespaces=("shop", "bank"))
    bodies = manifests.install(options)
    assert [body["metadata"]["name"] for body in bodies if body["kind"] == "ClusterRoleBinding"] == []
    ours = [body for body in bodies if body["metadata"]["name"] == "mlmodel-operator"]
    assert "ClusterRole" not in [body["kind"] for body in ours]
    for kind in ("Role", "RoleBinding"):
        places = [body["metadata"]["namespace"] for body in ours if body["kind"] == kind]
        assert places == ["shop", "bank", "mlmodel-system"]
    (deployment,) = [body for body in bodies if body["kind"] == "Deployment"]
    env = {item["name"]: item.get("value") for item in container(deployment)["env"]}
    assert env["WATCH_NAMESPACES"] == "shop,bank"
    (role,) = [body for body in ours if body["kind"] == "Role" and body["metadata"]["namespace"] == "shop"]
    (cluster_role,) = [body for body in of_kind("ClusterRole") if body["metadata"]["name"] == "mlmodel-operator"]
    assert role["rules"] == cluster_role["rules"][:-1]


def test_network_policies_need_one_more_right() -> None:
    bodies = manifests.install(manifests.Options(network_policies=True))
    (deployment,) = [body for body in bodies if body["kind"] == "Deployment"]
    assert {"name": "NETWORK_POLICIES", "value": "true"} in container(deployment)["env"]
    (role,) = [
        body for body in bodies if (body["kind"], body["metadata"]["name"]) == ("ClusterRole", "mlmodel-operator")
    ]
    assert "networkpolicies" in [plural for rule in role["rules"] for plural in rule["resources"]]
    assert "networkpolicies" not in [plural for rule in rules() for plural in rule["resources"]]


def test_the_command_line_is_read() -> None:
    argv = ["--namespace", "mine", "--namespaces", " shop,bank,shop", "--network-policies"]
    assert manifests.options_of(argv) == manifests.Options("mine", ("shop", "bank"), network_policies=True)
    assert manifests.options_of([]) == manifests.DEFAULT


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--namespaces", "a_b"], "--namespaces has 'a_b': set it to names of namespaces"),
        (["--namespaces", ","], "--namespaces has ','"),
        (["--namespaces", "kube-system"], "kube-system, where the operator creates no objects"),
        (["--namespaces", "mlmodel-system"], "mlmodel-system, where the operator creates no objects"),
        (["--namespace", ""], "--namespace is empty: type the name"),
        (["--namespace", "a,b"], "--namespace names 2 namespaces: type one"),
    ],
)
def test_a_wrong_command_line_exits_with_a_message(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        manifests.options_of(argv)
    assert message in capsys.readouterr().err


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
