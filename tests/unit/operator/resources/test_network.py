"""NetworkPolicies: who reaches which port of a pod."""

from __future__ import annotations

import pytest

from mlmodel_operator import resources
from mlmodel_operator.api.types import Owner
from tests.unit.operator.resources.cast import OWNER, Body

OPERATOR = ("mlmodel-system", {"app.kubernetes.io/name": "mlmodel-operator"})
PROMETHEUS = ("monitoring", {"app": "prometheus"})
ROUTER = ("bank", {"mlmodel.dev/model": "fraud", "mlmodel.dev/component": "router"})
SERVER = ("bank", {"mlmodel.dev/model": "fraud", "mlmodel.dev/component": "server"})
OTHER_SERVER = ("bank", {"mlmodel.dev/model": "spam", "mlmodel.dev/component": "server"})
ELSEWHERE = ("shop", dict(SERVER[1]))
CLIENT = ("shop", {"app": "client"})
NAMESPACES = {"monitoring": {"mlmodel.dev/metrics": "true"}}


def reaches(policy: Body, source: tuple[str, dict[str, str]], port: int) -> bool:
    """Whether a NetworkPolicy lets a pod, by namespace and labels, connect to a port."""
    namespace, labels = source
    of_namespace = {"kubernetes.io/metadata.name": namespace} | NAMESPACES.get(namespace, {})

    def selects(peer: Body) -> bool:
        if "namespaceSelector" in peer:
            if not peer["namespaceSelector"]["matchLabels"].items() <= of_namespace.items():
                return False
        elif namespace != policy["metadata"]["namespace"]:
            return False
        return bool(peer.get("podSelector", {"matchLabels": {}})["matchLabels"].items() <= labels.items())

    return any(
        port in [item["port"] for item in rule["ports"]]
        and ("from" not in rule or any(selects(peer) for peer in rule["from"]))
        for rule in policy["spec"]["ingress"]
    )


@pytest.mark.parametrize(
    ("source", "ports"),
    [
        (ROUTER, {8080, 9000}),
        (SERVER, {8080, 9000}),
        (OPERATOR, {8080, 8090}),
        (PROMETHEUS, {8080}),
        (OTHER_SERVER, set()),
        (ELSEWHERE, set()),
        (CLIENT, set()),
    ],
)
def test_who_reaches_a_server_pod(source: tuple[str, dict[str, str]], ports: set[int]) -> None:
    _, policy = resources.network_policies(OWNER)
    assert policy["spec"]["podSelector"]["matchLabels"] == SERVER[1]
    assert {port for port in (8080, 8090, 9000, 9090, 9091) if reaches(policy, source, port)} == ports


@pytest.mark.parametrize(
    ("source", "ports"),
    [(CLIENT, {8080, 9000}), (OPERATOR, {8080, 9000, 9090, 9091}), (PROMETHEUS, {8080, 9000, 9090, 9091})],
)
def test_who_reaches_a_router_pod(source: tuple[str, dict[str, str]], ports: set[int]) -> None:
    policy, _ = resources.network_policies(OWNER)
    assert policy["spec"]["podSelector"]["matchLabels"] == ROUTER[1]
    assert {port for port in (8080, 8090, 9000, 9090, 9091) if reaches(policy, source, port)} == ports


def test_the_operator_may_run_elsewhere() -> None:
    for policy in resources.network_policies(Owner("fraud", "bank", "7f3e"), "elsewhere"):
        port = 9090 if policy["metadata"]["name"] == "fraud-router" else 8090
        assert reaches(policy, ("elsewhere", OPERATOR[1]), port)
        assert not reaches(policy, OPERATOR, port)


def test_each_policy_belongs_to_its_model() -> None:
    for policy in resources.network_policies(OWNER):
        assert policy["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
        assert policy["spec"]["policyTypes"] == ["Ingress"]
