"""Pure builders: from the owner and a revision to the bodies of the children, for server-side apply.

A body has only the fields that the operator sets. It leaves out defaults of Kubernetes unless their value matters, so
that equal inputs always give equal bodies, and an upgrade of the operator does not change a pod template
unintentionally.
"""

from mlmodel_operator.resources.network import network_policies
from mlmodel_operator.resources.router import (
    CONFIG_FILES,
    ROUTES_FILES,
    checked_keys,
    router_config_hash,
    router_deployment,
    router_disruption_budget,
    router_files,
    router_routes,
    router_service,
)
from mlmodel_operator.resources.server import autoscaler, deployment, disruption_budget, service

__all__ = [
    "CONFIG_FILES",
    "ROUTES_FILES",
    "autoscaler",
    "checked_keys",
    "deployment",
    "disruption_budget",
    "network_policies",
    "router_config_hash",
    "router_deployment",
    "router_disruption_budget",
    "router_files",
    "router_routes",
    "router_service",
    "service",
]
