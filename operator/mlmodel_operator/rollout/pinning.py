"""A model without a digest in the spec, in a ConfigMap: its pods serve the files that the revision started with.

Anyone who may edit the ConfigMap could otherwise change the model of a pod that starts later, without a rollout.
"""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.rollout.observed import Observed


def config_map_to_pin(status: Status, observed: Observed) -> str | None:
    """Return the name of the ConfigMap to read for ``Observed.files_sha256``, or None."""
    candidate = status.candidate
    if candidate is None or not awaits_files(candidate, observed):
        return None
    return candidate.snapshot.unpinned_config_map


def awaits_files(candidate: Candidate, observed: Observed) -> bool:
    """Whether the candidate gets no Deployment yet, because the digest of its ConfigMap is not known."""
    snapshot = candidate.snapshot
    return (
        candidate.phase == "Preparing"
        and bool(snapshot.unpinned_config_map)
        and not snapshot.files_sha256
        and not observed.revision(candidate.revision).deployed
    )


def pinned(candidate: Candidate, observed: Observed) -> Candidate:
    """Return the candidate with the digest of its ConfigMap, if that is known now.

    Without one, a Deployment that exists decides: an operator that is killed leaves one that is not in status, and a
    revision that drains keeps its own when it is desired again.
    """
    if candidate.snapshot.files_sha256:
        return candidate
    running = observed.revision(candidate.revision)
    if running.deployed:
        files_sha256 = running.files_sha256
    elif awaits_files(candidate, observed):
        files_sha256 = observed.files_sha256
    else:
        return candidate
    snapshot = replace(candidate.snapshot, files_sha256=files_sha256)
    return replace(candidate, snapshot=snapshot, digest=snapshot.digest)
