"""The identity of a version: a digest over what changes the answer, in our own canonical form."""

from __future__ import annotations

import hashlib
import json

from .codec import encode
from .types import ModelSource, Resources, Revision, Spec


def revision_id(model: ModelSource, resources: Resources) -> str:
    """The first 8 hexadecimal digits of SHA-256 over ``model`` and ``resources``.

    Replicas, autoscaling, steps and gates are left out: they change how much or how, not what is answered. Defaults and
    absent fields give the same text, so spelling a default out starts no rollout.
    """
    canonical = json.dumps({"model": encode(model), "resources": encode(resources)}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def wanted_revision(spec: Spec, image: str) -> Revision:
    """The revision that the spec asks for, to be served by ``image``."""
    return Revision(revision_id(spec.model, spec.serving.resources), spec.model, spec.serving.resources, image)
