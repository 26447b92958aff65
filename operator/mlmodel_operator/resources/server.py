"""The children of one revision: Deployment, Service, autoscaler and disruption budget, all called ``NAME-REVISION``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from mlmodel_operator.api.types import Autoscaling, Owner, Resources, Revision, Snapshot
from mlmodel_operator.names import GRPC_PORT, SERVER, SERVER_PORT, TEMPLATE_ANNOTATION, revision_name, selector
from mlmodel_operator.resources import common
from mlmodel_operator.resources.common import Body

MODEL_PATH = "/mnt/model"
STORAGE_PATH = "/etc/mlmodel/storage"
API_KEYS_PATH = "/etc/mlmodel/api-keys"
STORAGE_SECRET = "mlmodel-storage"  # noqa: S105 - its name
"""In the model's namespace, for sources that the server fetches itself; each of its keys is named like the environment
variable that tools for this storage read. The server gets them as files: an environment is inherited and shown by too
much."""

# What a server asks for when the user says nothing. The CPU request is what the autoscaler's percentage refers to. No
# limit by default: one on CPU only adds latency, and one on memory would kill a model larger than we guessed.
DEFAULT_REQUESTS: Mapping[str, str] = {"cpu": "100m", "memory": "256Mi"}

# A download lands here before it is loaded; the limit keeps a runaway one from filling the node's disk.
SCRATCH_SIZE = "2Gi"

# Kubernetes takes a pod out of the Service and ends it at the same time. The pause lets every node hear of the first
# before the second; then the server has the rest of the grace period for the requests it still holds.
PRE_STOP_SECONDS = 5
GRACE_SECONDS = 45


def deployment(owner: Owner, revision: Revision, *, signing_keys: str = "", allow_unsafe: bool = False) -> Body:
    """The Deployment of one revision. It never states ``replicas``: the autoscaler or the operator's scaling owns them.

    The pod template depends on the owner's name, the revision's snapshot (the image is part of it) and, where the
    snapshot asks for more trust than strict, on the operator's rights: ``signing_keys``, public keys as PEM, and
    ``allow_unsafe``. A Deployment whose template would come out another one is left as it is (see
    ``TEMPLATE_ANNOTATION``), so neither an upgrade nor other rights restart anything.
    """
    name = revision_name(owner.name, revision.id)
    snapshot = revision.snapshot
    volumes, mounts = _volumes(snapshot)
    body: Body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": common.metadata(owner, name, SERVER, revision.id),
        "spec": {
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": selector(owner.name, SERVER, revision.id)},
            "strategy": common.rolling(),
            "template": {
                "metadata": {"labels": common.labels(owner, SERVER, revision.id)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": common.pod_security(),
                    "topologySpreadConstraints": common.spread(owner, SERVER, revision.id),
                    "containers": [_container(owner, revision, mounts, signing_keys, allow_unsafe)],
                    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": SCRATCH_SIZE}}, *volumes],
                },
            },
        },
    }
    template = json.dumps(body["spec"]["template"], sort_keys=True)
    body["metadata"]["annotations"] = {TEMPLATE_ANNOTATION: hashlib.sha256(template.encode()).hexdigest()[:16]}
    return body


def service(owner: Owner, revision_id: str) -> Body:
    """The ClusterIP Service of one revision; the router points a slot at its address."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": common.metadata(owner, revision_name(owner.name, revision_id), SERVER, revision_id),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(owner.name, SERVER, revision_id),
            "ports": [
                {"name": "http", "port": SERVER_PORT, "targetPort": "http"},
                {
                    "name": "grpc",
                    "port": GRPC_PORT,
                    "targetPort": "grpc",
                    "appProtocol": common.GRPC_PROTOCOL,
                },
            ],
        },
    }


def autoscaler(owner: Owner, revision_id: str, autoscaling: Autoscaling, min_replicas: int) -> Body:
    """The HorizontalPodAutoscaler of one revision, on CPU in percent of the request.

    ``min_replicas`` is the caller's, not the user's: during a rollout it holds capacity that a route may need. Capacity
    is added as fast as Kubernetes does by default; after five quiet minutes, also the default, it is given back by at
    most half per minute.
    """
    name = revision_name(owner.name, revision_id)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": common.metadata(owner, name, SERVER, revision_id),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": min_replicas,
            "maxReplicas": max(min_replicas, autoscaling.max_replicas),
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": autoscaling.cpu_percent},
                    },
                }
            ],
            "behavior": {"scaleDown": {"policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}]}},
        },
    }


def disruption_budget(owner: Owner, revision_id: str) -> Body:
    """The PodDisruptionBudget of one revision; the caller makes one only where there is more than one replica."""
    return common.budget(owner, revision_name(owner.name, revision_id), SERVER, revision_id)


def _container(owner: Owner, revision: Revision, mounts: list[Body], signing_keys: str, allow_unsafe: bool) -> Body:
    snapshot = revision.snapshot
    return {
        "name": SERVER,
        "image": snapshot.image,
        "args": _args(owner, revision, allow_unsafe),
        **_env(snapshot, signing_keys),
        "ports": [
            {"name": "http", "containerPort": SERVER_PORT},
            {"name": "grpc", "containerPort": GRPC_PORT},
        ],
        "resources": _resources(snapshot.resources),
        "securityContext": common.container_security(),
        # Ten minutes for a large model; a model that can't work ends the process much sooner.
        "startupProbe": common.probe("http", "/v2/health/ready", period=1, timeout=1, failures=600),
        "readinessProbe": common.probe("http", "/v2/health/ready", period=2, timeout=2, failures=3),
        # Only a process that is truly stuck for half a minute is killed: a busy one is not dead.
        "livenessProbe": common.probe("http", "/v2/health/live", period=10, timeout=5, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],  # noqa: S108
    }


def _args(owner: Owner, revision: Revision, allow_unsafe: bool) -> list[str]:
    snapshot = revision.snapshot
    model = snapshot.model
    args = ["--name", owner.name, "--uri", model.uri]
    if _scheme(snapshot) in ("configmap", "pvc", "oci"):
        args += ["--path", MODEL_PATH]
    args += ["--model-version", revision.label, "--revision", revision.id]
    if model.sha256:
        args += ["--sha256", model.sha256]
    args += ["--format", model.format, "--port", str(SERVER_PORT), "--grpc-port", str(GRPC_PORT)]
    args += ["--batch-rows", str(snapshot.batching.max_rows)]
    if model.trust != "strict":
        args += ["--trust", model.trust]
    if model.trust == "unsafe" and allow_unsafe:
        args += ["--allow-unsafe"]
    if snapshot.api_keys is not None:
        args += ["--api-keys", f"{API_KEYS_PATH}/keys"]
    return args


def _env(snapshot: Snapshot, signing_keys: str) -> Body:
    """Public keys travel in the environment: a pod can't mount what is in the operator's namespace."""
    env = []
    if _fetches(snapshot):
        env.append({"name": "MLMODEL_STORAGE_CREDENTIALS", "value": STORAGE_PATH})
    if snapshot.model.trust == "signed":
        env.append({"name": "MLMODEL_SIGNING_KEYS_PEM", "value": signing_keys})
    return {"env": env} if env else {}


def _scheme(snapshot: Snapshot) -> str:
    return urlsplit(snapshot.model.uri).scheme


def _fetches(snapshot: Snapshot) -> bool:
    """Whether the server fetches the model itself and may need credentials for it."""
    return _scheme(snapshot) in ("https", "s3", "gs", "az")


def _volumes(snapshot: Snapshot) -> tuple[list[Body], list[Body]]:
    """The volumes and mounts that bring the model into the pod, or the credentials to fetch it, and the API keys."""
    volumes: list[Body] = []
    mounts: list[Body] = []

    def mount(path: str, volume: Body, **more: str) -> None:
        volumes.append(volume)
        mounts.append({"name": volume["name"], "mountPath": path, "readOnly": True, **more})

    parts = urlsplit(snapshot.model.uri)
    if parts.scheme == "configmap":
        mount(MODEL_PATH, {"name": "model", "configMap": {"name": parts.netloc}})
    elif parts.scheme == "pvc":
        path = parts.path.strip("/")
        # Read-only at the source, not only at the mount: else the kubelet would create a missing subPath in the user's
        # claim. And no fsGroup: we read what is there, and never change whose it is.
        claim = {"claimName": parts.netloc, "readOnly": True}
        mount(MODEL_PATH, {"name": "model", "persistentVolumeClaim": claim}, **({"subPath": path} if path else {}))
    elif parts.scheme == "oci":
        # The node pulls it, with its own credentials or the service account's, and keeps it for the next pod. The image
        # is pinned by its digest or the model in it by its own, so a copy that is there already is as good.
        reference = snapshot.model.uri.removeprefix("oci://")
        mount(MODEL_PATH, {"name": "model", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}})
    if _fetches(snapshot):
        mount(STORAGE_PATH, {"name": "storage", "secret": {"secretName": STORAGE_SECRET, "optional": True}})
    if snapshot.api_keys is not None:
        # Not optional: a missing Secret keeps the pods from starting, and never opens the model to everybody. And only
        # the one key that holds hashes, whatever else the named Secret has.
        secret = {"secretName": snapshot.api_keys.secret_name, "items": [{"key": "keys", "path": "keys"}]}
        mount(API_KEYS_PATH, {"name": "api-keys", "secret": secret})
    return volumes, mounts


def _resources(wanted: Resources) -> Body:
    """What the user wrote, and the default request for what they left open. A limit alone is also the request, which is
    Kubernetes' own rule; a default beside it could exceed it."""
    defaults = {name: amount for name, amount in DEFAULT_REQUESTS.items() if name not in wanted.limits}
    resources: Body = {}
    if requests := defaults | dict(wanted.requests):
        resources["requests"] = requests
    if wanted.limits:
        resources["limits"] = dict(wanted.limits)
    return resources
