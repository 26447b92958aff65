"""Pure builders: from the owner and a revision to the bodies of the children, as meant for server-side apply.

A body states only what we mean. What Kubernetes defaults is left out unless the value matters to us, so that equal
inputs give equal bodies for ever and an upgrade of the operator changes no pod template by accident.
"""

from mlmodel_operator.resources.router import (
    router_config,
    router_config_hash,
    router_deployment,
    router_disruption_budget,
    router_routes,
    router_service,
)
from mlmodel_operator.resources.server import autoscaler, deployment, disruption_budget, service

__all__ = [
    "autoscaler",
    "deployment",
    "disruption_budget",
    "router_config",
    "router_config_hash",
    "router_deployment",
    "router_disruption_budget",
    "router_routes",
    "router_service",
    "service",
]
