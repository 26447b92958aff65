"""The children that route a model's requests: one HAProxy Deployment, its Service, configuration and routes.

HAProxy's own configuration and the Lua that draws the lots are files beside this module (``haproxy/``), mounted into a
stock image.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from mlmodel_operator.api.types import Owner
from mlmodel_operator.names import (
    CONFIG_ANNOTATION,
    GRPC_PORT,
    ROUTER,
    ROUTER_PORT,
    ROUTER_STATUS_PORT,
    SERVICE_PORT,
    router_name,
    selector,
)
from mlmodel_operator.resources import common
from mlmodel_operator.resources.common import Body
from mlmodel_operator.rollout.routes import Routes

CONFIG_PATH = "/etc/mlmodel/haproxy"
ROUTES_PATH = "/etc/mlmodel/routes"

# As for the servers: first leave the Service, then stop. HAProxy's own `hard-stop-after` (30 s) fits in what is left.
PRE_STOP_SECONDS = 5
GRACE_SECONDS = 45


def router_deployment(owner: Owner, replicas: int, image: str, config_hash: str) -> Body:
    """The router. A changed configuration rolls its pods (the hash is in the template); changed routes never do.

    The image must end gracefully on its own stop signal (SIGUSR1), as the official HAProxy image does.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": common.metadata(owner, router_name(owner.name), ROUTER),
        "spec": {
            "replicas": replicas,
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
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": common.pod_security(),
                    "topologySpreadConstraints": common.spread(owner, ROUTER),
                    "containers": [_container(image)],
                    "volumes": [
                        {"name": "config", "configMap": {"name": _config_name(owner)}},
                        {"name": "routes", "configMap": {"name": _routes_name(owner)}},
                    ],
                },
            },
        },
    }


def router_service(owner: Owner) -> Body:
    """The address of the model: ``http://NAME.NAMESPACE.svc``, the same from its first second to its last; for gRPC
    ``NAME.NAMESPACE.svc:9000``."""
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
    """The ConfigMap with HAProxy's configuration, the same for every model."""
    return _config_map(owner, _config_name(owner), _config_files())


def router_config_hash() -> str:
    """The identity of the configuration, for the pod template."""
    digest = hashlib.sha256()
    for name, text in sorted(_config_files().items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def router_routes(owner: Owner, routes: Routes) -> Body:
    """The ConfigMap with the routes file, which the router watches."""
    return _config_map(owner, _routes_name(owner), {"routes": routes.text()})


def router_disruption_budget(owner: Owner) -> Body:
    """The PodDisruptionBudget of the router; the caller makes one only where there is more than one replica."""
    return common.budget(owner, router_name(owner.name), ROUTER)


def _container(image: str) -> Body:
    return {
        "name": ROUTER,
        "image": image,
        # One process: a master would cost memory and only serves reloads, which we never do.
        "command": ["haproxy", "-db", "-f", f"{CONFIG_PATH}/haproxy.cfg"],
        "ports": [
            {"name": "http", "containerPort": ROUTER_PORT},
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "status", "containerPort": ROUTER_STATUS_PORT},
        ],
        # Ordinary traffic takes 20 MiB; the limit holds two thousand requests under way at once.
        "resources": {
            "requests": {"cpu": "50m", "memory": "32Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": common.container_security(),
        "readinessProbe": common.probe("status", "/ready", period=1, timeout=1, failures=3),
        "livenessProbe": common.probe("status", "/live", period=10, timeout=5, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
            {"name": "routes", "mountPath": ROUTES_PATH, "readOnly": True},
        ],
    }


def _config_name(owner: Owner) -> str:
    return f"{router_name(owner.name)}-config"


def _routes_name(owner: Owner) -> str:
    return f"{owner.name}-routes"


@cache
def _config_files() -> dict[str, str]:
    folder = files(__package__) / "haproxy"
    return {name: (folder / name).read_text(encoding="utf-8") for name in ("haproxy.cfg", "routes.lua")}


def _config_map(owner: Owner, name: str, data: dict[str, str]) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": common.metadata(owner, name, ROUTER),
        "data": dict(data),
    }
