"""Figures beside the gates: CPU time, energy, restarts and drift are reported, and decide nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from mlmodel_operator.api.codec import DecodeError, encode
from mlmodel_operator.api.figures import Calls, Drift, Figures, FiguresState, SideFigures
from mlmodel_operator.api.status import HistoryEntry
from mlmodel_operator.api.types import Rehearsal, Rollout
from mlmodel_operator.api.upgrade import read_status, without_state
from mlmodel_operator.rollout.context import context_of
from mlmodel_operator.rollout.figures import _MOST_PODS, MIN_PREDICTIONS, with_figures
from mlmodel_operator.rollout.observed import Measured, Pod
from tests.unit.operator.rollout.world import IMAGE, Behaviour, World, candidate, identity, serving, spec, steps

ROLLOUT = Rollout(steps=steps(25, 50), bake_seconds=5)
V1, V2 = identity("v1"), identity("v2")


def world_of(rollout: Rollout = ROLLOUT, *, cpu_us: int = 4000, **how: Any) -> World:
    """Return a world in which v2 needs by default twice the CPU time of v1, and is rolled out."""
    world = serving("v1", **{"requests_per_second": 50, "rehearses": True, "kept_before": 300} | how)
    world.behaviours["v2"] = Behaviour(cpu_us=cpu_us)
    world.change(spec("v2", rollout=rollout))
    return world


def figures(world: World) -> Figures:
    found = candidate(world).figures
    assert found is not None
    return found


def last(world: World) -> HistoryEntry:
    world.run(lambda w: w.settled() and bool(w.status.history) and w.status.history[0].version == "v2")
    return world.status.history[0]


def is_at(weight: int) -> Any:
    return lambda w: w.status.candidate is not None and w.status.candidate.weight == weight


def test_twice_the_cpu_time_is_a_ratio_of_two_in_the_rehearsal_before_any_user() -> None:
    world = world_of()
    world.run(is_at(25))
    found = figures(world)
    assert (found.candidate.cpu_milliseconds, found.stable.cpu_milliseconds, found.cpu_ratio) == (4.0, 2.0, 2.0)
    assert (found.candidate.joules, found.stable.joules) == (0.014, 0.007)
    assert found.candidate.source == found.stable.source == "Rehearsal"
    assert found.candidate.predictions == found.stable.predictions >= 200
    number = found.candidate.predictions
    assert found.message == (
        "CPU per prediction: v2 4 ms (0.014 J), v1 2 ms (0.007 J), 2 times as much for v2"
        f" ({number} and {number} repeated requests). Container restarts: v2 0, v1 0"
    )
    assert last(world).figures.startswith("CPU per prediction: v2 4 ms (0.014 J), v1 2 ms (0.007 J), 2 times as much")


def test_without_a_rehearsal_the_requests_of_clients_are_compared() -> None:
    world = world_of(replace(ROLLOUT, rehearsal=Rehearsal(requests=0)), rehearses=False)
    world.run(is_at(50))
    found = figures(world)
    assert (found.cpu_ratio, found.candidate.source, found.stable.source) == (2.0, "Clients", "Clients")
    assert found.stable.predictions > found.candidate.predictions >= MIN_PREDICTIONS
    assert "requests of clients)" in found.message


def test_what_stable_answered_before_the_rollout_does_not_count() -> None:
    world = serving("v1", requests_per_second=50)
    for _ in range(100):
        world.tick()
    world.change(spec("v2", rollout=replace(ROLLOUT, rehearsal=Rehearsal(requests=0))))
    start = world.now
    world.run(is_at(50))
    assert MIN_PREDICTIONS <= figures(world).stable.predictions <= 50 * (world.now - start)


@pytest.mark.parametrize("old", ["v1", "v2"])
def test_pods_of_an_older_release_have_no_figures_and_the_rollout_goes_on(old: str) -> None:
    world = world_of(no_page={old})
    world.run(is_at(50))
    found = figures(world)
    known, unknown = (found.candidate, found.stable) if old == "v1" else (found.stable, found.candidate)
    assert known.cpu_milliseconds == (4.0 if old == "v1" else 2.0)
    assert (unknown.cpu_milliseconds, unknown.joules, found.cpu_ratio) == (None, None, None)
    assert f"{old} not known" in found.message
    assert last(world).outcome == "Promoted"


def test_without_any_page_the_message_says_so() -> None:
    world = world_of(no_page={"v1", "v2"})
    world.run(is_at(50))
    assert figures(world).message == (
        "CPU per prediction is not known: fewer than 20 predictions were measured. Container restarts: v2 0, v1 0"
    )


def test_restarts_of_this_rollout_are_counted_of_both_sides() -> None:
    world = serving("v1", requests_per_second=50)
    world.revisions[V1].restarts = 3
    world.tick()
    world.change(spec("v2", rollout=replace(ROLLOUT, steps=steps(25, 50, min_seconds=60))))
    world.run(is_at(25))
    assert (figures(world).candidate.restarts, figures(world).stable.restarts) == (0, 0), "v1 restarted before"
    world.revisions[V1].restarts = 4
    world.tick()
    world.revisions[V2].restarts = 2
    world.tick()
    assert (figures(world).candidate.restarts, figures(world).stable.restarts) == (2, 1)
    assert figures(world).message.endswith("Container restarts: v2 2, v1 1")


def test_a_pod_that_goes_takes_no_restart_back() -> None:
    world = world_of(replace(ROLLOUT, steps=steps(25, 50, min_seconds=60)), rehearses=False)
    world.more_pods["v1"] = (Pod("extra", world.now, ready=True, restarts=0),)
    world.run(is_at(25))
    world.more_pods["v1"] = (Pod("extra", world.now, ready=True, restarts=2),)
    world.tick()
    del world.more_pods["v1"]
    world.tick()
    assert figures(world).stable.restarts == 2


def test_figures_alone_cause_no_write_of_the_status() -> None:
    world = world_of(requests_per_second=0, rehearses=False)
    world.run(is_at(25))
    world.change(replace(world.spec, rollout=replace(ROLLOUT, paused=True)))
    for _ in range(20):
        world.tick()
    before = world.status_writes
    for number in range(1, 30):
        for name in (V1, V2):
            for pod in world.revisions[name].pods:
                world.calls[pod] = Calls(1000 * number, 10**6 * number, 1000 * number, 10**6 * number)
        world.tick()
    assert world.status_writes == before


def test_they_decide_nothing() -> None:
    ends = []
    for cpu_us in (2000, 2_000_000):
        entry = last(world_of(cpu_us=cpu_us))
        ends.append((entry.outcome, entry.ended_at - entry.started_at, entry.message))
    assert ends[0] == ends[1]
    assert ends[0][0] == "Promoted"


# ------------------------------------------------------------------------------------------------------ single readings


@cache
def canary() -> World:
    """Return a world in the canary, which is only read."""
    world = world_of()
    world.run(is_at(25))
    return world


def after(found: Figures | None, measured: Iterable[Measured], pods: int = 3) -> Figures:
    """Return the figures after one reading, when new evidence is written."""
    world = canary()
    status = replace(world.status, candidate=replace(candidate(world), figures=found))
    observed = replace(world.observed(status), measured=tuple(measured))
    present = tuple(Pod(f"pod-{number}", 0.0, ready=True) for number in range(pods))
    for name in (V1, V2):
        state = replace(observed.revision(name), pods=present)
        observed = replace(observed, revisions={**observed.revisions, name: state})
    context = context_of(world.model(), observed, status, IMAGE, world.now)
    written = replace(status, candidate=replace(candidate(world), figures=found, evidence=None))
    shown = with_figures(context, written).candidate
    assert shown is not None
    assert shown.figures is not None
    return shown.figures


def page(number: int, us: int = 2000, *, pod: str = "pod-0", revision: str = V1, **more: Any) -> Measured:
    """Return the page of a pod that has answered ``number`` copies."""
    return replace(Measured(pod, revision, "b", Calls(0, 0, number, number * us), 3500), **more)


def test_another_start_of_a_pod_counts_from_zero_and_a_lower_count_adds_nothing() -> None:
    first = after(None, [page(1000)])
    assert first.state.stable == Calls(), "what a pod counted before its first page was before the rollout"
    grown = after(first, [page(1100)])
    assert grown.state.stable.copies == 100
    again = after(grown, [page(30, boot="c")])
    assert again.state.stable.copies == 130
    lower = after(again, [page(20, boot="c")])
    assert lower.state.stable.copies == 130
    absent = after(lower, [page(50, pod="pod-1")])
    back = after(absent, [page(60, boot="c")])
    assert back.state.stable.copies == 170, "a pod that was not read for a while counts once"


def test_the_largest_drift_of_several_pods_is_shown_and_stays_while_none_has_one() -> None:
    drifts = [Drift("age", 0.1, 0.3), Drift("", None, None), Drift("income", 0.25, 0.0)]
    pages = [page(10, pod=f"pod-{number}", drift=drift) for number, drift in enumerate(drifts)]
    found = after(None, pages)
    assert (found.stable.feature, found.stable.feature_drift, found.stable.prediction_drift) == ("income", 0.25, 0.3)
    assert found.message.endswith("Drift from training (PSI): v1 0.25 (income), predictions 0.3")
    assert after(found, [page(20)]).stable == found.stable
    assert found.candidate.feature_drift is None


def test_numbers_of_pods_that_lie_are_finite_and_the_state_stays_small() -> None:
    most = 2**53
    found: Figures | None = None
    for number in range(6):
        pages = [
            Measured(f"pod-{pod}", revision, "b" * number, Calls(most, most, most, most), 10**6)
            for revision in (V1, V2)
            for pod in range(20 * number, 20 * number + 20)
        ]
        found = after(found, pages, pods=120)
        assert len(found.state.pods) <= _MOST_PODS
    assert found is not None
    assert found.state.stable.copies <= most
    many = [Measured(f"fraud-0123456789-{pod:05}", V1, "b" * 16, Calls(most, most, most, most)) for pod in range(200)]
    full = after(found, many, pods=0)
    shown = encode(full)
    json.loads(json.dumps(shown, allow_nan=False))
    grown = replace(full, state=replace(full.state, pods=dict(list(full.state.pods.items())[:_MOST_PODS])))
    assert len(json.dumps(encode(grown))) < 16_000


def test_stable_without_cpu_time_has_no_ratio() -> None:
    first = after(None, [page(0), page(0, revision=V2, pod="pod-1")])
    found = after(first, [page(50, 0), page(50, revision=V2, pod="pod-1")])
    assert (found.stable.cpu_milliseconds, found.cpu_ratio) == (0.0, None)


def test_figures_of_too_few_predictions_are_not_shown() -> None:
    first = after(None, [page(0)])
    for few in (Calls(MIN_PREDICTIONS - 1, 9000), Calls(0, 0, MIN_PREDICTIONS - 1, 9000)):
        found = after(first, [page(0, calls=few)])
        assert (found.stable.cpu_milliseconds, found.stable.predictions) == (None, 0)
    assert after(first, [page(MIN_PREDICTIONS)]).stable.cpu_milliseconds == 2.0


def test_copies_are_compared_with_copies_although_stable_answers_requests_too() -> None:
    """Many requests of clients share calls of the model, so stable looks cheaper by them."""
    first = after(None, [page(0), page(0, revision=V2, pod="pod-1")])
    own, others = Calls(40, 40 * 2000, 30, 30 * 4000), Calls(900, 900 * 500, 30, 30 * 4000)
    found = after(first, [page(0, calls=others), page(0, revision=V2, pod="pod-1", calls=own)])
    assert (found.cpu_ratio, found.stable.cpu_milliseconds, found.stable.source) == (1.0, 4.0, "Rehearsal")
    without = replace(own, copies=MIN_PREDICTIONS - 1)
    found = after(first, [page(0, calls=others), page(0, revision=V2, pod="pod-1", calls=without)])
    assert (found.cpu_ratio, found.stable.cpu_milliseconds, found.stable.source) == (4.0, 0.5, "Clients")


def test_the_cheapest_and_the_dearest_prediction_that_pods_can_name_have_figures() -> None:
    first = after(None, [page(0), page(0, revision=V2, pod="pod-1")])
    dear, cheap = Calls(MIN_PREDICTIONS, 2**53), Calls(2**53, 1)
    own, others = Measured("pod-1", V2, "b", dear, 10**6), Measured("pod-0", V1, "b", cheap, 1)
    found = after(first, [others, own])
    assert found.candidate.cpu_milliseconds == found.candidate.joules == pytest.approx(4.5e11)
    assert (found.stable.cpu_milliseconds, found.stable.joules, found.cpu_ratio) == (0.0, 0.0, None)


def test_restarts_have_a_bound() -> None:
    assert SideFigures(restarts=2**53).with_restarts(1).restarts == 2**53


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(
            ("state", state)
            for state in ("{", "[]", '{"restarts":-1}', '{"stable":{"copies":-1}}', '{"candidate":{"requests":1e400}}')
        ),
        *(
            ("stable", side)
            for side in (
                {"cpuMilliseconds": 1e308},
                {"cpuMilliseconds": 1e-300},
                {"joules": -1.0},
                {"featureDrift": 1e13},
                {"restarts": -1},
                {"restarts": 2**63 - 1},
                {"predictions": -1},
                {"feature": "x" * 65},
            )
        ),
    ],
)
def test_figures_that_somebody_wrote_do_not_stop_the_rollout(place: str, value: object) -> None:
    """What was computed with them could be a number that is not JSON, and no status could be written any more."""
    world = world_of()
    world.run(is_at(25))
    raw = json.loads(json.dumps(encode(world.status)))
    raw["candidate"]["figures"][place] = value
    with pytest.raises(DecodeError):
        read_status(raw)
    reset = read_status(without_state(raw)).candidate
    assert reset is not None
    assert reset.figures is None


def test_figures_survive_the_wire() -> None:
    world = world_of()
    world.run(is_at(25))
    assert figures(world).state != FiguresState()
    assert read_status(json.loads(json.dumps(encode(world.status)))) == world.status
