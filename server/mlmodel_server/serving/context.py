"""The served model with its metadata and limits, shared by all transports of a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlmodel_server.engine.cost import Cost
from mlmodel_server.engine.model import Model
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.feedback import Feedback
from mlmodel_server.observe.ids import PredictionIds
from mlmodel_server.observe.metrics import Recorder
from mlmodel_server.observe.payloads import PayloadLog
from mlmodel_server.observe.shadow import Shadow
from mlmodel_server.rehearsal.sample import Sample
from mlmodel_server.rehearsal.target import TargetFile
from mlmodel_server.serving.access import ApiKeys, Certificate, Hosts


@dataclass(frozen=True)
class Limits:
    """Limits of requests, in bytes, rows, requests and seconds."""

    max_body: int = 8 << 20
    max_body_total: int = 128 << 20
    """Bytes of the bodies that arrive, of decoded requests, and of responses that are not read, in one worker."""
    max_connections: int = 2048
    """HTTP connections of one worker."""
    max_rows: int = 100_000
    batch_rows: int = 64
    max_waiting: int = 256
    timeout: float = 10.0
    """Deadline of a request without its own; the router has the same timeout."""


@dataclass
class Serving:
    """One model and its metadata. ``draining`` is true from SIGTERM on."""

    identity: Identity
    model: Model
    platform: str
    example: bytes
    """A v2 request of one row, as JSON."""
    recorder: Recorder
    ids: PredictionIds
    feedback: Feedback
    cost: Cost
    limits: Limits = field(default_factory=Limits)
    shadow: Shadow | None = None
    """Copies some requests to another version."""
    payloads: PayloadLog | None = None
    """Logs some requests and responses."""
    sample: Sample | None = None
    """Keeps some requests in memory, for rehearsals."""
    rehearsal: TargetFile | None = None
    """The candidate of a rehearsal. None: the server answers no copies."""
    properties: dict[str, str] = field(default_factory=dict)
    """Further properties in the model's metadata: digest, verdict of compilation, training metrics."""
    profile: dict[str, Any] = field(default_factory=dict)
    """Profile of the columns at training; see :mod:`mlmodel_server.package.profile`. Empty without a package."""
    grpc: str = ""
    """HOST:PORT for gRPC; empty turns gRPC off."""
    keys: ApiKeys | None = None
    """None: the server requires no API key."""
    hosts: Hosts | None = None
    """None: clients may use any name of the server, as in a pod."""
    certificate: Certificate | None = None
    """None: plain HTTP."""
    draining: bool = False

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.identity.model

    @property
    def version(self) -> str:
        """Human-readable label of the version."""
        return self.identity.version

    @property
    def revision(self) -> str:
        """The operator's name for the revision."""
        return self.identity.revision
