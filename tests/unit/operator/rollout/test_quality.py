"""The gate on labels: stable and candidate are compared by labels of predictions that the router drew."""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from mlmodel_operator.api.codec import DecodeError, decode
from mlmodel_operator.api.evidence import LabelPage, Labels, LabelSides, Pairs, QualityState
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Rejected
from mlmodel_operator.api.types import Autoscaling, FeedbackKey, Gates, QualityGate, Rollout, Serving, Step
from mlmodel_operator.rollout.evidence import chain, labels, quality
from mlmodel_operator.rollout.observed import Labelled, Observed, Pod, RevisionState
from tests.unit.operator.rollout.world import Behaviour, World, candidate, identity, serving, spec, steps

GATE = QualityGate()


def rollout(gate: QualityGate | None = GATE, **more: Any) -> Rollout:
    """Return a rollout whose steps last long enough for some labels."""
    usual = Rollout(steps=steps(25, 50, min_requests=700), gates=Gates(quality=gate), bake_seconds=5)
    return replace(usual, **more)


def labelling(seed: int = 1, accuracy: float = 0.8, **how: Any) -> World:
    """Return a world in which v1 serves, is right in 90 %, and predictions get labels."""
    world = serving("v1", seed, **{"labelled": 1.0, "requests_per_second": 200} | how)
    world.behaviours["v2"] = Behaviour(accuracy=accuracy)
    return world


def state_of(world: World) -> QualityState:
    evidence = candidate(world).evidence
    assert evidence is not None
    return evidence.state.quality


def ended(world: World, limit: float = 5000.0) -> Rejected | None:
    """Return why v2 was rolled back; None if it was promoted."""
    world.run(lambda w: w.settled() and bool(w.status.history) and w.status.history[0].version == "v2", limit)
    return world.status.rejected[0] if world.status.rejected else None


def labels_until_rolled_back(seed: int, accuracy: float, *, most: int, **how: Any) -> int | None:
    """Return how many labels of the candidate were read until it was rolled back, of at most ``most``; None if it was
    not."""
    world = labelling(seed, accuracy, **how)
    weights = (Step(5, min_requests=150), Step(25, min_requests=200), Step(50, min_requests=10**8))
    world.change(spec("v2", rollout=rollout(steps=weights, max_seconds=10**6)))
    while not world.status.rejected:
        world.tick()
        found = world.status.candidate
        if found and found.evidence and found.evidence.state.quality.labels.candidate.number >= most:
            return None
    verdict = world.status.rejected[0]
    assert verdict.reason == Reason.LOWER_QUALITY
    return int(re.findall(r"of its (\d+) predictions", verdict.message)[0])


# ------------------------------------------------------------------------------------------------------------ decisions


def test_a_version_that_is_right_less_often_is_rolled_back() -> None:
    world = labelling()
    world.change(spec("v2", rollout=rollout()))
    verdict = ended(world)
    assert verdict is not None
    assert verdict.reason == Reason.LOWER_QUALITY
    assert verdict.weight in (25, 50)
    assert "predictions with a label were right" in verdict.message
    assert "it may be right at most 2 percentage points less often" in verdict.message


def test_a_version_that_is_as_good_is_promoted_and_its_labels_are_in_the_history() -> None:
    world = labelling(accuracy=0.9)
    world.change(spec("v2", rollout=rollout()))
    assert ended(world) is None
    assert "predictions of v2 with a label were right" in world.status.history[0].message


@pytest.mark.parametrize("how", ["off", "no labels", "few labels"])
def test_no_version_waits_for_labels(how: str) -> None:
    world = labelling(labelled={"off": 1.0, "no labels": 0.0, "few labels": 0.05}[how])
    world.change(spec("v2", rollout=rollout(None if how == "off" else GATE)))
    start = world.now
    assert ended(world) is None
    with_labels, seconds = labelling(accuracy=0.9), world.now - start
    with_labels.change(spec("v2", rollout=rollout()))
    start = with_labels.now
    assert ended(with_labels) is None
    assert with_labels.now - start == pytest.approx(seconds, abs=3)


def test_labels_that_come_while_it_bakes_roll_it_back_while_the_old_version_is_warm() -> None:
    world = labelling(label_seconds=60.0)
    world.change(spec("v2", rollout=rollout(bake_seconds=3600)))
    world.run(lambda w: w.status.phase == "Baking", 600)
    assert world.status.candidate is not None
    assert state_of(world).labels.candidate.number == 0
    assert len(world.revisions[identity("v1")].pods) == 1
    verdict = ended(world)
    assert verdict is not None
    assert (verdict.reason, verdict.weight) == (Reason.LOWER_QUALITY, 100)
    assert world.user_errors == 0


def test_predictions_while_it_bakes_do_not_count_because_stable_makes_none() -> None:
    world = labelling(accuracy=0.9)
    world.change(spec("v2", rollout=rollout(bake_seconds=100)))
    world.run(lambda w: w.status.phase == "Baking", 600)
    world.tick()
    before = state_of(world).labels
    world.harder = lambda _: 0.5  # from now on all requests are hard
    for _ in range(8):
        world.tick(10.0)
    assert state_of(world).labels == before
    assert ended(world) is None


def test_the_labels_of_an_earlier_rollout_do_not_count() -> None:
    world = labelling(label_seconds=20.0)
    world.change(spec("v2", rollout=rollout()))
    world.run(lambda w: w.status.phase == "Canary", 100)
    for _ in range(10):
        world.tick()
    world.behaviours["v3"] = Behaviour(accuracy=0.9)
    world.harder = lambda _: 0.4  # stable's labels of before would be better than those of v3
    world.change(spec("v3", rollout=rollout()))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v3", 2000)
    assert [entry.outcome for entry in world.status.history[:2]] == ["Promoted", "Superseded"]


def test_a_retry_begins_without_the_labels_of_the_first_attempt() -> None:
    world = labelling()
    world.change(spec("v2", rollout=rollout()))
    assert ended(world) is not None
    world.labelled = 0.0
    world.posts.clear()
    world.change(spec("v2", rollout=rollout(retry="again")))
    world.run(lambda w: w.status.phase == "Canary", 100)
    for _ in range(5):
        world.tick()
    assert state_of(world).labels == LabelSides()


@pytest.mark.parametrize("how", ["operator", "pod of stable", "router", "status"])
def test_restarts_lose_no_label_and_count_none_twice(how: str) -> None:
    """A status that is lost begins anew; a pod takes what was not read with it."""
    world = labelling(accuracy=0.9, requests_per_second=40)
    world.change(spec("v2", rollout=rollout(steps=steps(25, min_requests=10**8), max_seconds=10**6)))
    world.run(lambda w: w.status.phase == "Canary", 100)
    for second in range(40):
        if second == 20 and how == "pod of stable":
            world.kill("v1")
        if second == 20 and how == "router":
            world.restart_router()
        if second == 20 and how == "status":
            world.lose_status()
        world.tick(**({"dies_after": 3} if how == "operator" and second % 7 == 0 else {}))
    world.labelled, world.now = 0.0, world.now + 20
    world.tick()
    world.tick(20.0)
    posted = sum((side for counted in world.counted_labels.values() for side in counted.weights.values()), LabelSides())
    found = state_of(world).labels
    assert found.stable.number <= posted.stable.number
    assert found.candidate.number <= posted.candidate.number
    if how in ("operator", "router"):
        assert found == posted
    else:
        assert found.stable.number > 0.3 * posted.stable.number


# ----------------------------------------------------------------------------------------------------- how it is shown


def test_status_shows_the_labels() -> None:
    world = labelling(accuracy=0.9, requests_per_second=40)
    world.change(spec("v2", rollout=rollout()))
    world.run(lambda w: w.status.phase == "Canary", 100)
    for _ in range(20):
        world.tick()
    found = candidate(world).quality
    assert found is not None
    assert found.candidate_labels > 100
    assert found.candidate_percent is not None
    assert 80 < found.candidate_percent < 100
    assert found.message.startswith(
        f"{found.candidate_percent} % of {found.candidate_labels} predictions of v2 with a label"
    )
    world.change(spec("v2", rollout=rollout(None)))
    world.tick()
    assert candidate(world).quality is None


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (GATE, "the pods of v1 do not count labels"),
        (GATE, "different feedback keys"),
        (QualityGate("within", 0.5), "the model predicts classes: type `quality: {metric: accuracy}`"),
        (QualityGate("f1"), "metric is unknown: type accuracy or within"),
    ],
)
def test_status_says_why_no_label_counts(gate: QualityGate, why: str) -> None:
    world = labelling(accuracy=0.9, requests_per_second=20)
    changed = Serving()
    if "v1" in why:
        world.no_page.add("v1")
    elif "keys" in why:
        changed = Serving(feedback_key=FeedbackKey("other"))
    world.change(spec("v2", rollout=rollout(gate), serving=changed))
    world.run(lambda w: w.status.phase == "Canary", 100)
    for _ in range(15):
        world.tick()
    found = candidate(world).quality
    assert found is not None
    assert found.message.startswith("No label counts: ")
    assert why in found.message
    if gate != GATE:
        assert state_of(world).labels == LabelSides()


# ---------------------------------------------------------------------------------------------------------- the reading


def observed(*pages: Labelled, pods: Iterable[str] = ("a", "b")) -> Observed:
    return Observed({"r": RevisionState(tuple(Pod(name, 0.0, ready=True) for name in pods))}, labelled=pages)


def sides(own: int, right: int, others: int, others_right: int) -> LabelSides:
    return LabelSides(Labels(own, right), Labels(others, others_right))


def test_the_pages_of_all_pods_add_up_and_another_boot_counts_from_zero() -> None:
    state = labels.first(observed(Labelled("a", "1", "classes", 0, {"5": sides(2, 1, 2, 1)})))
    assert state.labels == LabelSides()
    state = labels.count(
        state, observed(Labelled("a", "1", "classes", 0, {"5": sides(4, 2, 5, 4)}), Labelled("b")), GATE
    )
    assert state.labels == sides(2, 1, 3, 3)
    state = labels.count(state, observed(Labelled("a", "2", "classes", 0, {"5": sides(1, 1, 0, 0)})), GATE)
    assert state.labels == sides(3, 2, 3, 3)
    state = labels.count(state, observed(Labelled("b", "9", "classes", 0, {"50": sides(1, 1, 1, 0)})), GATE)
    assert state.labels == sides(4, 3, 4, 3)
    assert labels.count(state, observed(Labelled("b", "9", "classes", 0, {"50": sides(1, 1, 1, 0)})), GATE) == state


def test_a_pod_that_was_not_read_keeps_its_page_and_one_that_is_gone_does_not() -> None:
    page = Labelled("a", "1", "classes", 0, {"5": sides(4, 2, 5, 4)})
    state = labels.count(QualityState(), observed(page), GATE)
    state = labels.count(state, observed(Labelled("a")), GATE)
    assert labels.count(state, observed(page), GATE) == state
    state = labels.count(state, observed(pods=("b",)), GATE)
    assert (state.pages, state.labels) == ({}, sides(4, 2, 5, 4))


def test_a_page_with_fewer_labels_adds_none() -> None:
    state = labels.count(QualityState(), observed(Labelled("a", "1", "classes", 0, {"5": sides(4, 2, 5, 4)})), GATE)
    state = labels.count(state, observed(Labelled("a", "1", "classes", 0, {"5": sides(3, 2, 6, 6)})), GATE)
    assert state.labels == sides(4, 2, 5, 4)


def test_another_tolerance_counts_all_labels_again() -> None:
    gate = QualityGate("within", 0.5)
    largest = labels.bin_for(gate)
    page = Labelled("a", "1", "numbers", largest, {"5": sides(4, 2, 5, 4)})
    state = labels.count(labels.first(observed(replace(page, weights={}))), observed(page), gate)
    assert (state.labels, state.kind) == (sides(4, 2, 5, 4), "numbers")
    wider = QualityGate("within", 5.0)
    state = labels.count(state, observed(page), wider)
    assert state.labels == LabelSides(), "the page that was asked for the former tolerance"
    state = labels.count(
        state, observed(replace(page, bin=labels.bin_for(wider), weights={"5": sides(4, 4, 5, 5)})), wider
    )
    assert state.labels == sides(4, 4, 5, 5)


@pytest.mark.parametrize(("within", "place"), [(1e-9, 0), (1.0, 360), (0.5, 348), (1e9, 719), (0.0, 0), (-1.0, 0)])
def test_the_bin_of_a_tolerance(within: float, place: int) -> None:
    assert labels.bin_for(QualityGate("within", within)) == place


def test_the_state_is_bounded_and_checked() -> None:
    with pytest.raises(DecodeError, match="right must be 0 to number"):
        decode(Labels, {"number": 1, "right": 2})
    with pytest.raises(DecodeError, match="each logarithm in logs"):
        decode(QualityState, {"logs": [1e19]})
    assert LabelPage() == decode(LabelPage, {})


# ------------------------------------------------------------------------------------------------------------- the test


def after(*blocks: LabelSides, drop: float = 0.02) -> QualityState:
    state = QualityState()
    for block in blocks:
        state = quality.add(state, {"25": block}, max_drop=drop)
    return state


def test_labels_of_one_side_prove_nothing() -> None:
    for block in (sides(1000, 0, 0, 0), sides(0, 0, 1000, 1000), sides(4, 0, 1000, 1000)):
        state = after(block)
        assert quality.against(state) == 0.0
        assert state.labels == block
    assert quality.against(after(sides(1000, 990, 1000, 500))) < 0.0


def test_a_few_labels_of_several_readings_make_one_block() -> None:
    parts = [sides(1, 0, 3, 3)] * 5
    assert quality.against(after(*parts)) == quality.against(after(sides(5, 0, 15, 15)))


def test_the_gate_waits_for_its_number_of_labels() -> None:
    worse = after(sides(199, 0, 1000, 1000))
    assert not quality.judge(worse, GATE).is_decisive
    assert quality.judge(worse, QualityGate(min_labels=199)).is_decisive
    assert quality.sentence(sides(400, 320, 1000, 900)) == (
        "80.0 % of its 400 predictions with a label were right, and 90.0 % of 1000 of stable in the same time"
    )


@pytest.mark.parametrize("drop", [0.001, 0.02, 0.5])
@pytest.mark.parametrize(("own", "others"), [(1, 1), (5, 95), (95, 5), (50, 50)])
def test_the_expected_factor_of_a_block_is_at_most_one_under_the_hypothesis(own: int, others: int, drop: float) -> None:
    """With the exact distribution of one label of each side: their mean, weighted by the numbers, is what the proof
    bounds."""
    for b in (0.01, 0.1, 0.3):
        for excess in (0.03, 0.2, 0.49):
            a = min(b + drop + excess, 0.999)
            y = quality.closest(own, a, others, b, drop)
            x = y + drop

            def expected(p: float, alternative: float, hypothesis: float) -> float:
                return p * alternative / hypothesis + (1.0 - p) * (1.0 - alternative) / (1.0 - hypothesis)

            for place in range(21):
                q = place / 20.0 * (1.0 - drop)
                for p in (0.0, q / 2.0, q, q + drop):
                    mean = (own * expected(p, a, x) + others * expected(q, b, y)) / (own + others)
                    assert mean <= 1.0 + 1e-6


def test_the_gate_is_the_last_of_the_chain_and_no_annotation_passes_it() -> None:
    worse = after(sides(400, 200, 1000, 950))
    assert chain.judge(Pairs(), Gates(), labels=worse) is None
    verdict = chain.judge(Pairs(), Gates(quality=GATE), chain.ACCEPTABLE.keys(), labels=worse)
    assert verdict is not None
    assert verdict.reason is Reason.LOWER_QUALITY
    assert chain.GATES[-1] == "quality"


# ---------------------------------------------------------------------------------------------------------- simulations


@pytest.mark.simulation
def test_half_of_the_bad_versions_need_at_most_600_labels() -> None:
    found = [labels_until_rolled_back(seed, 0.8, most=3000, requests_per_second=40) for seed in range(20)]
    assert None not in found
    median = statistics.median(number for number in found if number)
    print(f"0.90 -> 0.80: median {median:g} labels of the candidate, most {max(number or 0 for number in found)}")
    assert median <= 600


@pytest.mark.simulation
@pytest.mark.parametrize("harder", [None, "while the weight rises", "in waves"])
def test_equal_versions_are_not_rolled_back(harder: str | None) -> None:
    """Also while requests become harder: then each side is right less often."""
    functions: dict[str | None, Any] = {
        None: lambda _: 0.0,
        "while the weight rises": lambda now: min((now % 100_000.0) / 4000.0, 0.3),
        "in waves": lambda now: 0.1 + 0.1 * math.sin(now / 20.0),
    }
    runs = 10
    found = [labels_until_rolled_back(seed, 0.9, most=800, harder=functions[harder]) for seed in range(runs)]
    print(f"equal, harder {harder}: {sum(number is not None for number in found)} of {runs} rolled back")
    assert found == [None] * runs


@pytest.mark.simulation
def test_a_version_may_bake_for_a_week_with_autoscaling_and_restarts() -> None:
    """Its labels come after five days; v1 stays warm, and one command goes back."""
    world = labelling(label_seconds=5 * 86_400.0, requests_per_second=5)
    auto = Serving(autoscaling=Autoscaling(4, 2))
    world.change(spec("v1", serving=auto))
    world.run(lambda w: w.settled(), 100)
    world.change(spec("v2", rollout=rollout(bake_seconds=604_800), serving=auto))
    world.run(lambda w: w.status.phase == "Baking", 3000)
    rng, start = random.Random(3), world.now
    world.requests_per_second = 0.01
    while world.status.phase == "Baking":
        world.revisions[identity("v2")].replicas = rng.choice((2, 3, 4))
        world.tick(600.0, **({"dies_after": rng.randrange(6)} if rng.random() < 0.2 else {}))
        assert world.now < start + 604_800 + 1200
        if world.status.phase == "Baking":
            assert len(world.revisions[identity("v1")].pods) >= 1
            assert len(str(world.status)) < 100_000
    assert world.now - start > 4.9 * 86_400
    world.run(lambda w: w.settled(), 3000)
    assert world.status.rejected[0].reason == Reason.LOWER_QUALITY
    assert world.status.stable is not None
    assert world.status.stable.version == "v1"
