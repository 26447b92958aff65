"""Pages of stable's pods in the status: each pair counts once, and they stay few however many pods there are."""

from __future__ import annotations

import json
from dataclasses import replace

from mlmodel_operator.api.codec import encode
from mlmodel_operator.api.evidence import (
    MOST_GAP,
    MOST_RATIO,
    MOST_TIME,
    Agreement,
    Evidence,
    Outcomes,
    Pairs,
)
from mlmodel_operator.rollout.evidence.gather import gather
from mlmodel_operator.rollout.observed import MOST_REHEARSING, Observed, Pod, Rehearsing, RevisionState
from tests.unit.operator.rollout.test_observe import CANDIDATE, NOW

STABLE = "aaaa"


def page(pod: str, number: int, boot: str = "b") -> Rehearsing:
    pairs = Pairs(asked=number, pairs=Outcomes(number))
    return Rehearsing(pod, f"{pod}{boot}", CANDIDATE.revision, pairs, is_named=True)


def observed(pods: list[str], pages: list[Rehearsing]) -> Observed:
    state = RevisionState(tuple(Pod(pod, NOW, ready=True) for pod in pods))
    return Observed({STABLE: state}, rehearsing=tuple(pages))


def read(evidence: Evidence, seen: Observed) -> Evidence:
    return gather(evidence, seen, CANDIDATE, now=NOW, max_percent=1.0)


def test_pages_of_many_pods_are_folded_and_each_pair_counts_once() -> None:
    """Autoscaling: other pods come first in the order of names, and later some of the former ones again."""
    pods = [f"pod-{number:03}" for number in range(120)]
    evidence = Evidence()
    for first in (100, 80, 60, 40, 20, 0, 100):
        pages = [page(pod, 10) for pod in pods[first : first + MOST_REHEARSING]]
        evidence = read(evidence, observed(pods, pages))
    state = evidence.state
    assert state.pairs.pairs.all == 1200
    assert sum(known.pairs != Pairs() for known in state.pages.values()) <= MOST_REHEARSING
    grown = read(evidence, observed(pods, [page(pods[119], 50)]))
    assert grown.state.pairs.pairs.all == 1200, "what a folded process counts since then is left out"
    again = read(grown, observed(pods, [page(pods[119], 7, boot="another")]))
    assert again.state.pairs.pairs.all == 1207
    rest = read(again, observed(pods[:50], []))
    assert rest.state.pairs.pairs.all == 1207
    assert set(rest.state.pages) <= set(pods[:50])


def test_the_status_of_a_long_rollout_with_many_pods_is_bounded() -> None:
    """Every bin is used, and other pods are read in turn: etcd stores 1.5 MB."""
    pods = [f"fraud-0123456789-{number:05}" for number in range(60)]
    ratios = dict.fromkeys(map(str, range(-MOST_RATIO, MOST_RATIO + 1)), 123_456)
    times = dict.fromkeys(map(str, range(MOST_TIME + 1)), 123_456)
    gaps = dict.fromkeys(map(str, range(-MOST_GAP, MOST_GAP + 1)), 123_456)
    many = 10**6
    full = Pairs(
        many, 1000, 10, many, pairs=Outcomes(many), agree=Agreement(many, many), gaps=gaps, gaps_again=gaps,
        ratios=ratios, ratios_again=ratios, times=times, own_times=times,
    )  # fmt: skip
    evidence = Evidence()
    for first in range(0, 60, MOST_REHEARSING):
        pages = [replace(page(pod, 1), pairs=full) for pod in pods[first : first + MOST_REHEARSING]]
        evidence = read(evidence, observed(pods, pages))
    size = len(json.dumps(encode(evidence.state)))
    assert size < 450_000, f"{size} bytes"
