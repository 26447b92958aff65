"""The admission policies: that none of the operator's rights is without one, and what they reject without one."""

from __future__ import annotations

import pytest

from mlmodel_operator import manifests, policies
from mlmodel_operator.names import NAMESPACE
from tests.unit.operator.resources.cast import Body

WRITES = {"create": {"CREATE"}, "patch": {"CREATE", "UPDATE"}, "update": {"UPDATE"}, "delete": {"DELETE"}}
"""Operations of an admission request by verb of a role; a server-side apply is a `patch` that may create."""


def of_kind(kind: str) -> list[Body]:
    return [body for body in policies.policies(NAMESPACE, "server:1", "router:1") if body["kind"] == kind]


def about_the_operator() -> list[Body]:
    """Return the policies for all requests of the operator's account."""
    by_operator = f'request.userInfo.username == "system:serviceaccount:{NAMESPACE}:mlmodel-operator"'
    return [
        body
        for body in of_kind("ValidatingAdmissionPolicy")
        if [item["expression"] for item in body["spec"].get("matchConditions", [])] == [by_operator]
    ]


def test_a_policy_covers_every_object_that_the_operator_may_write() -> None:
    covered = {
        (rule["apiGroups"][0], plural, operation)
        for policy in about_the_operator()
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for plural in rule["resources"]
        for operation in rule["operations"]
    }
    options = manifests.Options(network_policies=True)
    roles = [body for body in manifests.install(options) if body["kind"] in ("Role", "ClusterRole")]
    granted = {
        (rule["apiGroups"][0], plural, operation)
        for role in roles
        if role["metadata"]["name"] == "mlmodel-operator"
        for rule in role["rules"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
        for operation in WRITES.get(verb, ())
    }
    # Of MLModels it may write the status, which has no other content, and what a check of the API server requires.
    models = {(group, plural, operation) for group, plural, operation in granted if group == "mlmodel.dev"}
    assert models == {("mlmodel.dev", f"mlmodels/{part}", "UPDATE") for part in ("status", "finalizers")}
    assert granted - models <= covered


def test_a_policy_that_cannot_be_evaluated_rejects() -> None:
    for policy in of_kind("ValidatingAdmissionPolicy"):
        assert policy["spec"]["failurePolicy"] == "Fail"
        for validation in policy["spec"]["validations"]:
            assert validation.get("message") or validation.get("messageExpression")


def test_each_policy_is_in_force() -> None:
    bound = {body["spec"]["policyName"]: body["spec"] for body in of_kind("ValidatingAdmissionPolicyBinding")}
    assert bound.keys() == {body["metadata"]["name"] for body in of_kind("ValidatingAdmissionPolicy")}
    for spec in bound.values():
        assert spec["validationActions"] == ["Deny"]
        # A binding for some namespaces would leave out the others.
        assert "matchResources" not in spec


def test_a_policy_that_requires_an_object_selects_only_our_objects() -> None:
    """Without its ConfigMap a policy rejects all that it selects."""
    (policy,) = [body for body in of_kind("ValidatingAdmissionPolicy") if "paramKind" in body["spec"]]
    selected = policy["spec"]["matchConstraints"]["objectSelector"]
    assert selected == {"matchLabels": {"app.kubernetes.io/managed-by": "mlmodel-operator"}}


@pytest.mark.parametrize("namespace", ["mlmodel-system", "elsewhere"])
def test_the_policies_name_the_account_of_the_installation(namespace: str) -> None:
    text = manifests.text(manifests.Options(namespace))
    assert f"system:serviceaccount:{namespace}:mlmodel-operator" in text
    assert namespace == NAMESPACE or NAMESPACE not in text
