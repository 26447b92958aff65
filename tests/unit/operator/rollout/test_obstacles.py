"""What keeps any child from what is desired, and what the conditions and Events say about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Stable, Status
from mlmodel_operator.api.types import (
    ApiKeys,
    Autoscaling,
    FeedbackKey,
    MLModel,
    ModelSource,
    Serving,
    Snapshot,
    Spec,
    Tls,
    Traffic,
)
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState, Router
from mlmodel_operator.rollout.obstacles import (
    BEHIND_SECONDS,
    CONFIG_MAP_SECONDS,
    MOUNT_SECONDS,
    SILENT_SECONDS,
    find_obstacle,
    needs_config_map,
    next_look,
    obstacle_of_candidate,
    routers_behind,
)
from mlmodel_operator.rollout.pod_failures import FIRST_FAILURE_SECONDS
from tests.unit.operator.rollout.world import OWNER

NOW = 1_800_000_000.0
SOURCE = ModelSource("configmap://fraud-v2", version="v2")
MODEL = MLModel(OWNER, 1, Spec(SOURCE))
MOUNTING = Pod("p", NOW - CONFIG_MAP_SECONDS, waiting="ContainerCreating")
READY = RevisionState((Pod("s", NOW, ready=True),), replicas=1)
QUOTA = "exceeded quota: team"


def status(uri: str = SOURCE.uri, keys: ApiKeys | None = None) -> Status:
    snapshot = Snapshot(ModelSource(uri), "image", api_keys=keys)
    return Status(candidate=Candidate("v2", "c", "Preparing", snapshot, Time(NOW), Time(NOW)))


def both(replicas: int = 1, **of_candidate: Any) -> Status:
    """Return a status with stable v1 and candidate v2."""
    snapshot = Snapshot(ModelSource("builtin://iris"), "image")
    candidate = Candidate("v2", "c", "Preparing", snapshot, Time(NOW), Time(NOW), replicas=replicas, **of_candidate)
    return Status(stable=Stable("v1", "s", "a", snapshot, replicas=replicas), candidate=candidate)


def observed(*pods: Pod, failure: str = "", refusal: str = "", missing: str = "") -> Observed:
    state = RevisionState(pods, replica_failure=failure)
    return Observed({"c": state}, refusal=refusal, missing_config_map=missing)


def found(state: Status, current: Observed, now: float = NOW) -> tuple[str, bool, str]:
    """Return the reason of the obstacle, whether it stalls, and its message; empty without one."""
    obstacle = find_obstacle(MODEL, state, current, now)
    return (obstacle.reason, obstacle.stalls, obstacle.message) if obstacle else ("", False, "")


def test_a_missing_config_map_is_named_with_what_to_type() -> None:
    message = obstacle_of_candidate(MODEL, status(), observed(MOUNTING, missing="fraud-v2"), NOW)
    assert message.startswith("ConfigMap fraud-v2 not found in namespace default: apply it (`mlmodel package PACKAGE")
    assert obstacle_of_candidate(MODEL, status(), observed(MOUNTING), NOW) == ""
    assert found(status(), observed(MOUNTING, missing="fraud-v2"))[:2] == ("ConfigMapMissing", True)


@pytest.mark.parametrize(
    ("state", "current", "name"),
    [
        (status(), observed(MOUNTING), ("fraud-v2", ("p",))),
        (Status(), observed(MOUNTING), None),
        (status("s3://bucket/key"), observed(MOUNTING), None),
        (status(), observed(), None),
        (status(), observed(replace(MOUNTING, created=NOW - 1)), None),
        (status(), observed(replace(MOUNTING, terminating=True)), None),
        (status(), observed(Pod("p", NOW - 60, waiting="ErrImagePull")), None),
        (status(), observed(MOUNTING, Pod("q", NOW, ready=True)), None),
        (status(), observed(MOUNTING, failure="quota"), None),
        (status(), observed(MOUNTING, refusal="rejected"), None),
    ],
)
def test_a_config_map_is_read_only_when_it_could_be_the_obstacle(
    state: Status, current: Observed, name: tuple[str, tuple[str, ...]] | None
) -> None:
    assert needs_config_map(state, current, NOW) == name


def test_a_secret_is_suspected_after_the_time_for_mounts() -> None:
    keys = status("builtin://iris", ApiKeys("fraud-keys"))
    young, old = MOUNTING, replace(MOUNTING, created=NOW - MOUNT_SECONDS)
    assert found(keys, observed(young)) == ("", False, "")
    assert found(keys, observed(old))[:2] == ("VolumesNotMounted", False), "it is a guess"
    assert "check that namespace default has a Secret fraud-keys with the key `keys`" in found(keys, observed(old))[2]
    assert found(status("builtin://iris"), observed(old))[0] == ""
    assert found(keys, observed(replace(old, waiting="")))[0] == ""
    assert keys.candidate is not None
    snapshot = replace(keys.candidate.snapshot, feedback_key=FeedbackKey("fraud-feedback"))
    both = replace(keys, candidate=replace(keys.candidate, snapshot=snapshot))
    assert found(both, observed(old))[2].endswith(
        "has a Secret fraud-keys with the key `keys` and a Secret fraud-feedback with the key `key`, or correct"
        " spec.serving.apiKeys or spec.serving.feedbackKey"
    )


ENCRYPTED = MLModel(OWNER, 1, Spec(SOURCE, traffic=Traffic(tls=Tls("fraud-tls"))))
KEYS = status("builtin://iris", ApiKeys("fraud-keys"))


def of_router(model: MLModel, state: Status, *pods: Pod, tls: str = "", keys: str = "") -> tuple[str, bool, str]:
    """Return the obstacle of routers whose page says this, and of these pods."""
    current = Observed(routers=(Router("r/1", tls=tls, keys=keys),), router=RevisionState(pods))
    obstacle = find_obstacle(model, state, current, NOW)
    return (obstacle.reason, obstacle.stalls, obstacle.message) if obstacle else ("", False, "")


def test_a_renewed_certificate_that_the_routers_reject_is_reported_with_what_to_type() -> None:
    reason, stalls, message = of_router(ENCRYPTED, Status(), tls="former")
    assert (reason, stalls) == ("CertificateRejected", True)
    assert "Secret fraud-tls" in message
    assert "tls.crt" in message
    assert "tls.key" in message
    assert of_router(ENCRYPTED, Status(), tls="current")[0] == ""


@pytest.mark.parametrize("page", ["former", "closed"])
def test_api_keys_that_the_routers_cannot_read_are_reported(page: str) -> None:
    reason, stalls, message = of_router(MODEL, KEYS, keys=page)
    assert (reason, stalls) == ("ApiKeysRejected", True)
    assert "`NAME: SHA256` for each API key into the key `keys` of Secret fraud-keys" in message
    assert of_router(MODEL, KEYS, keys="current")[0] == ""


def test_a_router_pod_that_waits_for_a_secret_names_it() -> None:
    old = replace(MOUNTING, created=NOW - MOUNT_SECONDS)
    for model, state, named in (
        (ENCRYPTED, Status(), "Secret fraud-tls (keys `tls.crt` and `tls.key`), or"),
        (MODEL, KEYS, "Secret fraud-keys (key `keys`), or"),
        (ENCRYPTED, KEYS, "Secret fraud-tls (keys `tls.crt` and `tls.key`) and fraud-keys (key `keys`), or"),
    ):
        reason, _, message = of_router(model, state, old)
        assert reason == "VolumesNotMounted"
        assert named in message
        assert of_router(model, state, replace(old, created=NOW))[0] == ""
        assert of_router(model, state, replace(old, terminating=True))[0] == ""
    assert of_router(MODEL, Status(), old)[0] == ""
    waiting = Observed(router=RevisionState((replace(old, created=NOW),)))
    assert next_look(ENCRYPTED, Status(), waiting, NOW) == NOW + MOUNT_SECONDS


def test_a_router_pod_that_cannot_read_the_api_keys_is_suspected() -> None:
    running = Pod("r", NOW - MOUNT_SECONDS, started=True)
    assert of_router(MODEL, KEYS, running)[0] == "ApiKeysRejected"
    assert of_router(MODEL, Status(), running)[0] == ""


def test_a_router_pod_with_a_broken_certificate_reports_it() -> None:
    crashed = Pod(
        "r", NOW, waiting="CrashLoopBackOff", exit_code=1, exit_message="the certificate cannot be used: write"
    )
    reason, _, message = of_router(ENCRYPTED, Status(), crashed)
    assert reason == "CrashLoop"
    assert "the certificate cannot be used: write" in message


def test_the_most_certain_cause_comes_first() -> None:
    state = status(keys=ApiKeys("fraud-keys"))
    old = replace(MOUNTING, created=NOW - MOUNT_SECONDS - 1)
    all_causes = observed(old, failure=QUOTA, refusal="the API server rejected it", missing="fraud-v2")
    assert obstacle_of_candidate(MODEL, state, all_causes, NOW) == "the API server rejected it"
    assert found(state, replace(all_causes, refusal=""))[0] == "PodsNotCreated"
    assert found(state, observed(old, missing="fraud-v2"))[0] == "ConfigMapMissing"
    assert found(state, observed(old))[0] == "VolumesNotMounted"


def test_a_ready_candidate_has_no_obstacle_except_a_failed_write() -> None:
    ready = observed(Pod("p", NOW, ready=True), MOUNTING, failure=QUOTA, missing="fraud-v2")
    assert obstacle_of_candidate(MODEL, status(), ready, NOW) == ""
    assert find_obstacle(MODEL, Status(), ready, NOW) is None
    assert obstacle_of_candidate(MODEL, Status(), replace(ready, refusal="rejected"), NOW) == "rejected"


TROUBLES: dict[str, tuple[RevisionState, str, bool, str]] = {
    "quota": (RevisionState(replica_failure=QUOTA), "PodsNotCreated", True, QUOTA),
    "image": (
        RevisionState((Pod("p", NOW, waiting="ImagePullBackOff", waiting_message="429"),)),
        "ImageFailed",
        True,
        "cannot run: 429",
    ),
    "one of two images": (
        RevisionState((Pod("p", NOW, waiting="ImagePullBackOff", waiting_message="429"), Pod("q", NOW, ready=True))),
        "ImageFailed",
        False,
        "cannot run: 429",
    ),
    "crash": (RevisionState((Pod("p", NOW, restarts=2, exit_code=1),)), "CrashLoop", True, "exit code 1"),
    "no node": (
        RevisionState((Pod("p", NOW, unschedulable="0/3 nodes are available"),)),
        "Unschedulable",
        False,
        "0/3 nodes are available",
    ),
    "memory": (RevisionState((Pod("p", NOW, exit_reason="OOMKilled"),)), "OutOfMemory", True, ".limits.memory"),
}
FIELDS = {"router": "spec.traffic.router.resources", "s": "spec.serving.resources", "c": "spec.serving.resources"}
NAMES = {"router": "the router", "s": "v1", "c": "v2"}


@pytest.mark.parametrize("child", NAMES)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trouble_is_reported_for_any_child_with_what_to_do(child: str, trouble: str) -> None:
    state, reason, stalls, text = TROUBLES[trouble]
    current = Observed({"s": READY, "c": READY})
    if child == "router":
        current = replace(current, router=state)
    else:
        current = replace(current, revisions={**current.revisions, child: state})
    actual = found(both(replicas=2 if child != "router" else 1), current)
    assert actual[:2] == (reason, stalls)
    assert text in actual[2]
    assert NAMES[child] in actual[2]
    if reason in ("PodsNotCreated", "Unschedulable", "OutOfMemory"):
        assert FIELDS[child] in actual[2], "what to change"


def test_pods_beyond_those_that_the_spec_requires_of_stable_are_no_trouble() -> None:
    """A quota may well be the limit of an autoscaler."""
    limited = replace(READY, replica_failure=QUOTA)
    assert found(replace(both(), candidate=None), Observed({"s": limited})) == ("", False, "")
    assert found(replace(both(replicas=2), candidate=None), Observed({"s": limited}))[0] == "PodsNotCreated"


def test_the_trouble_that_stops_all_requests_comes_first() -> None:
    broken = RevisionState(replica_failure="stable")
    current = Observed({"s": broken, "c": RevisionState(replica_failure="candidate")})
    assert "(stable)" in found(both(), current)[2]
    assert "(router)" in found(both(), replace(current, router=RevisionState(replica_failure="router")))[2]


@pytest.mark.parametrize(
    ("current", "text"),
    [
        (Observed(routers=(Router("r"), Router("q", silent_since=NOW))), "router pod q"),
        (Observed({"c": READY}, silent_services={"c": NOW}), "Service fraud-c"),
        (Observed({"s": READY}, silent_services={"s": NOW}), "Service fraud-s"),
        (Observed(reachable=False, unreachable_since=NOW), "Service fraud does"),
    ],
)
def test_an_address_that_stays_silent_is_reported_with_its_port(current: Observed, text: str) -> None:
    assert found(both(), current, NOW + SILENT_SECONDS - 0.1) == ("", False, "")
    reason, stalls, message = found(both(), current, NOW + SILENT_SECONDS)
    assert (reason, stalls) == ("NoAnswer", True)
    assert text in message
    assert "NetworkPolicy" in message


def test_a_router_that_answers_and_stays_behind_is_reported_before_a_service_that_it_serves() -> None:
    routers = (Router("r/1"), Router("r/2", behind_since=NOW))
    current = Observed(routers=routers, reachable=False, unreachable_since=NOW)
    assert found(both(), current, NOW + SILENT_SECONDS - 0.1) == ("", False, "")
    reason, stalls, message = found(both(), current, NOW + SILENT_SECONDS)
    assert (reason, stalls) == ("RoutesNotFollowed", True)
    assert "router pod r " in message
    assert "kubectl logs r -n " in message


def test_a_pod_is_behind_as_soon_as_one_of_its_processes_is() -> None:
    routers = (Router("r/1", behind_since=NOW), Router("r/2", behind_since=NOW + BEHIND_SECONDS), Router("q/1"))
    assert routers_behind(Observed(routers=routers), NOW + BEHIND_SECONDS) == {"r"}
    assert routers_behind(Observed(routers=routers[::-1]), NOW + BEHIND_SECONDS) == {"r"}


def test_a_time_limit_that_changes_the_obstacle_is_known_in_advance() -> None:
    pull = Pod("p", NOW, waiting="ErrImagePull")
    assert next_look(MODEL, both(), Observed({"c": RevisionState((pull,))}), NOW) == NOW + FIRST_FAILURE_SECONDS
    assert next_look(MODEL, both(), Observed(router=RevisionState((pull,))), NOW + 1) == NOW + FIRST_FAILURE_SECONDS
    assert next_look(MODEL, both(), Observed(router=RevisionState((pull,))), NOW + FIRST_FAILURE_SECONDS) is None
    keys = status(keys=ApiKeys("fraud-keys"))
    young = observed(replace(MOUNTING, created=NOW))
    assert next_look(MODEL, keys, young, NOW) == NOW + CONFIG_MAP_SECONDS
    assert next_look(MODEL, keys, young, NOW + CONFIG_MAP_SECONDS) == NOW + MOUNT_SECONDS
    assert next_look(MODEL, keys, young, NOW + MOUNT_SECONDS) is None
    assert next_look(MODEL, both(), Observed({"c": READY}), NOW) is None


def test_an_autoscaler_requires_its_minimum_of_stable() -> None:
    scaled = MLModel(OWNER, 1, Spec(SOURCE, Serving(autoscaling=Autoscaling(max_replicas=9, min_replicas=1))))
    state = replace(both(replicas=5), candidate=None)
    limited = Observed({"s": replace(READY, replica_failure=QUOTA)})
    assert find_obstacle(scaled, state, limited, NOW) is None
