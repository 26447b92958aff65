"""MLModel as frozen dataclasses: what a user writes in ``spec``.

Only fields that the operator honours exist here; the CRD is generated from this module (see ``crd.py``), so a field
without effect cannot reach the schema. Names are snake_case here and camelCase on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GROUP = "mlmodel.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "MLModel"
PLURAL = "mlmodels"

ModelFormat = Literal["auto", "skops", "joblib"]
OnNoEvidence = Literal["Hold", "Promote", "RollBack"]


@dataclass(frozen=True)
class ModelSource:
    """What is served. Together with ``serving.resources`` its hash is the revision."""

    uri: str
    version: str = ""
    sha256: str = ""
    format: ModelFormat = "auto"


@dataclass(frozen=True)
class Resources:
    """Kubernetes quantities by resource name (``cpu``, ``memory``), kept as the user wrote them."""

    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Autoscaling:
    """Bounds and target of the HorizontalPodAutoscaler that each revision gets for itself."""

    max_replicas: int
    min_replicas: int = 1
    cpu_percent: int = 80


@dataclass(frozen=True)
class Serving:
    """How much capacity serves the model; ``replicas`` and ``autoscaling`` exclude each other."""

    replicas: int | None = None
    autoscaling: Autoscaling | None = None
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Step:
    """One canary step: the share of requests in percent, and what must be seen there before the next."""

    weight: int
    min_requests: int = 0
    min_seconds: int = 0


@dataclass(frozen=True)
class ErrorGate:
    """Percentage of requests that may fail, in total and beyond what stable fails at the same time."""

    max_percent: float = 1.0


@dataclass(frozen=True)
class Gates:
    """Every gate has a default, so that a rollout is never blind."""

    errors: ErrorGate = field(default_factory=ErrorGate)


@dataclass(frozen=True)
class Rollout:
    """How a new revision takes over."""

    steps: tuple[Step, ...] = (Step(5), Step(25), Step(50))
    gates: Gates = field(default_factory=Gates)
    bake_seconds: int = 60
    preparing_deadline_seconds: int = 300
    on_no_evidence: OnNoEvidence = "Hold"
    max_seconds: int = 3600
    retry: str = ""
    paused: bool = False


@dataclass(frozen=True)
class RouterSpec:
    """The HAProxy router in front of the revisions."""

    replicas: int = 1


@dataclass(frozen=True)
class Traffic:
    """How requests reach the revisions."""

    router: RouterSpec = field(default_factory=RouterSpec)


@dataclass(frozen=True)
class Spec:
    """The whole ``spec`` of an MLModel; only ``model.uri`` is required."""

    model: ModelSource
    serving: Serving = field(default_factory=Serving)
    rollout: Rollout = field(default_factory=Rollout)
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True)
class Revision:
    """One version of a model as it runs: what is served, with what, by which server image.

    The image is part of the snapshot and not of the identity: an upgrade of the operator brings a newer server image to
    the next revision, and restarts no pod of the present one.
    """

    id: str
    model: ModelSource
    resources: Resources
    image: str

    @property
    def label(self) -> str:
        """The version as people see it: the given one, else the head of the digest, else of the revision."""
        return self.model.version or self.model.sha256[:7] or self.id[:7]


@dataclass(frozen=True)
class Owner:
    """The MLModel that owns a child: its name, namespace and UID."""

    name: str
    namespace: str
    uid: str


@dataclass(frozen=True)
class MLModel:
    """One MLModel as read from the API server."""

    owner: Owner
    generation: int
    spec: Spec
