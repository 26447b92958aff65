"""The children of one revision: Deployment, Service, autoscaler and disruption budget, all called ``NAME-REVISION``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from mlmodel_operator.api.types import Autoscaling, Owner, Resources, Revision
from mlmodel_operator.resources import common
from mlmodel_operator.resources.common import Body
from mlmodel_operator.rollout.routes import SERVER_PORT

MODEL_PATH = "/mnt/model"
TEMPLATE_ANNOTATION = "mlmodel.dev/template"
"""On a Deployment, the hash of the pod template: another one means that another release of the operator made it."""

# What a server asks for when the user says nothing. The CPU request is what the autoscaler's percentage refers to. No
# limit by default: one on CPU only adds latency, and one on memory would kill a model larger than we guessed.
DEFAULT_REQUESTS: Mapping[str, str] = {"cpu": "100m", "memory": "256Mi"}

# A download lands here before it is loaded; the limit keeps a runaway one from filling the node's disk.
SCRATCH_SIZE = "2Gi"

# Kubernetes takes a pod out of the Service and ends it at the same time. The pause lets every node hear of the first
# before the second; then the server has the rest of the grace period for the requests it still holds.
PRE_STOP_SECONDS = 5
GRACE_SECONDS = 45


def deployment(owner: Owner, revision: Revision) -> Body:
    """The Deployment of one revision. It never states ``replicas``: the autoscaler or the operator's scaling owns them.

    The pod template depends on the owner's name and the revision's snapshot only (the image is part of the snapshot),
    so an upgrade of the operator restarts nothing.
    """
    name = _name(owner, revision.id)
    volumes, mounts = _volumes(revision.model.uri)
    body: Body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": common.metadata(owner, name, "server", revision.id),
        "spec": {
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": common.selector(owner, "server", revision.id)},
            "strategy": common.rolling(),
            "template": {
                "metadata": {"labels": common.labels(owner, "server", revision.id)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": common.pod_security(),
                    "topologySpreadConstraints": common.spread(owner, "server", revision.id),
                    "containers": [
                        {
                            "name": "server",
                            "image": revision.image,
                            "args": _args(owner, revision),
                            "ports": [{"name": "http", "containerPort": SERVER_PORT}],
                            "resources": _resources(revision.resources),
                            "securityContext": common.container_security(),
                            # Ten minutes for a large model; a model that can't work ends the process much sooner.
                            "startupProbe": _probe("/v2/health/ready", period=1, timeout=1, failures=600),
                            "readinessProbe": _probe("/v2/health/ready", period=2, timeout=2, failures=3),
                            # Only a process that is truly stuck for half a minute is killed: a busy one is not dead.
                            "livenessProbe": _probe("/v2/health/live", period=10, timeout=5, failures=3),
                            "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
                            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],  # noqa: S108
                        }
                    ],
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
        "metadata": common.metadata(owner, _name(owner, revision_id), "server", revision_id),
        "spec": {
            "type": "ClusterIP",
            "selector": common.selector(owner, "server", revision_id),
            "ports": [{"name": "http", "port": SERVER_PORT, "targetPort": "http"}],
        },
    }


def autoscaler(owner: Owner, revision_id: str, autoscaling: Autoscaling, min_replicas: int) -> Body:
    """The HorizontalPodAutoscaler of one revision, on CPU in percent of the request.

    ``min_replicas`` is the caller's, not the user's: during a rollout it holds capacity that a route may need. Capacity
    is added as fast as Kubernetes does by default; after five quiet minutes, also the default, it is given back by at
    most half per minute.
    """
    name = _name(owner, revision_id)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": common.metadata(owner, name, "server", revision_id),
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
    return common.budget(owner, _name(owner, revision_id), "server", revision_id)


def _name(owner: Owner, revision_id: str) -> str:
    return f"{owner.name}-{revision_id}"


def _args(owner: Owner, revision: Revision) -> list[str]:
    model = revision.model
    args = ["--name", owner.name, "--uri", model.uri]
    if urlsplit(model.uri).scheme in ("configmap", "pvc"):
        args += ["--path", MODEL_PATH]
    args += ["--model-version", revision.label, "--revision", revision.id]
    if model.sha256:
        args += ["--sha256", model.sha256]
    return [*args, "--format", model.format, "--port", str(SERVER_PORT)]


def _volumes(uri: str) -> tuple[list[Body], list[Body]]:
    """The volume and mount that bring the model into the pod; none for what the server fetches or has itself."""
    parts = urlsplit(uri)
    mount: Body = {"name": "model", "mountPath": MODEL_PATH, "readOnly": True}
    if parts.scheme == "configmap":
        return [{"name": "model", "configMap": {"name": parts.netloc}}], [mount]
    if parts.scheme == "pvc":
        if path := parts.path.strip("/"):
            mount["subPath"] = path
        # Read-only at the source, not only at the mount: else the kubelet would create a missing subPath in the user's
        # claim. And no fsGroup: we read what is there, and never change whose it is.
        return [{"name": "model", "persistentVolumeClaim": {"claimName": parts.netloc, "readOnly": True}}], [mount]
    return [], []


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


def _probe(path: str, *, period: int, timeout: int, failures: int) -> Body:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }
