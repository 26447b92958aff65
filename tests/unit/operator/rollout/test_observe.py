"""What is read from objects as clusters really have them, and from counters as processes really count."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.api.status import Cursor, Evidence, Tally
from mlmodel_operator.observe import read_pod, replica_failure
from mlmodel_operator.rollout.evidence.gather import gather
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState, Router
from mlmodel_operator.rollout.signals import hard_signal

NOW = 1_800_000_100.0
SIDECAR = {
    "name": "istio-proxy",
    "restartCount": 1,
    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
}
REFUSED = {"name": "server", "restartCount": 1, "state": {"terminated": {"exitCode": 3, "message": "digest differs"}}}


def pod(*containers: dict[str, Any], **metadata: Any) -> Pod:
    body = {
        "metadata": {"name": "p", "creationTimestamp": "2027-01-15T08:00:00Z", **metadata},
        "status": {"containerStatuses": list(containers)},
    }
    return read_pod(body, None)


def test_only_the_servers_own_container_speaks_for_the_model() -> None:
    signal = hard_signal([pod(SIDECAR, REFUSED)], NOW)
    assert signal is not None
    assert (signal.reason, signal.message) == ("ModelRejected", "digest differs")
    assert hard_signal([pod(SIDECAR, {"name": "server", "restartCount": 0})], NOW) is None


def test_a_pod_on_its_way_out_says_nothing_of_the_version() -> None:
    assert hard_signal([pod(REFUSED, deletionTimestamp="2027-01-15T08:01:00Z")], NOW) is None


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"status": {}}, {"metadata": {"name": "p"}, "status": None}])
def test_fields_that_are_not_there_yet_are_no_error(body: dict[str, Any]) -> None:
    assert not read_pod(body, None).ready
    assert replica_failure(body) == ""


def evidence(candidate: Cursor | None, failed: int, *, stable: Cursor, before: Evidence, asked: int = 1000) -> Evidence:
    """One look: counters of one pod each, and a router that gave the candidate ``asked`` and saw ``failed``."""
    observed = Observed(
        {
            "c": RevisionState((Pod("c-1", NOW, ready=True, counts=candidate),)),
            "s": RevisionState((Pod("s-1", NOW, ready=True, counts=stable),)),
        },
        (Router("r", NOW, "id", {"b": (asked, failed), "a": (1000, 0)}),),
    )
    return gather(before, observed, candidate=("c", "b"), stable=("s", "a"), began=NOW, max_percent=1.0)


def test_failures_of_a_pod_that_could_not_be_read_wait_for_their_requests() -> None:
    first = evidence(Cursor(100), 0, stable=Cursor(1000), before=Evidence(), asked=100)
    unread = evidence(None, 2, stable=Cursor(1000), before=first)
    assert unread.candidate == first.candidate
    read = evidence(Cursor(1000, 0, 2), 2, stable=Cursor(1000), before=unread)
    assert read.candidate == Tally(1000, 0, 2)
    assert read.against < 1000


def test_failures_of_a_dead_pod_count_though_nobody_can_read_it() -> None:
    first = evidence(Cursor(100), 0, stable=Cursor(1000), before=Evidence(), asked=100)
    dead = evidence(None, 10, stable=Cursor(1000), before=first, asked=110)
    assert dead.candidate == Tally(110, 0, 10)
    assert dead.against >= 1000


def test_counters_of_a_restarted_container_start_from_zero() -> None:
    first = evidence(Cursor(100, 5, 0), 0, stable=Cursor(200, 10, 0), before=Evidence(), asked=100)
    after = evidence(Cursor(110, 5, 0), 0, stable=Cursor(205, 0, 0), before=first, asked=110)
    assert after.stable == Tally(405, 10, 0)
    assert after.candidate == Tally(110, 5, 0)
