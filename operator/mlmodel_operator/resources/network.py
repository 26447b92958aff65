"""NetworkPolicies of a model: who may open connections to its pods.

They are optional (``NETWORK_POLICIES``), and a cluster enforces them only if its network does. Probes come from the
node of the pod, which every network lets through. Outgoing connections are not limited: a store of models may be
anywhere.
"""

from __future__ import annotations

from mlmodel_operator.api.types import Owner
from mlmodel_operator.names import (
    GRPC_PORT,
    METRICS_LABEL,
    NAME_LABEL,
    NAMESPACE,
    NAMESPACE_NAME_LABEL,
    OPERATOR,
    REHEARSAL_PORT,
    ROUTER,
    ROUTER_PORT,
    ROUTER_STATUS_PORTS,
    SERVER,
    SERVER_PORT,
    Component,
    router_name,
    selector,
    server_policy_name,
)
from mlmodel_operator.resources import common
from mlmodel_operator.resources.common import Body

CLIENT_PORTS = (ROUTER_PORT, GRPC_PORT)
"""Ports of a router that users reach, from anywhere."""


def network_policies(owner: Owner, operator_namespace: str = NAMESPACE) -> list[Body]:
    """Return the NetworkPolicies of a model, of its routers and of its server pods; the operator runs in
    ``operator_namespace``."""
    operator = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME_LABEL: operator_namespace}},
        "podSelector": {"matchLabels": {NAME_LABEL: OPERATOR}},
    }
    # An administrator labels the namespace of Prometheus.
    metrics = {"namespaceSelector": {"matchLabels": {METRICS_LABEL: "true"}}}
    routers, servers = (
        {"podSelector": {"matchLabels": selector(owner.name, component)}} for component in (ROUTER, SERVER)
    )
    router = [_allow(CLIENT_PORTS), _allow(ROUTER_STATUS_PORTS, operator, metrics)]
    server = [
        # The other server pods of the model send copies of requests in a rehearsal.
        _allow((SERVER_PORT, GRPC_PORT), routers, servers),
        _allow((SERVER_PORT, REHEARSAL_PORT), operator),
        _allow((SERVER_PORT,), metrics),
    ]
    return [
        _policy(owner, router_name(owner.name), ROUTER, router),
        _policy(owner, server_policy_name(owner.name), SERVER, server),
    ]


def _allow(ports: tuple[int, ...], *sources: Body) -> Body:
    """Return a rule for these ports; without ``sources`` from anywhere."""
    found = {"ports": [{"protocol": "TCP", "port": port} for port in ports]}
    return {"from": list(sources), **found} if sources else found


def _policy(owner: Owner, name: str, component: Component, rules: list[Body]) -> Body:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": common.metadata(owner, name, component),
        "spec": {
            "podSelector": {"matchLabels": selector(owner.name, component)},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }
