"""Objects as clusters have them, and counts as routers have them, become the input of a decision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlmodel_operator.api.evidence import Counts, Evidence, Sides
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.api.types import ModelSource, Snapshot
from mlmodel_operator.observe import read_pod, read_revisions, replica_failure
from mlmodel_operator.rollout.evidence.gather import (
    first_evidence,
    gather,
    must_write,
    observed_percent,
    step_requests,
)
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
    return read_pod(body)


def test_only_the_server_container_can_fail_the_model() -> None:
    failure = pod_failure([pod(SIDECAR, REJECTED)], NOW)
    assert failure is not None
    assert (failure.reason, failure.message) == ("ModelRejected", "digest differs")
    assert pod_failure([pod(SIDECAR, {"name": "server", "restartCount": 0})], NOW) is None


def test_a_terminating_pod_does_not_fail_its_version() -> None:
    assert pod_failure([pod(REJECTED, deletionTimestamp="2027-01-15T08:01:00Z")], NOW) is None


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"status": {}}, {"metadata": {"name": "p"}, "status": None}])
def test_absent_fields_are_not_an_error(body: dict[str, Any]) -> None:
    assert not read_pod(body).ready
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


CANDIDATE = Candidate(
    "v2", "c", "Canary", Snapshot(ModelSource("builtin://x"), "i"), Time(NOW), Time(NOW), slot="b", weight=5
)


def page(
    requests: int, failed: int = 0, *, boot: str = "b1", candidate: str = "c", weight: int = 5, name: str = "r"
) -> Router:
    """Return a router that has counted so many requests to the candidate at one weight, and twenty times as many to
    stable."""
    sides = Sides(Counts(requests, failed), Counts(20 * requests))
    return Router(name, "id", boot, candidate, 12, {weight: sides}, {"large": requests})


def read(
    before: Evidence, *routers: Router, pods: tuple[Pod, ...] = (Pod("p", NOW, ready=True),), at: float
) -> Evidence:
    """Return the evidence after one reading, as it is written to status."""
    observed = Observed({"c": RevisionState(pods)}, routers)
    found = gather(before, observed, CANDIDATE, now=NOW + at, max_percent=1.0)
    return replace(found, at=Time(NOW + at))


def first(*routers: Router) -> Evidence:
    """Return the evidence at the start of the canary."""
    observed = Observed({"c": RevisionState((Pod("p", NOW, ready=True),))}, routers)
    return replace(first_evidence(observed, CANDIDATE, NOW), at=Time(NOW))


def test_a_router_counts_once_whether_it_answers_disappears_or_comes_back() -> None:
    found = read(first(page(0)), page(10), at=1)
    assert (found.candidate, found.stable) == (Counts(10), Counts(200))
    found = read(found, Router("r"), at=2)  # ready, but its page could not be read
    found = read(found, at=3)  # not ready
    found = read(found, page(12), at=4)
    assert (found.candidate.requests, found.stable.requests) == (12, 240)
    assert found.state.uncounted == {"large": 12}


def test_another_boot_or_another_router_counts_from_zero() -> None:
    found = read(first(page(0)), page(10), at=1)
    found = read(found, page(7, boot="b2"), page(5, name="r2"), at=2)
    assert found.candidate.requests == 10 + 7 + 5


def test_what_was_counted_before_the_canary_is_no_evidence() -> None:
    assert read(first(page(100, 100)), page(103, 100), at=1).candidate == Counts(3)


def test_a_router_with_older_routes_counts_by_its_own_weight_and_one_with_another_candidate_does_not() -> None:
    found = read(first(), page(10, weight=5), page(50, weight=25, name="r2"), page(9, candidate="x", name="r3"), at=1)
    assert {segment.weight: segment.counts.candidate.requests for segment in found.state.segments} == {5: 10, 25: 50}
    assert found.candidate.requests == 60
    assert (observed_percent(found, 25), step_requests(found, 25)) == (4.8, 50)
    assert (observed_percent(found, 50), step_requests(found, 50)) == (None, 0)


def test_nothing_counts_while_a_pod_is_replaced_and_everything_after_it() -> None:
    up, new = Pod("p", NOW, ready=True), Pod("q", NOW + 2, ready=True)
    before = found = read(first(page(0)), page(10), at=1)
    terminating = replace(up, terminating=True)
    found = read(found, page(20, 10), pods=(terminating, new), at=2)
    assert found.candidate == Counts(10)
    found = read(found, page(30, 10), pods=(terminating, new), at=10)
    found = read(found, page(40, 12), pods=(new,), at=12)  # it has gone: its Service may still point to it
    found = read(found, page(50, 14), pods=(new,), at=14.9)
    found = read(found, page(60, 15), pods=(new,), at=15)  # with requests from before the end
    assert (found.candidate, found.stable, found.against) == (Counts(10), Counts(200), before.against)
    assert read(found, page(62, 17), pods=(new,), at=16).candidate == Counts(12, 2)


def test_a_pod_that_was_deleted_by_force_is_replaced_too() -> None:
    found = read(first(page(0)), page(10), at=1)
    found = read(found, page(20, 10), pods=(), at=2)
    assert found.candidate == Counts(10)


def test_a_pod_that_terminates_for_hours_stops_no_evidence() -> None:
    stuck, new = Pod("p", NOW, terminating=True), Pod("q", NOW, ready=True)
    found = read(first(page(0)), page(10), pods=(stuck, new), at=1)
    found = read(found, page(20), pods=(stuck, new), at=62)
    assert found.candidate == Counts()
    assert read(found, page(30), pods=(stuck, new), at=63).candidate == Counts(10)


def test_a_container_that_restarts_in_place_is_no_replacement() -> None:
    found = read(first(page(0)), page(10), at=1)
    found = read(found, page(14, 4), pods=(Pod("p", NOW, restarts=1, exit_code=1),), at=2)
    assert found.candidate == Counts(14, 4)
    assert found.against >= 1000


def test_the_start_and_the_end_of_a_replacement_are_written_at_once() -> None:
    up, new = Pod("p", NOW, ready=True), Pod("q", NOW + 2, ready=True)
    written = read(first(page(0)), page(10), at=1)
    assert not must_write(written, read(written, page(20), at=2), NOW + 2)
    gone = read(written, page(20), pods=(new,), at=2)
    assert must_write(written, gone, NOW + 2)
    assert not must_write(gone, read(gone, page(30), pods=(new,), at=4), NOW + 4)
    assert must_write(gone, read(gone, page(40), pods=(new,), at=5), NOW + 5)
    assert must_write(written, read(written, page(20), pods=(replace(up, terminating=True),), at=2), NOW + 2)
