"""The identity of a revision: a digest of what its pods are started with, in a canonical form."""

from __future__ import annotations

import hashlib
import json

from mlmodel_operator.api.codec import encode
from mlmodel_operator.api.types import Batching, ModelSource, Revision, Snapshot, Spec


def revision_id(snapshot: Snapshot) -> str:
    """Return the first 8 hexadecimal digits of the SHA-256 of the snapshot, without its image and ``files_sha256``.

    Replicas, autoscaling, steps and gates are not part of it: they change no pod. Resources, batching and Secrets are,
    although they change no prediction: a change requires new pods, and new pods can fail. Defaults and absent fields
    give the same text, so a default that is written out starts no rollout.
    """
    model = encode(snapshot.model)
    # A field that is newer than the first release is left out while it has its default: otherwise the release that
    # adds it would roll out every model.
    if snapshot.model.trust == ModelSource.trust:
        del model["trust"]
    canonical = {"model": model, "resources": encode(snapshot.resources)}
    if snapshot.batching != Batching():
        canonical["batching"] = encode(snapshot.batching)
    if snapshot.api_keys is not None:
        canonical["apiKeys"] = encode(snapshot.api_keys)
    if snapshot.feedback_key is not None:
        canonical["feedbackKey"] = encode(snapshot.feedback_key)
    if snapshot.refresh:
        canonical["refresh"] = snapshot.refresh
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:8]


def desired_revision(spec: Spec, image: str) -> Revision:
    """Return the revision that the spec asks for; ``image`` is the image of its model server."""
    serving = spec.serving
    snapshot = Snapshot(
        spec.model,
        image,
        serving.resources,
        serving.batching,
        serving.api_keys,
        serving.refresh,
        feedback_key=serving.feedback_key,
    )
    return Revision(revision_id(snapshot), snapshot)
