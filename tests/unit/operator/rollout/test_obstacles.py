"""Why pods do not start, from what the controller reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import ApiKeys, MLModel, ModelSource, Snapshot, Spec
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState
from mlmodel_operator.rollout.obstacles import MOUNT_SECONDS, needs_config_map, obstacle
from tests.unit.operator.rollout.world import OWNER

NOW = 1_800_000_000.0
SOURCE = ModelSource("configmap://fraud-v2", version="v2")
MODEL = MLModel(OWNER, 1, Spec(SOURCE))
MOUNTING = Pod("p", NOW - 1, waiting="ContainerCreating")


def status(uri: str = SOURCE.uri, keys: ApiKeys | None = None) -> Status:
    snapshot = Snapshot(ModelSource(uri), "image", api_keys=keys)
    return Status(candidate=Candidate("v2", "c", "Preparing", snapshot, Time(NOW), Time(NOW)))


def observed(*pods: Pod, failure: str = "", refusal: str = "", missing: bool = False) -> Observed:
    state = RevisionState(pods, replica_failure=failure)
    return Observed({"c": state}, refusal=refusal, config_map_missing=missing)


def test_a_missing_config_map_is_named_with_what_to_type() -> None:
    message = obstacle(MODEL, status(), observed(MOUNTING, missing=True), NOW)
    assert message.startswith("ConfigMap fraud-v2 not found in namespace default: apply it (`mlmodel package PACKAGE")
    assert obstacle(MODEL, status(), observed(MOUNTING), NOW) == ""


@pytest.mark.parametrize(
    ("state", "current", "name"),
    [
        (status(), observed(MOUNTING), "fraud-v2"),
        (Status(), observed(MOUNTING), None),
        (status("s3://bucket/key"), observed(MOUNTING), None),
        (status(), observed(), None),
        (status(), observed(Pod("p", NOW, waiting="ErrImagePull")), None),
        (status(), observed(MOUNTING, Pod("q", NOW, ready=True)), None),
        (status(), observed(MOUNTING, failure="quota"), None),
        (status(), observed(MOUNTING, refusal="rejected"), None),
    ],
)
def test_a_config_map_is_read_only_when_it_could_be_the_obstacle(
    state: Status, current: Observed, name: str | None
) -> None:
    assert needs_config_map(state, current) == name


def test_a_secret_is_suspected_after_the_time_for_mounts() -> None:
    keys = status("builtin://iris", ApiKeys("fraud-keys"))
    young, old = MOUNTING, replace(MOUNTING, created=NOW - MOUNT_SECONDS - 1)
    assert obstacle(MODEL, keys, observed(young), NOW) == ""
    assert "check that namespace default has a Secret fraud-keys with the key `keys`" in obstacle(
        MODEL, keys, observed(old), NOW
    )
    assert obstacle(MODEL, status("builtin://iris"), observed(old), NOW) == ""
    assert obstacle(MODEL, keys, observed(replace(old, waiting="")), NOW) == ""


def test_the_most_certain_cause_comes_first() -> None:
    state = status(keys=ApiKeys("fraud-keys"))
    old = replace(MOUNTING, created=NOW - MOUNT_SECONDS - 1)
    all_causes = observed(old, failure="exceeded quota", refusal="the API server rejected it", missing=True)
    assert obstacle(MODEL, state, all_causes, NOW) == "the API server rejected it"
    assert obstacle(MODEL, state, replace(all_causes, refusal=""), NOW) == "exceeded quota"
    assert obstacle(MODEL, state, observed(old, missing=True), NOW).startswith("ConfigMap fraud-v2")
    assert "Secret fraud-keys" in obstacle(MODEL, state, observed(old), NOW)


def test_a_ready_candidate_has_no_obstacle_except_a_failed_write() -> None:
    ready = observed(Pod("p", NOW, ready=True), MOUNTING, failure="exceeded quota", missing=True)
    assert obstacle(MODEL, status(), ready, NOW) == ""
    assert obstacle(MODEL, Status(), ready, NOW) == ""
    assert obstacle(MODEL, Status(), replace(ready, refusal="rejected"), NOW) == "rejected"
