"""Which files a candidate in a ConfigMap is pinned to, and when."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import ModelSource, Snapshot
from mlmodel_operator.rollout.observed import Observed, RevisionState
from mlmodel_operator.rollout.pinning import awaits_files, config_map_to_pin, pinned
from tests.unit.operator.rollout.world import Behaviour, World, identity, serving, spec

NOW = Time(1_800_000_000.0)
SOURCE = ModelSource("configmap://fraud-v2")
ONE, OTHER = "1" * 64, "2" * 64
WAITING = Candidate("v2", "c", "Preparing", Snapshot(SOURCE, "image"), NOW, NOW)
DEPLOYED = Observed({"c": RevisionState(deployed=True, files_sha256=ONE)}, files_sha256=OTHER)


def with_snapshot(**fields: object) -> Candidate:
    return replace(WAITING, snapshot=replace(WAITING.snapshot, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "observed", "waits"),
    [
        (WAITING, Observed(), True),
        (WAITING, Observed({"c": RevisionState(address="10.0.0.1")}), True),  # only its Service exists
        (WAITING, DEPLOYED, False),
        (replace(WAITING, phase="Canary", slot="b"), Observed(), False),  # of the release before
        (with_snapshot(files_sha256=ONE), Observed(), False),
        (with_snapshot(model=replace(SOURCE, sha256=ONE)), Observed(), False),
        (with_snapshot(model=ModelSource("pvc://claim")), Observed(), False),
    ],
)
def test_a_candidate_waits_for_the_digest_until_it_has_a_deployment(
    candidate: Candidate, observed: Observed, waits: bool
) -> None:
    assert awaits_files(candidate, observed) is waits
    assert config_map_to_pin(Status(candidate=candidate), observed) == ("fraud-v2" if waits else None)
    assert config_map_to_pin(Status(), observed) is None


def test_the_config_map_pins_a_candidate_and_then_its_deployment_does() -> None:
    assert pinned(WAITING, Observed()) == WAITING
    candidate = pinned(WAITING, Observed(files_sha256=ONE))
    assert (candidate.snapshot.files_sha256, candidate.digest) == (ONE, f"sha256:{ONE}")
    assert pinned(candidate, Observed(files_sha256=OTHER)) == candidate
    running = pinned(WAITING, DEPLOYED)
    assert (running.snapshot.image, running.snapshot.files_sha256, running.digest) == ("image", ONE, f"sha256:{ONE}")


def test_a_digest_of_the_spec_stays() -> None:
    candidate = with_snapshot(model=replace(SOURCE, sha256=ONE))
    candidate = replace(candidate, digest=f"sha256:{ONE}")
    assert pinned(candidate, Observed(files_sha256=OTHER)) == candidate


def test_without_its_config_map_a_candidate_gets_no_pod_and_is_rejected_after_the_deadline() -> None:
    world = serving("v1")
    world.files["fraud-v2"] = ""
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected), limit=310)
    assert identity("v2") not in world.revisions
    assert world.status.rejected[0].reason == "NeverReady"
    assert "ConfigMap fraud-v2 not found in namespace default: apply it" in world.status.rejected[0].message


def test_a_config_map_that_appears_is_pinned_and_its_model_is_rolled_out() -> None:
    world = World(random.Random(1), spec("v1"), files={"fraud-v1": ""})
    world.tick()
    for _ in range(298):
        assert world.tick().requeue_after == 5.0
    for _ in range(30):
        world.tick()
    assert world.tick().requeue_after == 60.0
    assert world.condition("Stalled") == "True"
    assert not world.revisions
    world.files["fraud-v1"] = ONE
    world.run(world_ready, limit=10)
    assert world.status.stable is not None
    assert world.status.stable.digest == f"sha256:{ONE}"


def world_ready(world: World) -> bool:
    return world.settled() and world.condition("Ready") == "True"


def test_a_revision_that_drains_and_is_desired_again_keeps_its_files() -> None:
    world = serving("v1")
    first = world.files["fraud-v1"]
    world.behaviours["v2"] = Behaviour()
    world.change(spec("v2"))
    world.run(lambda w: w.status.stable is not None and w.status.stable.version == "v2")
    assert world.status.draining[0].revision == identity("v1")
    world.files["fraud-v1"] = OTHER
    world.change(spec("v1"))
    world.run(lambda w: w.status.stable is not None and w.status.stable.version == "v1")
    assert world.status.stable is not None
    assert world.status.stable.digest == f"sha256:{first}"
    assert world.revisions[identity("v1")].snapshot.files_sha256 == first
