"""Records: ControllerRevisions with what a lost status cannot be rebuilt from otherwise.

Only the operator writes them: the roles `edit` and `admin` of Kubernetes give no write on ControllerRevisions, and
their data is immutable. A StatefulSet or DaemonSet of a tenant leaves ControllerRevisions too, even with our labels;
their data has the one key `spec`, so it is never taken for a record.

There are two kinds. `Deployment`: the intent that one Deployment was built from, and of a revision its snapshot; the
name ends with the hash of both, so another intent is another record. `Decisions`: which revision is known to be good,
and how rollouts ended; of several the one with the highest `revision` counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlmodel_operator.api.codec import DecodeError, decode, encode
from mlmodel_operator.api.types import Owner, Revision, Snapshot
from mlmodel_operator.names import (
    ADOPTED_LABEL,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    NAME_LABEL,
    OPERATOR,
    PART_OF_LABEL,
    PROJECT,
    RECORD_LABEL,
    REVISION_LABEL,
)
from mlmodel_operator.resources.common import Body, owner_references
from mlmodel_operator.rollout.recovery import Decisions, Known

DEPLOYMENT = "Deployment"
DECISIONS = "Decisions"
_KIND_KEY = "mlmodelRecord"
"""Key of the data that no other controller writes."""


@dataclass(frozen=True)
class Recorded:
    """The content of the records of one model."""

    known: Known = field(default_factory=Known)
    deployments: Mapping[str, tuple[Body, ...]] = field(default_factory=dict)
    """By name: the intents that the Deployment may have been built from, without namespace, owner and replicas."""


def deployment_record(owner: Owner, deployment: Body, revision: Revision | None = None, *, exact: bool = True) -> Body:
    """Return the record of a Deployment before it is written; with ``revision`` that of a revision.

    ``exact`` is false for a Deployment that another release of the operator built: its intent is not known.
    """
    meta, spec = deployment["metadata"], deployment["spec"]
    data: Body = {_KIND_KEY: DEPLOYMENT, "name": meta["name"]}
    if revision is not None:
        data |= {"revision": revision.id, "version": revision.label, "snapshot": encode(revision.snapshot)}
    if exact:
        data["deployment"] = {
            "metadata": {key: meta[key] for key in ("labels", "annotations") if key in meta},
            "spec": {key: value for key, value in spec.items() if key != "replicas"},
        }
    return _record(owner, meta["name"], DEPLOYMENT, revision.id if revision else "", data, 1)


def decisions_record(owner: Owner, decisions: Decisions, number: int) -> Body:
    """Return the record of decisions; ``number`` must be higher than that of the record before."""
    data = {_KIND_KEY: DECISIONS, **encode(decisions)}
    return _record(owner, f"{owner.name}-decisions", DECISIONS, decisions.stable, data, number)


def read_records(bodies: Iterable[Body]) -> Recorded:
    """Return the content of records; a ControllerRevision that is none is left out."""
    decisions, snapshots = Decisions(), {}
    deployments: dict[str, tuple[Body, ...]] = {}
    for body in sorted(bodies, key=number_of):
        if not is_record(body):
            continue
        data = body["data"]
        try:
            if data[_KIND_KEY] == DECISIONS:
                decisions = decode(Decisions, data)
            elif "snapshot" in data:
                snapshots[str(data["revision"])] = decode(Snapshot, data["snapshot"])
        except DecodeError:
            # A newer release wrote it, and this one reads the rest.
            continue
        if "deployment" in data:
            deployments[data["name"]] = (*deployments.get(data["name"], ()), data["deployment"])
    return Recorded(Known(decisions, snapshots), deployments)


def is_record(body: Body) -> bool:
    """Whether the operator wrote this ControllerRevision; another controller never writes this key."""
    data = body.get("data")
    return isinstance(data, dict) and data.get(_KIND_KEY) in (DEPLOYMENT, DECISIONS)


def number_of(record: Body) -> int:
    """Return the number of a record."""
    return int(record.get("revision") or 0)


def slim(record: Body) -> Body:
    """Return a record without its data: a cluster with 10,000 models has 30,000 records, which are read only after a
    loss."""
    meta = record.get("metadata") or {}
    kept = ("namespace", "name", "uid", "resourceVersion", "deletionTimestamp")
    labels = meta.get("labels") or {}
    owners = [
        {key: owner.get(key) for key in ("kind", "name", "uid", "controller")}
        for owner in meta.get("ownerReferences") or []
    ]
    return {
        "metadata": {
            **{key: meta[key] for key in kept if key in meta},
            "labels": {
                key: labels[key] for key in (MODEL_LABEL, RECORD_LABEL, REVISION_LABEL, ADOPTED_LABEL) if key in labels
            },
            "ownerReferences": owners,
        },
        "revision": number_of(record),
    }


def _record(owner: Owner, prefix: str, kind: str, revision: str, data: dict[str, Any], number: int) -> Body:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    labels = {
        MANAGED_BY_LABEL: OPERATOR,
        PART_OF_LABEL: PROJECT,
        NAME_LABEL: owner.name,
        MODEL_LABEL: owner.name,
        RECORD_LABEL: kind,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:10]}",
            "namespace": owner.namespace,
            "labels": labels | ({REVISION_LABEL: revision} if revision else {}),
            "ownerReferences": owner_references(owner),
        },
        "data": data,
        "revision": number,
    }
