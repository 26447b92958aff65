"""The children that route a model's requests: one HAProxy Deployment, its Service, configuration and routes.

The configuration of HAProxy and the Lua program that follows the routes are files beside this module (``haproxy/``).
The pod template has them packed, and a stock image unpacks them: a ConfigMap could be changed by anyone who may write
ConfigMaps, and kubelet keeps one that was made immutable.

For the same reason a running router follows the routes that the operator writes on its pod. The ConfigMap with the same
routes is for pods that start while no operator runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from mlmodel_operator.api.types import Owner, Revision, RouterResources, Tls, Traffic
from mlmodel_operator.names import (
    CONFIG_ANNOTATION,
    GRPC_PORT,
    GRPC_TLS_PORT,
    REHEARSAL,
    ROUTER,
    ROUTER_PORT,
    ROUTER_STATUS_PORTS,
    ROUTER_TLS_PORT,
    ROUTES_ANNOTATION,
    SERVICE_PORT,
    SERVICE_TLS_PORT,
    SIDES_ANNOTATION,
    router_name,
    routes_name,
    selector,
)
from mlmodel_operator.resources import common
from mlmodel_operator.resources.common import Body
from mlmodel_operator.rollout.routes import Routes

CONFIG_PATH = "/etc/mlmodel/haproxy"
FILES_VARIABLE = "MLMODEL_ROUTER_FILES"
UNPACK = f'printf %s "${FILES_VARIABLE}" | base64 -d | tar -xzf - -C {CONFIG_PATH} && exec sh {CONFIG_PATH}/router.sh'
"""What the container runs: the image needs ``sh``, ``base64``, ``tar`` and ``gzip``."""
PACKED = "packed.b64"
CONFIG_FILES = ("haproxy.cfg", "routes.lua", "router.sh", "state.map")
ROUTES_FILES = ("routes", "sides", REHEARSAL)
ROUTES_PATH = "/etc/mlmodel/routes"
ASSIGNED_PATH = "/etc/mlmodel/assigned"
TLS_PATH = "/etc/mlmodel/tls"  # as in haproxy.cfg
KEYS_PATH = "/etc/mlmodel/keys"

# As for the servers: the nodes remove the pod from the Service, then it stops. The rest of the grace period is for the
# requests in flight: router.sh waits up to 6 s for those that may be retried, and HAProxy ends others after the time
# limit of the model (`hard-stop-after`).
PRE_STOP_SECONDS = 5
STOP_SECONDS = 10

# Two processes take 32 MiB under ordinary traffic; the limit is enough for 2,000 requests in flight.
DEFAULT_REQUESTS: Mapping[str, str] = {"cpu": "50m", "memory": "32Mi"}
DEFAULT_MEMORY_LIMIT = "512Mi"
CONFIG_SIZE = "1Mi"


def checked_keys(revisions: Iterable[Revision]) -> str:
    """Return the name of the Secret whose API keys the router checks; empty if it checks none.

    That is the one that all revisions with pods name. While a rollout changes it, only the pods know which keys they
    accept, and they check them in any case.
    """
    named = {"" if (keys := revision.snapshot.api_keys) is None else keys.secret_name for revision in revisions}
    return named.pop() if len(named) == 1 else ""


def router_deployment(owner: Owner, traffic: Traffic, image: str, config_hash: str, keys: str = "") -> Body:
    """Return the Deployment of the router; ``keys`` is the name of the Secret with the API keys that it checks. A
    changed configuration replaces its pods (it is in the template), as do changed resources and another Secret; changed
    routes, keys and certificates do not.

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
                    "containers": [_container(traffic, image, keys)],
                    "volumes": [
                        {"name": "config", "emptyDir": {"medium": "Memory", "sizeLimit": CONFIG_SIZE}},
                        # Optional: without it, a pod still starts with what the operator writes on it.
                        {"name": "routes", "configMap": {"name": routes_name(owner.name), "optional": True}},
                        {"name": "assigned", "downwardAPI": {"items": _assigned()}},
                        *_secrets(traffic.tls, keys),
                    ],
                },
            },
        },
    }


def router_service(owner: Owner, tls: Tls | None = None) -> Body:
    """Return the Service that is the address of the model during its whole life: ``http://NAME.NAMESPACE.svc``, and for
    gRPC ``NAME.NAMESPACE.svc:9000``; with TLS also ``https://NAME.NAMESPACE.svc`` and ``NAME.NAMESPACE.svc:9443``.

    A port never changes its protocol: while pods of both kinds run, a client of one port gets no other protocol.
    """
    encrypted = [
        {"name": "https", "port": SERVICE_TLS_PORT, "targetPort": "https", "appProtocol": "https"},
        {"name": "grpcs", "port": GRPC_TLS_PORT, "targetPort": "grpcs", "appProtocol": "https"},
    ]
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
                *(encrypted if tls else []),
            ],
        },
    }


@cache
def router_files() -> Mapping[str, str]:
    """Return the configuration of the router, which is the same for every model: the text of each file by name."""
    folder = files(__package__) / "haproxy"
    return MappingProxyType({name: (folder / name).read_text(encoding="utf-8") for name in CONFIG_FILES})


@cache
def router_config_hash() -> str:
    """Return the hash of the configuration, by which a router pod shows which one it runs; comments do not count."""
    digest = hashlib.sha256()
    for name, text in sorted(router_files().items()):
        digest.update(f"{name}\0{directives(text)}\0".encode())
    return digest.hexdigest()[:16]


def directives(text: str) -> str:
    """Return the lines that are neither empty nor a comment of HAProxy or Lua."""
    lines = ((line, line.strip()) for line in text.splitlines())
    return "".join(f"{line}\n" for line, words in lines if words and not words.startswith(("#", "--")))


def router_routes(owner: Owner, routes: Routes, rehearsal: str = "") -> Body:
    """Return the ConfigMap with the files that a router follows from its start until the operator writes on its pod:
    the routes and, if a header assigns requests, the sides; and, for servers of the release before, with the file that
    names the candidate of a ``rehearsal``, empty if there is none."""
    files = {"routes": routes.text(), REHEARSAL: rehearsal}
    return _config_map(
        owner, routes_name(owner.name), files | ({"sides": sides} if (sides := routes.sides_text()) else {})
    )


def router_disruption_budget(owner: Owner) -> Body:
    """Return the PodDisruptionBudget of the router, for two or more replicas."""
    return common.budget(owner, router_name(owner.name), ROUTER)


def _secrets(tls: Tls | None, keys: str) -> list[Body]:
    """Return the volumes of Secrets. None is optional: without its Secret a pod does not start, and those from before
    serve on."""
    volumes: list[Body] = []
    if tls is not None:
        items = [{"key": name, "path": name} for name in ("tls.crt", "tls.key")]
        volumes.append({"name": "tls", "secret": {"secretName": tls.secret_name, "items": items}})
    if keys:
        volumes.append(
            {"name": "keys", "secret": {"secretName": keys, "items": [{"key": "keys", "path": "keys"}]}},
        )
    return volumes


def _container(traffic: Traffic, image: str, keys: str) -> Body:
    tls = traffic.tls
    env = {"MLMODEL_TIMEOUT_SECONDS": str(traffic.timeout_seconds), FILES_VARIABLE: packed_files()}
    ports = {
        "http": ROUTER_PORT,
        "grpc": GRPC_PORT,
        "status": ROUTER_STATUS_PORTS[0],
        "status-2": ROUTER_STATUS_PORTS[1],
    }
    mounts = {"routes": ROUTES_PATH, "assigned": ASSIGNED_PATH}
    if tls is not None:
        env |= {"MLMODEL_TLS": "both" if tls.allow_plain_text else "only"}
        ports |= {"https": ROUTER_TLS_PORT, "grpcs": GRPC_TLS_PORT}
        mounts |= {"tls": TLS_PATH}
    if keys:
        env |= {"MLMODEL_KEYS": f"{KEYS_PATH}/keys"}
        mounts |= {"keys": KEYS_PATH}
    return {
        "name": ROUTER,
        "image": image,
        "command": ["sh", "-c", UNPACK],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": _resources(traffic.router.resources),
        "securityContext": common.container_security(),
        "readinessProbe": common.probe("status", "/ready", period=1, timeout=1, failures=3),
        "livenessProbe": common.probe("status", "/live", period=10, timeout=5, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_PATH},
            *({"name": name, "mountPath": path, "readOnly": True} for name, path in mounts.items()),
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
def packed_files() -> str:
    """Return what a router pod unpacks: a generated file, so that the operator and the admission policy, which permits
    nothing else, have the same text: libraries compress in different ways."""
    return (files(__package__) / "haproxy" / PACKED).read_text(encoding="ascii").strip()


def _assigned() -> list[Body]:
    """Return the files whose content are annotations of the pod: kubelet writes them when the annotations change."""
    return [
        {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}
        for path, name in (("routes", ROUTES_ANNOTATION), ("sides", SIDES_ANNOTATION))
    ]


def _config_map(owner: Owner, name: str, data: dict[str, str]) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": common.metadata(owner, name, ROUTER),
        "data": dict(data),
    }
