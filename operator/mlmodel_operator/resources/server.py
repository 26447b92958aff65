"""The children of one revision: Deployment, Service, autoscaler and disruption budget, all named ``NAME-REVISION``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from mlmodel_operator.api.types import Autoscaling, Owner, Rehearsal, Revision, Snapshot
from mlmodel_operator.names import (
    API_KEYS,
    FEEDBACK_KEY,
    FETCHER,
    FILES_OPTION,
    GRPC_PORT,
    REHEARSAL,
    REHEARSAL_ANNOTATION,
    REHEARSAL_PORT,
    REQUESTS_OPTION,
    SERVER,
    SERVER_PORT,
    TEMPLATE_ANNOTATION,
    revision_name,
    selector,
)
from mlmodel_operator.resources import common
from mlmodel_operator.resources.common import Body

MODEL_PATH = "/mnt/model"
STORAGE_PATH = "/etc/mlmodel/storage"
API_KEYS_PATH = "/etc/mlmodel/api-keys"
FEEDBACK_KEY_PATH = "/etc/mlmodel/feedback-key"
REHEARSAL_PATH = "/etc/mlmodel/rehearsal"
STORAGE_SECRET = "mlmodel-storage"  # noqa: S105 - its name
"""Name of the Secret with credentials for downloads, in the namespace of the model. Its keys are named like the
environment variables of the store. Only the init container that downloads the model mounts it, as files: tools print an
environment."""

# Requests of a server without `resources`. The autoscaler's percentage refers to the CPU request. No limits by default:
# a CPU limit adds latency, and a memory limit would kill a model that is larger than the guess.
DEFAULT_REQUESTS: Mapping[str, str] = {"cpu": "100m", "memory": "256Mi"}

# Libraries that only read paths get a model here; the limit keeps it from filling the disk of the node.
SCRATCH_SIZE = "2Gi"

# What is downloaded: at most 4 GiB, the limit of the server for all files of a model, and blocks that are not full.
FETCHED_SIZE = "4200Mi"

# The webhook of EKS gives the identity of a service account to every container of a pod but these.
_NO_IDENTITY = {"eks.amazonaws.com/skip-containers": SERVER}

# Kubernetes removes a pod from the Service and stops it at the same time. After this pause every node has updated its
# target of the Service. Then the requests in flight have the model's whole time limit, and the server answers those
# that exceed it, which it does 5 s before the end of the grace period.
PRE_STOP_SECONDS = 5
MARGIN_SECONDS = 10
TIMEOUT_SECONDS = 60


def deployment(
    owner: Owner,
    revision: Revision,
    *,
    signing_keys: str = "",
    allow_unsafe: bool = False,
    timeout_seconds: int = TIMEOUT_SECONDS,
    rehearsal_requests: int = Rehearsal.requests,
) -> Body:
    """Return the Deployment of one revision, without ``replicas``, which the autoscaler or a patch of the operator
    sets.

    The pod template depends on the owner's name, the snapshot of the revision with its image, the time limit of a
    request in seconds, the number of requests that a pod keeps for rehearsals and, if its trust is not strict, on the
    operator's rights: ``signing_keys``, public keys as PEM, and ``allow_unsafe``. The controller does not change the
    template of an existing Deployment (see ``TEMPLATE_ANNOTATION``), so neither an upgrade nor another limit nor other
    rights restart a pod.
    """
    name = revision_name(owner.name, revision.id)
    snapshot = revision.snapshot
    args = _args(owner, revision, allow_unsafe, timeout_seconds)
    volumes, mounts = _volumes(snapshot)
    container = _container(snapshot, args, mounts, signing_keys)
    volumes += _rehearse(container, rehearsal_requests)
    body: Body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": common.metadata(owner, name, SERVER, revision.id),
        "spec": {
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": selector(owner.name, SERVER, revision.id)},
            "strategy": common.rolling(),
            "template": {
                "metadata": {
                    "labels": common.labels(owner, SERVER, revision.id),
                    "annotations": dict(_NO_IDENTITY),
                },
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": PRE_STOP_SECONDS + timeout_seconds + MARGIN_SECONDS,
                    "securityContext": common.pod_security(),
                    "topologySpreadConstraints": common.spread(owner, SERVER, revision.id),
                    **_init_containers(owner, snapshot),
                    "containers": [container],
                    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": SCRATCH_SIZE}}, *volumes],
                },
            },
        },
    }
    template = json.dumps(body["spec"]["template"], sort_keys=True)
    body["metadata"]["annotations"] = {TEMPLATE_ANNOTATION: hashlib.sha256(template.encode()).hexdigest()[:16]}
    return body


def service(owner: Owner, revision_id: str) -> Body:
    """Return the ClusterIP Service of one revision; a router slot points to its address."""
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
    """Return the HorizontalPodAutoscaler of one revision, on CPU in percent of the request.

    ``min_replicas`` may exceed that of the spec: in a rollout, a side keeps the pods for its requests. Scaling up has
    the defaults of Kubernetes; scaling down starts after five minutes, also the default, with at most half of the pods
    per minute.
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
    """Return the PodDisruptionBudget of one revision, for two or more replicas."""
    return common.budget(owner, revision_name(owner.name, revision_id), SERVER, revision_id)


def _init_containers(owner: Owner, snapshot: Snapshot) -> Body:
    """Return the init container that downloads the model. It has the credentials, and exits before the server opens the
    model and answers requests without them.

    Its resources are those of the server: a pod requests the larger of the two, and a quota that requires limits gets
    them for both.
    """
    if not _downloads(snapshot):
        return {}
    model = snapshot.model
    args = ["--name", owner.name, "--uri", model.uri, "--sha256", model.sha256, "--fetch-to", MODEL_PATH]
    if model.trust == "signed":
        args += ["--trust", "signed"]  # which requires all files
    fetcher = {
        "name": FETCHER,
        "image": snapshot.image,
        "args": [literal(word) for word in args],
        "env": [{"name": "MLMODEL_STORAGE_CREDENTIALS", "value": STORAGE_PATH}],
        "resources": common.resources(snapshot.resources, DEFAULT_REQUESTS),
        "securityContext": common.container_security(),
        # No scratch space in common with the server.
        "volumeMounts": [
            {"name": "model", "mountPath": MODEL_PATH},
            {"name": "storage", "mountPath": STORAGE_PATH, "readOnly": True},
        ],
    }
    return {"initContainers": [fetcher]}


def literal(text: str) -> str:
    """Return an argument or value that kubelet passes on as ``text``: it replaces ``$(NAME)`` by a variable, and ``$$``
    by ``$``."""
    return text.replace("$", "$$")


def as_passed(text: str) -> str:
    """Return what the container gets for an argument of :func:`literal`."""
    return text.replace("$$", "$")


def _container(snapshot: Snapshot, args: list[str], mounts: list[Body], signing_keys: str) -> Body:
    return {
        "name": SERVER,
        "image": snapshot.image,
        "args": args,
        **_env(snapshot, signing_keys),
        "ports": [
            {"name": "http", "containerPort": SERVER_PORT},
            {"name": "grpc", "containerPort": GRPC_PORT},
        ],
        "resources": common.resources(snapshot.resources, DEFAULT_REQUESTS),
        "securityContext": common.container_security(),
        # Ten minutes, for a large model; with a model that cannot work the server exits much sooner.
        "startupProbe": common.probe("http", "/v2/health/ready", period=1, timeout=1, failures=600),
        # A pod without CPU time is slow, not unready: while its Service has no other, taking it out fails every new
        # connection. A pod that drains is taken out at once; its probe does not matter.
        "readinessProbe": common.probe("http", "/v2/health/ready", period=5, timeout=5, failures=4),
        # Restart only after 30 s without an answer: a busy server is slow, not dead.
        "livenessProbe": common.probe("http", "/v2/health/live", period=10, timeout=10, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],  # noqa: S108
    }


def _rehearse(container: Body, requests: int) -> list[Body]:
    """Let the server in ``container`` have pages for the operator, and keep ``requests`` for rehearsals; return the
    volume that names the candidate, none for 0 requests: an annotation of the pod, which the operator writes. Rights on
    ConfigMaps are not enough to name one."""
    path = f"{REHEARSAL_PATH}/{REHEARSAL}"
    container["args"] += ["--rehearsal", path, REQUESTS_OPTION, str(requests)]
    container["args"] += ["--rehearsal-port", str(REHEARSAL_PORT)]
    container["ports"].append({"name": REHEARSAL, "containerPort": REHEARSAL_PORT})
    if not requests:
        return []
    container["volumeMounts"].append({"name": REHEARSAL, "mountPath": REHEARSAL_PATH, "readOnly": True})
    item = {"path": REHEARSAL, "fieldRef": {"fieldPath": f"metadata.annotations['{REHEARSAL_ANNOTATION}']"}}
    return [{"name": REHEARSAL, "downwardAPI": {"items": [item]}}]


def _args(owner: Owner, revision: Revision, allow_unsafe: bool, timeout_seconds: int) -> list[str]:
    snapshot = revision.snapshot
    model = snapshot.model
    downloads = _downloads(snapshot)
    # The query may be a token of the store, and only the init container needs it.
    args = ["--name", owner.name, "--uri", model.uri.partition("?")[0] if downloads else model.uri]
    if downloads:
        args += ["--fetched", MODEL_PATH]
    elif _scheme(snapshot) in ("configmap", "pvc", "oci"):
        args += ["--path", MODEL_PATH]
    args += ["--model-version", revision.label, "--revision", revision.id]
    if model.sha256:
        args += ["--sha256", model.sha256]
    if snapshot.files_sha256:
        args += [FILES_OPTION, snapshot.files_sha256]
    args += ["--format", model.format, "--port", str(SERVER_PORT), "--grpc-port", str(GRPC_PORT)]
    args += ["--timeout", str(timeout_seconds), "--batch-rows", str(snapshot.batching.max_rows)]
    if model.trust != "strict":
        args += ["--trust", model.trust]
    if model.trust == "unsafe" and allow_unsafe:
        args += ["--allow-unsafe"]
    if snapshot.api_keys is not None:
        args += ["--api-keys", f"{API_KEYS_PATH}/keys"]
    if snapshot.feedback_key is not None:
        args += ["--feedback-key", f"{FEEDBACK_KEY_PATH}/key"]
    return [literal(word) for word in args]


def _env(snapshot: Snapshot, signing_keys: str) -> Body:
    """Return the environment, with the public keys: a pod cannot mount objects of the operator's namespace."""
    if snapshot.model.trust != "signed":
        return {}
    return {"env": [{"name": "MLMODEL_SIGNING_KEYS_PEM", "value": literal(signing_keys)}]}


def _scheme(snapshot: Snapshot) -> str:
    return urlsplit(snapshot.model.uri).scheme


def _downloads(snapshot: Snapshot) -> bool:
    """Whether an init container downloads the model, which may require credentials."""
    return _scheme(snapshot) in ("https", "s3", "gs", "az")


def _volumes(snapshot: Snapshot) -> tuple[list[Body], list[Body]]:
    """Return the volumes, and the mounts of the server: of the model and of the keys, not of the credentials."""
    volumes: list[Body] = []
    mounts: list[Body] = []

    def mount(path: str, volume: Body, **options: str) -> None:
        volumes.append(volume)
        mounts.append({"name": volume["name"], "mountPath": path, "readOnly": True, **options})

    parts = urlsplit(snapshot.model.uri)
    if parts.scheme == "configmap":
        mount(MODEL_PATH, {"name": "model", "configMap": {"name": parts.netloc}})
    elif parts.scheme == "pvc":
        path = parts.path.strip("/")
        # The claim is read-only, not only the mount: otherwise kubelet would create a missing subPath in it. No
        # fsGroup: it would change the group of the user's files.
        claim = {"claimName": parts.netloc, "readOnly": True}
        mount(MODEL_PATH, {"name": "model", "persistentVolumeClaim": claim}, **({"subPath": path} if path else {}))
    elif parts.scheme == "oci":
        # The node pulls the image with its own credentials or those of the service account. The digest of the image or
        # of the model identifies the content, so an image that is already on the node is not pulled again.
        reference = snapshot.model.uri.removeprefix("oci://")
        mount(MODEL_PATH, {"name": "model", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}})
    if _downloads(snapshot):
        mount(MODEL_PATH, {"name": "model", "emptyDir": {"sizeLimit": FETCHED_SIZE}})
        volumes.append({"name": "storage", "secret": {"secretName": STORAGE_SECRET, "optional": True}})
    # Not optional: without the Secret the pods do not start, instead of serving the model to anyone. Only one entry is
    # mounted, not the rest of the Secret.
    if snapshot.api_keys is not None:
        mount(API_KEYS_PATH, {"name": API_KEYS, "secret": _entry(snapshot.api_keys.secret_name, "keys")})
    if snapshot.feedback_key is not None:
        mount(FEEDBACK_KEY_PATH, {"name": FEEDBACK_KEY, "secret": _entry(snapshot.feedback_key.secret_name, "key")})
    return volumes, mounts


def _entry(secret_name: str, key: str) -> Body:
    return {"secretName": secret_name, "items": [{"key": key, "path": key}]}
