"""Records: ControllerRevisions with what a lost status cannot be rebuilt from otherwise.

Only the operator writes them: the roles `edit` and `admin` of Kubernetes give no write on ControllerRevisions, and
their data is immutable. A StatefulSet or DaemonSet of a tenant leaves ControllerRevisions too, even with our labels;
their data has the one key `spec`, so it is never taken for a record.

The content is one string of JSON in printable ASCII: messages of pods contain characters that YAML does not permit.

There are two kinds. `Deployment`: the intent that one Deployment was built from, and of a revision its snapshot; the
name ends with the hash of both, so another intent is another record. `Decisions`: which revision is known to be good,
and how rollouts ended; of several the one with the highest `revision` counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlmodel_operator.api.codec import DecodeError, decode, encode
from mlmodel_operator.api.types import Owner, Revision, Snapshot
from mlmodel_operator.names import (
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    NAME_LABEL,
    OPERATOR,
    PART_OF_LABEL,
    PROJECT,
    RECORD_LABEL,
    REVISION_LABEL,
    SNAPSHOT_ANNOTATION,
)
from mlmodel_operator.resources.common import Body, owner_references
from mlmodel_operator.rollout.recovery import Decisions, Known

DEPLOYMENT = "Deployment"
DECISIONS = "Decisions"
_KEY = "mlmodelRecord"
"""Key of the data that no other controller writes; its value is the content."""


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
    content: Body = {"kind": DEPLOYMENT, "name": meta["name"]}
    if revision is not None:
        content |= {"revision": revision.id, "version": revision.label, "snapshot": encode(revision.snapshot)}
    if exact:
        content["deployment"] = {
            "metadata": {key: meta[key] for key in ("labels", "annotations") if key in meta},
            "spec": {key: value for key, value in spec.items() if key != "replicas"},
        }
    record = _record(owner, meta["name"], DEPLOYMENT, revision.id if revision else "", content, 1)
    if revision is not None:
        record["metadata"]["annotations"] = {SNAPSHOT_ANNOTATION: snapshot_digest(revision.snapshot)}
    return record


def restored(owner: Owner, name: str, recorded: Body) -> Body:
    """Return the intent of a Deployment from its record, as it was applied."""
    place = {"name": name, "namespace": owner.namespace, "ownerReferences": owner_references(owner)}
    meta = {**recorded["metadata"], **place}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": recorded["spec"]}


def decisions_record(owner: Owner, decisions: Decisions, number: int) -> Body:
    """Return the record of decisions; ``number`` must be higher than that of the record before."""
    content = {"kind": DECISIONS, **encode(decisions)}
    return _record(owner, f"{owner.name}-decisions", DECISIONS, decisions.stable, content, number)


def read_records(bodies: Iterable[Body]) -> Recorded:
    """Return the content of records; a ControllerRevision that is none is left out."""
    decisions: list[Decisions] = []
    snapshots: dict[str, tuple[Snapshot, ...]] = {}
    deployments: dict[str, tuple[Body, ...]] = {}
    for body in sorted(bodies, key=number_of):
        content = _content(body)
        if content is None:
            continue
        try:
            if content["kind"] == DECISIONS:
                decisions.append(decode(Decisions, content))
            elif "snapshot" in content:
                revision = str(content["revision"])
                snapshots[revision] = (*snapshots.get(revision, ()), decode(Snapshot, content["snapshot"]))
        except (DecodeError, KeyError):
            # A newer release wrote it, and this one reads the rest.
            continue
        if "deployment" in content:
            name = content["name"]
            deployments[name] = (*deployments.get(name, ()), content["deployment"])
    newest = decisions.pop() if decisions else Decisions()
    last = {revision: found[-1] for revision, found in snapshots.items()}
    return Recorded(Known(newest, last, tuple(decisions), snapshots), deployments)


def is_record(body: Body) -> bool:
    """Whether the operator wrote this ControllerRevision; another controller never writes this key."""
    return _content(body) is not None


def number_of(record: Body) -> int:
    """Return the number of a record."""
    return int(record.get("revision") or 0)


def snapshot_digest(snapshot: Snapshot) -> str:
    """Return the digest of a snapshot, image included."""
    return hashlib.sha256(json.dumps(encode(snapshot), sort_keys=True).encode()).hexdigest()


def _content(body: Body) -> Body | None:
    """Return the content of a record; None if the ControllerRevision is none."""
    data = body.get("data")
    if not isinstance(data, dict) or set(data) != {_KEY}:
        return None
    try:
        content = json.loads(data[_KEY])
    except (TypeError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("kind") in (DEPLOYMENT, DECISIONS) else None


def _record(owner: Owner, prefix: str, kind: str, revision: str, content: Body, number: int) -> Body:
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).replace("\x7f", "\\u007f")
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
        "data": {_KEY: text},
        "revision": number,
    }
