"""The identity of a version: a digest over what its pods are started with, in our own canonical form."""

from __future__ import annotations

import hashlib
import json

from mlmodel_operator.api.codec import encode
from mlmodel_operator.api.types import Batching, ModelSource, Revision, Snapshot, Spec


def revision_id(snapshot: Snapshot) -> str:
    """The first 8 hexadecimal digits of SHA-256 over the snapshot without its image.

    Replicas, autoscaling, steps and gates are no part of it: they change how much or how, not what runs. What changes
    a pod is, even where no answer changes (resources, batching, API keys): it comes with new pods only, and new pods
    are worth a trial. Defaults and absent fields give the same text, so spelling a default out starts no rollout.
    """
    model = encode(snapshot.model)
    # A field that is younger than the first release is left out while it has its default: else the release that brings
    # it would roll out every model.
    if snapshot.model.trust == ModelSource.trust:
        del model["trust"]
    canonical = {"model": model, "resources": encode(snapshot.resources)}
    if snapshot.batching != Batching():
        canonical["batching"] = encode(snapshot.batching)
    if snapshot.api_keys is not None:
        canonical["apiKeys"] = encode(snapshot.api_keys)
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:8]


def desired_revision(spec: Spec, image: str) -> Revision:
    """The revision that the spec asks for, to be served by ``image``."""
    serving = spec.serving
    snapshot = Snapshot(spec.model, image, serving.resources, serving.batching, serving.api_keys)
    return Revision(revision_id(snapshot), snapshot)
