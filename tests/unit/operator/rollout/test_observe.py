"""Objects as clusters have them, and counters as processes count, become the input of a decision."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.api.evidence import Counts, Evidence
from mlmodel_operator.observe import read_pod, read_revisions, replica_failure
from mlmodel_operator.rollout.evidence.gather import Side, gather
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState, Router
from mlmodel_operator.rollout.pod_failures import pod_failure

NOW = 1_800_000_100.0
SIDECAR = {
    "name": "istio-proxy",
    "restartCount": 1,
    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
}
REJECTED = {"name": "server", "restartCount": 1, "state": {"terminated": {"exitCode": 3, "message": "digest differs"}}}


def pod(*containers: dict[str, Any], **metadata: Any) -> Pod:
    body = {
        "metadata": {"name": "p", "creationTimestamp": "2027-01-15T08:00:00Z", **metadata},
        "status": {"containerStatuses": list(containers)},
    }
    return read_pod(body, None)


def test_only_the_server_container_can_fail_the_model() -> None:
    failure = pod_failure([pod(SIDECAR, REJECTED)], NOW)
    assert failure is not None
    assert (failure.reason, failure.message) == ("ModelRejected", "digest differs")
    assert pod_failure([pod(SIDECAR, {"name": "server", "restartCount": 0})], NOW) is None


def test_a_terminating_pod_does_not_fail_its_version() -> None:
    assert pod_failure([pod(REJECTED, deletionTimestamp="2027-01-15T08:01:00Z")], NOW) is None


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"status": {}}, {"metadata": {"name": "p"}, "status": None}])
def test_absent_fields_are_not_an_error(body: dict[str, Any]) -> None:
    assert not read_pod(body, None).ready
    assert replica_failure(body) == ""


@pytest.mark.parametrize(
    ("args", "digest"),
    [
        (["--uri", "configmap://x", "--files-sha256", "9f2c" * 16, "--port", "8080"], "9f2c" * 16),
        (["--files-sha256", "9f2c"], ""),
        (["--files-sha256"], ""),
        (["--uri", "configmap://x"], ""),
        (None, ""),
    ],
)
def test_the_digest_that_a_deployment_requires_is_read_from_its_arguments(args: list[str] | None, digest: str) -> None:
    containers = [{"name": "mesh", "args": ["--files-sha256", "1" * 64]}, {"name": "server", "args": args}]
    meta = {"labels": {"mlmodel.dev/revision": "c"}}
    body = {"metadata": meta, "spec": {"template": {"spec": {"containers": containers}}}}
    state = read_revisions([body], [], [])["c"]
    assert (state.deployed, state.files_sha256) == (True, digest)
    assert not read_revisions([], [{"metadata": meta}], [])["c"].deployed, "only its Service exists"


def evidence(candidate: Counts | None, failed: int, *, stable: Counts, before: Evidence, sent: int = 1000) -> Evidence:
    """Return the evidence after a reading: one pod on each side, and a router that sent the candidate ``sent`` requests
    of which ``failed`` failed."""
    observed = Observed(
        {
            "c": RevisionState((Pod("c-1", NOW, ready=True, counts=candidate),)),
            "s": RevisionState((Pod("s-1", NOW, ready=True, counts=stable),)),
        },
        (Router("r", NOW, "id", {"b": Counts(sent, failed=failed), "a": Counts(1000)}),),
    )
    return gather(before, observed, candidate=Side("c", "b"), stable=Side("s", "a"), started_at=NOW, max_percent=1.0)


def test_failures_of_a_pod_that_could_not_be_read_count_with_its_requests() -> None:
    first = evidence(Counts(100), 0, stable=Counts(1000), before=Evidence(), sent=100)
    unread = evidence(None, 2, stable=Counts(1000), before=first)
    assert unread.candidate == first.candidate
    read = evidence(Counts(1000, 0, 2), 2, stable=Counts(1000), before=unread)
    assert read.candidate == Counts(1000, 0, 2)
    assert read.against < 1000


def test_failures_of_a_dead_pod_count_although_it_cannot_be_read() -> None:
    first = evidence(Counts(100), 0, stable=Counts(1000), before=Evidence(), sent=100)
    dead = evidence(None, 10, stable=Counts(1000), before=first, sent=110)
    assert dead.candidate == Counts(110, 0, 10)
    assert dead.against >= 1000


def test_counters_of_a_restarted_container_start_from_zero() -> None:
    first = evidence(Counts(100, 5, 0), 0, stable=Counts(200, 10, 0), before=Evidence(), sent=100)
    after = evidence(Counts(110, 5, 0), 0, stable=Counts(205, 0, 0), before=first, sent=110)
    assert after.stable == Counts(405, 10, 0)
    assert after.candidate == Counts(110, 5, 0)
