"""What one process serves, and how much it takes."""

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
from mlmodel_server.serving.access import ApiKeys, Certificate


@dataclass(frozen=True)
class Limits:
    """How much one request may bring, and how long it may take. Bytes, rows, seconds."""

    max_body: int = 8 << 20
    max_held: int = 128 << 20
    """Of the bodies of all requests at a time."""
    max_rows: int = 100_000
    batch_rows: int = 64
    max_waiting: int = 256
    timeout: float = 10.0
    """For a request that names no deadline of its own; the router gives up at that time as well."""


@dataclass
class Serving:
    """One model and what is said of it. ``draining`` turns true at SIGTERM and stays so."""

    identity: Identity
    model: Model
    platform: str
    example: bytes
    """A v2 request of one row, JSON."""
    recorder: Recorder
    ids: PredictionIds
    feedback: Feedback
    cost: Cost
    limits: Limits = field(default_factory=Limits)
    shadow: Shadow | None = None
    """Gets a copy of some requests."""
    payloads: PayloadLog | None = None
    """Writes some requests down."""
    properties: dict[str, str] = field(default_factory=dict)
    """Further facts for the model's metadata: verdict of the compilation, training metrics."""
    profile: dict[str, Any] = field(default_factory=dict)
    """What the columns looked like at training; see :mod:`mlmodel_server.package.profile`. Empty without a package."""
    grpc: str = ""
    """HOST:PORT to answer gRPC at; empty for not at all."""
    keys: ApiKeys | None = None
    """None: whoever reaches the server may ask."""
    certificate: Certificate | None = None
    """None: plain HTTP."""
    draining: bool = False

    @property
    def name(self) -> str:
        """Of the model."""
        return self.identity.model

    @property
    def version(self) -> str:
        """Its label for people."""
        return self.identity.version

    @property
    def revision(self) -> str:
        """What the operator calls this very version."""
        return self.identity.revision
