"""Anyone who may write a status can write any: what can be read can be decided about, and nothing raises."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import pytest

from mlmodel_operator.api import codec
from mlmodel_operator.api.codec import DecodeError, encode
from mlmodel_operator.api.evidence import Counts, Segment, Sides
from mlmodel_operator.api.schema import Quantity, Time
from mlmodel_operator.api.status import FORMAT_VERSION, Status
from mlmodel_operator.api.types import MLModel, Rollout
from mlmodel_operator.api.upgrade import read_status
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.evidence import difference
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState, Router
from mlmodel_operator.rollout.routes import Routes
from tests.unit.operator.rollout.world import IMAGE, OWNER, identity, spec

pytestmark = pytest.mark.simulation

SEED = 20260301
NOW = 1_800_000_000.0
REVISIONS = [*(identity(version) for version in ("v1", "v2", "v3")), "ffffffff"]
NUMBERS: dict[Any, list[Any]] = {
    int: [0, 0, 1, 2, 5, 25, 50, 99, 100, 101, 1000, 2**31, 2**53, 2**63, 10**30, 10**400, -1, -100],
    float: [0.0, 0.5, 1.0, 1e-300, 200.0, NOW, 1e18, 1e308, -1.0, -1e308],
    bool: [False, True],
    Time: [codec.format_time(NOW + seconds) for seconds in (-1.7e9, -1000, -10, -1, 0, 1, 1000, 5e9)],
    Quantity: ["1"],
}


def any_value(rng: random.Random, kind: Any, name: str) -> Any:
    """Return JSON data of a type, for a field of this name."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return any_object(rng, kind)
    origin = get_origin(kind)
    if origin is tuple:
        return [any_value(rng, get_args(kind)[0], name) for _ in range(rng.choice([0, 1, 2, 6]))]
    if origin is Mapping:
        keys = rng.sample(["5", "25", "100", "a", "r/0", "r/1", "large", "-3"], rng.choice([0, 1, 3]))
        return {key: any_value(rng, get_args(kind)[1], name) for key in keys}
    if origin is Literal:
        return rng.choice(get_args(kind))
    if kind is int and rng.random() < 0.8:
        return rng.randint(0, 100)
    if kind in NUMBERS:
        return rng.choice(NUMBERS[kind])
    return rng.choice(REVISIONS if "revision" in name else ["a", "v1", "NoEvidence", "configmap://fraud-v1", "\u202e"])


def any_object(rng: random.Random, cls: type) -> dict[str, Any]:
    """Return JSON data of an object: most of its fields, of their types, with any value."""
    data: dict[str, Any] = {}
    for item in codec._fields(cls):
        if not item.required and rng.random() > 0.75:
            continue
        value = FORMAT_VERSION if item.name == "format_version" else any_value(rng, item.type, item.name)
        data[item.wire] = json.dumps(value) if item.opaque else value
    return data


def any_counts(rng: random.Random) -> Counts:
    failed, more = (rng.choice([0, 1, 10, 1000, 2**52]) for _ in range(2))
    return Counts(failed + more, failed, rng.choice([0, failed]))


def any_pods(rng: random.Random) -> tuple[Pod, ...]:
    return tuple(
        Pod(
            f"p{number}",
            NOW - 1000 * rng.random(),
            rng.random() < 0.6,
            terminating=rng.random() < 0.2,
            restarts=rng.choice([0, 3]),
            waiting=rng.choice(["", "CrashLoopBackOff"]),
            exit_code=rng.choice([None, 0, 3, 137]),
        )
        for number in range(rng.randint(0, 2))
    )


def any_observed(rng: random.Random) -> Observed:
    routers = tuple(
        Router(
            f"r/{number}",
            boot=rng.choice(["", "a", "0" * 16]),
            candidate=rng.choice(REVISIONS),
            stable_ms=rng.choice([0, 10, 2**53]),
            weights={weight: Sides(any_counts(rng), any_counts(rng)) for weight in rng.sample([1, 5, 25, 99, 100], 2)},
            uncounted={"large": rng.choice([0, 2**53])},
        )
        for number in range(rng.randint(0, 2))
    )
    revisions = {
        name: RevisionState(any_pods(rng), rng.choice(["", "10.0.0.1"]), rng.randint(0, 3))
        for name in rng.sample(REVISIONS, 3)
    }
    return Observed(revisions, routers, followed=rng.choice([None, Routes({"a": "10.0.0.1"}, "a")]))


def test_no_status_that_can_be_read_makes_a_decision_raise() -> None:
    decided = 0
    for run in range(1500):
        rng = random.Random(SEED + run)
        try:
            status = read_status(any_object(rng, Status))
        except DecodeError:
            continue
        rollout = Rollout(paused=rng.random() < 0.2, on_no_evidence=rng.choice(["Hold", "Promote", "RollBack"]))
        model = MLModel(OWNER, 2, spec(rng.choice(["v1", "v2", "v3"]), rollout=rollout))
        try:
            plan = decide(model, any_observed(rng), status, IMAGE, NOW)
            read_status(json.loads(json.dumps(encode(plan.status))))
        except Exception as error:
            raise AssertionError(f"seed {SEED + run}") from error
        decided += 1
    assert decided > 300


def test_a_new_segment_after_millions_of_requests_without_a_failure_has_a_rate() -> None:
    before = (Segment(5, 0.0025, Sides(Counts(50_000), Counts(950_000))),)
    segments = difference.add(before, 25, Sides(Counts(1), Counts(3)))
    assert 0 < segments[-1].rate < 1e-6
