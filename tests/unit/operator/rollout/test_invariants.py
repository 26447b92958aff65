"""Invariants of a rollout as properties: random specs and behaviours, with an operator that is killed between
writes."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mlmodel_operator.api.codec import encode
from mlmodel_operator.api.status import BEFORE_REQUESTS
from mlmodel_operator.api.types import Rollout, Serving, Sticky
from mlmodel_operator.rollout.approval import approval_of
from mlmodel_operator.rollout.draining import DRAIN_SECONDS
from mlmodel_operator.rollout.plan import Plan
from mlmodel_operator.rollout.steps import step_at
from tests.unit.operator.rollout.world import Behaviour, World, identity, serving, spec, steps

pytestmark = pytest.mark.simulation

SEED = 20260101

BEHAVIOURS = st.sampled_from(
    [
        Behaviour(),
        Behaviour(seconds_to_ready=15.0),
        Behaviour(error_rate=1.0),
        Behaviour(error_rate=0.2),
        Behaviour(slower=3.0),
        Behaviour(agrees=0.1),
        Behaviour(never_ready=True),
        Behaviour(broken={"exit_code": 3}),
        Behaviour(broken={"waiting": "ImagePullBackOff"}),
    ]
)
ROLLOUTS = st.builds(
    lambda weights, paused, pause, sticky: Rollout(
        steps=steps(*sorted(weights), pause=pause),
        sticky=Sticky("x-user-id") if sticky else None,
        bake_seconds=3,
        preparing_deadline_seconds=30,
        paused=paused,
    ),
    st.sets(st.integers(0, 99), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([False, False, True]),
    st.booleans(),
)
EVENTS = st.one_of(
    st.tuples(st.just("apply"), st.sampled_from(["v1", "v2", "v3"]), ROLLOUTS, st.integers(1, 5)),
    st.tuples(st.just("wait"), st.integers(1, 60)),
    st.tuples(st.just("die"), st.integers(0, 6)),
    st.tuples(st.just("evict"), st.integers(0, 10)),
    st.tuples(st.just("outage"), st.integers(1, 20)),
    st.tuples(st.just("lose status")),
    st.tuples(st.just("approve")),
)


def check(world: World, plan: Plan) -> None:
    """Check what is true of every plan."""
    routes, status = plan.routes, plan.status
    addresses = {} if routes is None else dict(routes.addresses)
    assert len(addresses) <= 2, "at most two revisions get requests"
    states = {state.address: (name, state) for name, state in world.observed().revisions.items()}
    if routes is not None and routes.stable is None:
        followed = world.routes
        assert followed is None or followed.stable is None, "routes with a stable are never emptied"
    if routes is not None and routes.stable is not None:
        assert routes.addresses[routes.stable] in states, "the address of stable exists"
    if routes is not None and routes.candidate is not None and routes.weight:
        name, state = states[routes.addresses[routes.candidate]]
        assert state.ready > 0, "no weight without a ready pod"
        assert status.candidate is not None
        assert status.candidate.revision == name
        retry = world.spec.rollout.retry
        assert not any(item.revision == name and item.retry == retry for item in status.rejected), (
            "a rejected revision gets no requests"
        )
    for name in plan.deletes:
        assert world.now - world.served_by.get(name, 0.0) >= DRAIN_SECONDS - 1.0, (
            "a revision drains before it is removed"
        )
        assert status.stable is None or status.stable.revision != name
    if world.status.stable is not None or world.known.decisions.stable:
        assert status.stable is not None, "stable is never lost"
    conditions = {item.type: item.status for item in status.conditions}
    if plan.routes is not None and plan.routes.weight == 100 and status.candidate is not None:
        assert status.candidate.weight == 100 or status.candidate.stands_in_since is not None
    assert conditions["Stalled"] == "False" or conditions["Reconciling"] == "False", "kstatus: not both"
    assert conditions["Ready"] != "True" or conditions["Stalled"] == conditions["Reconciling"] == "False"
    if world.condition("Ready") == "True" and world.status.observed_generation == world.generation:
        assert world.status.stable is not None
        assert world.status.stable.revision == identity(str(world.spec.model.version))
    before = world.status.candidate
    after = status.candidate
    if before is not None and after is not None and before.revision == after.revision and after.weight > before.weight:
        assert not world.spec.rollout.paused or status.stable is None, "paused stops increases"
        evidence = after.evidence
        has_evidence = evidence is not None and (evidence.candidate.requests > 0 or evidence.state.pairs.pairs.all > 0)
        is_first = before.phase in BEFORE_REQUESTS or (before.weight == 0 and after.weight < 100)
        assert is_first or has_evidence or after.unproven, "weight rises only on evidence"
    if before is not None and after is not None and before.revision == after.revision and before.phase == "Canary":
        has_left = after.phase == "Promoting" or after.weight > before.weight
        requires_approval = step_at(world.spec.rollout.steps, before.weight).pause
        if has_left and requires_approval:
            assert world.annotations["mlmodel.dev/approve"] == approval_of(before) == after.approvals[-1]
    if routes is not None and routes.weight in (0, 100):
        assert routes.sides.text() in ("", "open\n"), "a rule has an effect between the first step and the last"
    check_rehearsal(plan)
    desired = identity(str(world.spec.model.version))
    settled = status.stable is not None and status.stable.revision == desired
    rejected = any(item.revision == desired and item.retry == world.spec.rollout.retry for item in status.rejected)
    waits_for_user = (
        status.candidate is not None and status.candidate.phase == "Preparing" and world.spec.rollout.paused
    )
    if (status.candidate is not None or not (settled or rejected)) and not waits_for_user:
        assert plan.requeue_after is not None, "a model that is not settled is requeued"
    repeated = world.decide()
    assert encode(repeated.status) == encode(plan.status), "a decision depends only on its input"
    assert repeated.routes == plan.routes


def check_rehearsal(plan: Plan) -> None:
    """Check what is true of every plan about the rehearsal of the candidate."""
    candidate = plan.status.candidate
    if candidate is not None and candidate.phase == "Validating":
        is_routed = plan.routes is not None and plan.routes.weight > 0
        assert candidate.weight == 0, "no user meets a candidate that is rehearsed"
        assert not is_routed or candidate.stands_in_since is not None
    if plan.rehearsal:
        assert candidate is not None
        assert candidate.phase != "Preparing"
        assert plan.rehearsal.split()[1] == candidate.revision, "only the candidate is rehearsed"


def is_promotable(behaviour: Behaviour, *, rehearses: bool) -> bool:
    """Whether no test condemns a version that behaves like this; only a rehearsal compares times and answers."""
    is_alike = behaviour.slower < 1.5 and behaviour.agrees > 0.5
    works = behaviour.error_rate == 0 and not behaviour.broken and not behaviour.never_ready
    return works and (is_alike or not rehearses)


@seed(SEED)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    behaviours=st.fixed_dictionaries({"v2": BEHAVIOURS, "v3": BEHAVIOURS}),
    events=st.lists(EVENTS, max_size=12),
    rehearses=st.booleans(),
)
def test_invariants_hold_in_any_order_of_events_and_the_model_settles(
    behaviours: dict[str, Behaviour], events: list[tuple[object, ...]], rehearses: bool
) -> None:
    world = serving("v1", requests_per_second=300, rehearses=rehearses)
    world.behaviours |= behaviours
    world.check = check
    for event in events:
        match event:
            case ("apply", str(version), Rollout() as rollout, int(replicas)):
                world.change(spec(version, rollout=rollout, serving=Serving(replicas=replicas)))
            case ("wait", int(seconds)):
                for _ in range(seconds):
                    world.tick()
            case ("die", int(writes)):
                world.tick(dies_after=writes)
            case ("outage", int(seconds)):
                world.behaviours["v1"] = Behaviour(never_ready=True)
                for _ in range(seconds):
                    world.tick()
                world.behaviours["v1"] = Behaviour()
            case ("lose status",):
                world.lose_status()
            case ("approve",):
                if world.status.candidate is not None:
                    world.annotations["mlmodel.dev/approve"] = approval_of(world.status.candidate)
            case ("evict", int(which)):
                pods = [(revision, pod) for revision in world.revisions.values() for pod in revision.pods]
                # Never the last pod, so that an eviction does not leave a version without any.
                revision, pod = pods[which % len(pods)]
                if len(revision.pods) > 1:
                    del revision.pods[pod]
    final = Rollout(bake_seconds=3, preparing_deadline_seconds=30)
    version = str(world.spec.model.version)
    world.change(spec(version, rollout=final, serving=Serving(replicas=2)))
    world.run(
        lambda w: w.settled() and w.status.observed_generation == w.generation and w.status.replicas == "2/2",
        limit=3000,
    )
    is_good = version == "v1" or is_promotable(behaviours[version], rehearses=rehearses)
    stable = world.status.stable
    assert stable is not None
    if is_good and not world.status.rejected:
        assert stable.version == version
    if not is_good:
        assert stable.version != version
        assert world.condition("RolledBack") == "True"
    assert set(world.revisions) == {stable.revision}
    world.status_writes = 0
    for _ in range(20):
        plan = world.tick()
        assert plan.requeue_after is None
    assert world.status_writes == 0, "a settled model writes nothing"


@pytest.mark.parametrize("writes", range(6))
@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("rehearses", [False, True])
def test_an_operator_that_is_killed_in_every_reconcile_reaches_the_same_state(
    writes: int, rate: float, rehearses: bool
) -> None:
    """Each reconcile is killed after ``writes`` writes, except every third, which continues from what they left."""
    world = World(random.Random(SEED), spec("v1"), rehearses=rehearses)
    world.run(lambda w: w.settled() and w.condition("Ready") == "True", 60)
    world.check = check
    world.behaviours["v2"] = Behaviour(error_rate=rate)
    world.change(spec("v2"))
    for turn in range(3000):
        world.tick(dies_after=99 if turn % 3 == 0 else writes)
        if world.settled() and world.status.observed_generation == 2 and turn % 3 == 0:
            break
    assert world.settled()
    assert world.status.stable is not None
    assert world.status.stable.version == ("v1" if rate else "v2")
    assert world.user_errors == 0
