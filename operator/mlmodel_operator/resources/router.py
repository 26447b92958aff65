"""The children that route a model's requests: one HAProxy Deployment, its Service, configuration and routes.

The configuration of HAProxy and the Lua program that follows the routes are files beside this module (``haproxy/``),
mounted into a stock image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from mlmodel_operator.api.types import Owner, RouterResources, Traffic
from mlmodel_operator.names import (
    CONFIG_ANNOTATION,
    GRPC_PORT,
    REHEARSAL,
    ROUTER,
    ROUTER_PORT,
    ROUTER_STATUS_PORTS,
    SERVICE_PORT,
    router_config_name,
    router_name,
    routes_name,
    selector,
)
from mlmodel_operator.resources import common
from mlmodel_operator.resources.common import Body
from mlmodel_operator.rollout.routes import Routes

CONFIG_PATH = "/etc/mlmodel/haproxy"
CONFIG_FILES = ("haproxy.cfg", "routes.lua", "router.sh", "state.map")
ROUTES_FILES = ("routes", "sides", REHEARSAL)
ROUTES_PATH = "/etc/mlmodel/routes"

# As for the servers: the nodes remove the pod from the Service, then it stops. The rest of the grace period is for the
# requests in flight: HAProxy ends them after the time limit of the model (`hard-stop-after`).
PRE_STOP_SECONDS = 5
STOP_SECONDS = 10

# Two processes take 32 MiB under ordinary traffic; the limit is enough for 2,000 requests in flight.
DEFAULT_REQUESTS: Mapping[str, str] = {"cpu": "50m", "memory": "32Mi"}
DEFAULT_MEMORY_LIMIT = "512Mi"


def router_deployment(owner: Owner, traffic: Traffic, image: str, config_hash: str) -> Body:
    """Return the Deployment of the router. A changed configuration replaces its pods (its hash is in the template), as
    do changed resources; changed routes do not.

    The image must have SIGUSR1 as its stop signal, as the official HAProxy image does, so that HAProxy stops
    gracefully.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": common.metadata(owner, router_name(owner.name), ROUTER),
        "spec": {
            "replicas": traffic.router.replicas,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": selector(owner.name, ROUTER)},
            "strategy": common.rolling(),
            "template": {
                "metadata": {
                    "labels": common.labels(owner, ROUTER),
                    "annotations": {CONFIG_ANNOTATION: config_hash},
                },
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": PRE_STOP_SECONDS + traffic.timeout_seconds + STOP_SECONDS,
                    "securityContext": common.pod_security(),
                    "topologySpreadConstraints": common.spread(owner, ROUTER),
                    "containers": [_container(traffic, image)],
                    "volumes": [
                        {"name": "config", "configMap": {"name": router_config_name(owner.name)}},
                        {"name": "routes", "configMap": {"name": routes_name(owner.name)}},
                    ],
                },
            },
        },
    }


def router_service(owner: Owner) -> Body:
    """Return the Service that is the address of the model during its whole life: ``http://NAME.NAMESPACE.svc``, and for
    gRPC ``NAME.NAMESPACE.svc:9000``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": common.metadata(owner, owner.name, ROUTER),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(owner.name, ROUTER),
            "ports": [
                {"name": "http", "port": SERVICE_PORT, "targetPort": "http"},
                {
                    "name": "grpc",
                    "port": GRPC_PORT,
                    "targetPort": "grpc",
                    "appProtocol": common.GRPC_PROTOCOL,
                },
            ],
        },
    }


def router_config(owner: Owner) -> Body:
    """Return the ConfigMap with the configuration of HAProxy, which is the same for every model."""
    return _config_map(owner, router_config_name(owner.name), _config_files())


def router_config_hash() -> str:
    """Return the hash of the configuration, for the pod template; a change of comments alone restarts no router."""
    digest = hashlib.sha256()
    for name, text in sorted(_config_files().items()):
        digest.update(f"{name}\0{_directives(text)}\0".encode())
    return digest.hexdigest()[:16]


def _directives(text: str) -> str:
    """Return the lines that are neither empty nor a comment of HAProxy or Lua."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("#", "--")))


def router_routes(owner: Owner, routes: Routes, rehearsal: str = "") -> Body:
    """Return the ConfigMap with the files that the router follows, the routes and, if a header assigns requests, the
    sides; and with the file that names the candidate of a ``rehearsal`` to the servers, empty if there is none."""
    files = {"routes": routes.text(), REHEARSAL: rehearsal}
    # The key is always ours: one that somebody else wrote would name a candidate, and an apply without it keeps it.
    return _config_map(
        owner, routes_name(owner.name), files | ({"sides": sides} if (sides := routes.sides_text()) else {})
    )


def router_disruption_budget(owner: Owner) -> Body:
    """Return the PodDisruptionBudget of the router, for two or more replicas."""
    return common.budget(owner, router_name(owner.name), ROUTER)


def _container(traffic: Traffic, image: str) -> Body:
    return {
        "name": ROUTER,
        "image": image,
        "command": ["sh", f"{CONFIG_PATH}/router.sh"],
        "env": [{"name": "MLMODEL_TIMEOUT_SECONDS", "value": str(traffic.timeout_seconds)}],
        "ports": [
            {"name": "http", "containerPort": ROUTER_PORT},
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "status", "containerPort": ROUTER_STATUS_PORTS[0]},
            {"name": "status-2", "containerPort": ROUTER_STATUS_PORTS[1]},
        ],
        "resources": _resources(traffic.router.resources),
        "securityContext": common.container_security(),
        "readinessProbe": common.probe("status", "/ready", period=1, timeout=1, failures=3),
        "livenessProbe": common.probe("status", "/live", period=10, timeout=5, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
            {"name": "routes", "mountPath": ROUTES_PATH, "readOnly": True},
        ],
    }


def _resources(desired: RouterResources) -> Body:
    """Return the resources of the spec with the defaults. The default limit of memory does not go with a request of the
    user, which may exceed it."""
    found = common.resources(desired, DEFAULT_REQUESTS)
    if "memory" not in desired.requests and "memory" not in desired.limits:
        found["limits"] = found.get("limits", {}) | {"memory": DEFAULT_MEMORY_LIMIT}
    return found


@cache
def _config_files() -> dict[str, str]:
    folder = files(__package__) / "haproxy"
    return {name: (folder / name).read_text(encoding="utf-8") for name in CONFIG_FILES}


def _config_map(owner: Owner, name: str, data: dict[str, str]) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": common.metadata(owner, name, ROUTER),
        "data": dict(data),
    }
