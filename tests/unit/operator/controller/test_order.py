"""The order of the writes of a reconcile, and when it writes nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest

from mlmodel_operator.controller import MODELS
from mlmodel_operator.names import WAKE_ANNOTATION
from mlmodel_operator.rollout.obstacles import BEHIND_SECONDS
from mlmodel_operator.rollout.requeue import QUICK_POLL_SECONDS, SLOW_POLL_SECONDS
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES
from tests.unit.operator.controller.world import DOWN, KEY, STALE, World
from tests.unit.operator.runtime.support import asynchronous

ROUTES = ("apply", "configmaps", "fraud-routes")
STATUS = ("update", "mlmodels", "fraud")


async def in_canary(world: World) -> None:
    """Bring a world to the first step of v2, with v1 as stable."""
    await world.serve("v1")
    await world.apply_model("v2")
    await world.run(lambda: world.weight() == 5)
    await world.tick()


@asynchronous
async def test_the_first_reconcile_writes_the_routes_first_and_the_status_last() -> None:
    world = World()
    await world.apply_model("v1")
    await world.reconcile()
    writes = world.writes()
    assert writes[0] == ROUTES
    assert [call[1] for call in writes].index("mlmodels") == len(writes) - 2
    assert {call[1] for call in writes[1:-2]} == {"services", "deployments", "controllerrevisions"}
    assert writes[-1][:2] == ("create", "events")


@asynchronous
async def test_a_candidate_loses_its_weight_before_any_other_write() -> None:
    world = World()
    await in_canary(world)
    stable = world.revision("stable")
    await world.edit(DEPLOYMENTS, f"fraud{stable}", {"spec": {"replicas": 7}})
    await world.edit(SERVICES, "fraud", {"metadata": {"labels": {"mlmodel.dev/component": "foreign"}}})
    await world.apply_model("v1")
    await world.reconcile()
    assert world.writes()[0] == ROUTES
    assert world.weight() == 0
    assert ("patch", "deployments", f"fraud{stable}") in world.writes()
    assert ("apply", "services", "fraud") in world.writes()


@asynchronous
async def test_the_status_comes_after_every_child_and_before_every_deletion_and_event() -> None:
    world = World()
    await in_canary(world)
    await world.apply_model("v1")
    deletions = 0
    for _ in range(30):
        await world.tick()
        # A record may be written before the status, and is deleted after everything else.
        verbs = [verb for verb, plural, _ in world.writes() if plural != "controllerrevisions"]
        deletions += verbs.count("delete")
        ranks = {"apply": 0, "patch": 0, "update": 1, "create": 2, "delete": 3}
        assert [ranks[verb] for verb in verbs] == sorted(ranks[verb] for verb in verbs)
        assert verbs.count("update") <= 1
    assert deletions == 2  # the Service and the Deployment of v2


@asynchronous
async def test_a_revision_is_deleted_after_the_status_that_no_longer_needs_it() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.tick()
    await world.apply_model("v1")
    await world.reconcile()
    writes = [(verb, plural) for verb, plural, _ in world.writes()]
    assert writes[-6:] == [
        ("create", "controllerrevisions"),  # that the rollout was reverted
        ("update", "mlmodels"),
        ("create", "events"),
        ("delete", "services"),
        ("delete", "deployments"),
        ("delete", "controllerrevisions"),  # that of the decisions before
    ]


@asynchronous
async def test_a_reconcile_reads_its_own_writes_before_their_events() -> None:
    world = World()
    await world.serve("v1", serving={"replicas": 2})
    await world.apply_model("v1")
    await world.reconcile()
    assert {verb for verb, _, _ in world.writes()} == {"patch", "delete", "update"}
    for _ in range(2):
        await world.controller.reconcile(KEY)
    assert [verb for verb, _, _ in world.writes()].count("update") == 1
    assert [verb for verb, _, _ in world.writes()].count("patch") == 1
    assert [verb for verb, _, _ in world.writes()].count("delete") == 1


@asynchronous
async def test_a_settled_model_costs_no_request_and_after_a_restart_a_look_at_routes_and_router() -> None:
    world = World()
    await world.serve(serving={"replicas": 2}, traffic={"router": {"replicas": 2}})
    assert await world.reconcile() is None
    assert (world.api.calls, world.http.requests) == ([], [])
    world.restart()
    assert await world.reconcile() is None
    # The store has no content of ConfigMaps, about whose size a tenant decides, and none of large objects.
    read = [("get", "configmaps", "fraud-routes"), ("get", "deployments", "fraud-router")]
    assert (world.api.calls, world.http.requests) == (read, [])
    assert await world.reconcile() is None
    assert (world.api.calls, world.http.requests) == ([], [])


@asynchronous
async def test_the_status_is_written_only_when_it_differs() -> None:
    world = World()
    await world.serve()
    await world.edit(SERVICES, "fraud", {"metadata": {"labels": {"mlmodel.dev/component": "foreign"}}})
    await world.reconcile()
    assert world.writes() == [("apply", "services", "fraud")]
    await world.edit(MODELS, "fraud", {"status": {"phase": "Draining"}}, "status")
    await world.reconcile()
    assert [plural for _, plural, _ in world.writes()] == ["mlmodels", "events"]
    assert world.status["phase"] == "Stable"


@asynchronous
async def test_the_status_is_written_only_onto_the_resource_version_of_the_decision() -> None:
    world = World()
    await world.apply_model("v1")
    world.watch()
    await world.apply_model("v2")  # after the watch: the store still has v1
    with pytest.raises(ApiError) as raised:
        await world.controller.reconcile(KEY)
    assert raised.value.conflict
    assert world.status == {}
    assert world.reasons() == []


@asynchronous
async def test_a_model_that_terminates_or_does_not_exist_costs_nothing() -> None:
    world = World()
    await in_canary(world)
    children = dict(world.api.objects)
    await world.edit(MODELS, "fraud", {"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z"}})
    for body in (world.api.objects[MODELS, *KEY], None):
        if body is None:
            del world.api.objects[MODELS, *KEY], children[MODELS, *KEY]
        else:
            children[MODELS, *KEY] = body
        assert await world.reconcile() is None
        assert (world.api.calls, world.http.requests) == ([], [])
        assert world.api.objects == children


@asynchronous
async def test_each_transition_of_a_whole_rollout_is_one_event() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    ticks = 0
    while not (world.is_ready() and world.status["stable"]["version"] == "v2"):
        ticks += 1
        assert ticks < 100, world.status
        if ticks % 2:
            world.restart()
        await world.tick(2000)
    assert world.reasons() == [
        *("Preparing", "Serving"),
        *("Preparing", "Validating", "CanaryStep", "CanaryStep", "CanaryStep", "Promoting", "Baking", "Promoted"),
    ]


@asynchronous
async def test_an_event_that_cannot_be_posted_does_not_fail_the_reconcile() -> None:
    world = World()
    await world.apply_model("v1")
    await world.reconcile()
    event = world.writes()[-1]
    world = World()
    world.api.refusals[event] = DOWN
    await world.apply_model("v1")
    await world.reconcile()
    assert world.writes()[-1] == event
    assert world.reasons() == []
    assert world.status["phase"] == "Preparing"


@asynchronous
async def test_routers_are_annotated_once_per_change_of_routes_unless_they_terminate() -> None:
    world = World()
    await world.serve("v1", traffic={"router": {"replicas": 2}})
    await world.edit(PODS, "fraud-router-pod-1", {"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z"}})
    await world.apply_model("v2", traffic={"router": {"replicas": 2}})
    await world.run(lambda: world.weight() == 5)
    annotated = [call for call in world.writes() if call[1] == "pods" and "router" in call[2]]
    assert annotated == [("patch", "pods", "fraud-router-pod-0")]
    assert world.writes().index(ROUTES) < world.writes().index(annotated[0])
    pod = world.child(PODS, "-router-pod-0")
    assert pod is not None
    # All of them: the router follows its own pod, not the ConfigMap, which others may write.
    assert pod["metadata"]["annotations"]["mlmodel.dev/routes"] == world.routes_text()
    await world.tick()
    assert "pods" not in [plural for _, plural, _ in world.writes()]


@asynchronous
async def test_a_router_whose_file_kubelet_has_not_written_is_woken() -> None:
    world = World()
    await world.serve("v1")
    world.misses = True
    await world.apply_model("v2")
    await world.run(lambda: world.routes_id() not in world.routes_text())
    missed = world.clock.now()
    await world.run(lambda: not world.misses)
    assert BEHIND_SECONDS <= world.clock.now() - missed <= BEHIND_SECONDS + 2
    pod = world.child(PODS, "-router-pod-0")
    assert pod is not None
    woken = pod["metadata"]["annotations"][WAKE_ANNOTATION]
    await world.run(lambda: world.status["phase"] == "Stable", requests=200, limit=600)
    pod = world.child(PODS, "-router-pod-0")
    assert pod is not None
    assert pod["metadata"]["annotations"][WAKE_ANNOTATION] == woken, "once"


@asynchronous
async def test_a_router_that_cannot_be_annotated_keeps_its_routes_and_is_tried_again() -> None:
    world = World()
    await world.serve("v1")
    for error in (DOWN, STALE):
        world.api.refusals["patch", "pods", "fraud-router-pod-0"] = error
        await world.apply_model(f"v2-{error.status}")
        for _ in range(10):
            with suppress(ApiError):
                await world.tick()
        assert world.weight() == 0
        world.api.refusals.clear()
        await world.run(lambda: world.weight() == 5)
        await world.apply_model("v1")
        await world.run(world.is_ready)


@asynchronous
async def test_routes_do_not_change_while_an_address_is_missing() -> None:
    world = World()
    await world.serve("v1")
    routes = world.child(CONFIG_MAPS, "-routes")
    await world.edit(SERVICES, f"fraud{world.revision('stable')}", {"spec": {"clusterIP": ""}})
    await world.reconcile()
    assert ROUTES not in world.writes()
    assert world.child(CONFIG_MAPS, "-routes") == routes


@asynchronous
async def test_a_router_that_stays_behind_is_reported_and_read_less_often() -> None:
    world = World()
    await world.apply_model("v1")
    await world.run(lambda: world.routes_id() in world.routes_text())
    world.is_frozen = True
    await world.run(lambda: world.routes_id() not in world.routes_text())
    await world.tick()
    assert await world.tick() == QUICK_POLL_SECONDS
    await world.run(lambda: world.condition("Stalled")["reason"] == "RoutesNotFollowed", limit=12)
    assert await world.tick() == SLOW_POLL_SECONDS
    world.is_frozen = False
    await world.run(world.is_ready, limit=5)
