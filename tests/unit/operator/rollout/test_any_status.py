"""Anyone who may write a status can write any: it is read, or is as good as lost, and nothing raises."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mlmodel_operator.api import codec
from mlmodel_operator.api.codec import DecodeError, encode
from mlmodel_operator.api.evidence import Again, Agreement, Counts, Outcomes, Pairs, Segment, Sides
from mlmodel_operator.api.figures import Calls, Drift
from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.schema import Quantity, Time
from mlmodel_operator.api.status import FORMAT_VERSION, Status
from mlmodel_operator.api.types import MLModel, Rollout
from mlmodel_operator.api.upgrade import read_status, without_state
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.evidence import difference
from mlmodel_operator.rollout.observed import Measured, Observed, Pod, Rehearsing, RevisionState, Router
from mlmodel_operator.rollout.recovery import Decisions, Known, decisions_of, is_lost, recover
from mlmodel_operator.rollout.routes import Routes
from tests.unit.operator.rollout.world import IMAGE, OWNER, identity, spec

pytestmark = pytest.mark.simulation

SEED = 20260301
NOW = 1_800_000_000.0
REVISIONS = [*(identity(version) for version in ("v1", "v2", "v3")), "ffffffff"]
RECORDED = [
    json.loads(path.read_text())["status"]
    for path in sorted(Path(__file__).parent.parent.glob("api/statuses_v[123]/*.json"))
]

INTEGERS = st.one_of(
    st.integers(0, 100), st.sampled_from([1000, 2**31, 2**53, 2**63 - 1, 2**63, 10**400, -1, -(2**63)])
)
FLOATS = st.sampled_from([0.0, 0.5, 1.0, 1e-300, 200.0, NOW, 1e18, 1e308, -1.0, -1e308])
TIMES = st.one_of(
    st.sampled_from([codec.format_time(NOW + seconds) for seconds in (-1.7e9, -1000, -10, -1, 0, 1, 1000, 5e9)]),
    st.sampled_from(
        ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-23:59", "2026-01-01T00:00:00.123456789Z"]
    ),
)
TEXTS = st.one_of(
    st.sampled_from(["", "a", "v1", "NoEvidence", "configmap://fraud-v1", "\u202e", "\x00", "../x?y", "v1\nstable b"]),
    st.text(max_size=5),
)
JUNK = st.sampled_from([None, True, 0, -1, 1.5, "", "x", [], {}, [None], {"a": None}])
"""What does not fit a schema: the API server rejects most of it."""


def values(kind: Any, name: str) -> st.SearchStrategy[Any]:
    """Return a strategy for JSON data of a type, for a field of this name."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return objects(kind)
    origin = get_origin(kind)
    if origin is tuple:
        return st.lists(values(get_args(kind)[0], name), max_size=4)
    if origin is Mapping:
        keys = st.sampled_from(["5", "25", "100", "a", "", "r/0", "r/1", "large", "-3", "p0", "p1"])
        return st.dictionaries(keys, values(get_args(kind)[1], name), max_size=3)
    if origin is Literal:
        return st.sampled_from(get_args(kind))
    found = {int: INTEGERS, float: FLOATS, bool: st.booleans(), Time: TIMES, Quantity: st.just("1")}.get(kind, TEXTS)
    return st.one_of(st.sampled_from(REVISIONS), found) if "revision" in name and kind is str else found


def objects(cls: type) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for JSON data of an object: fields of their types, with any value."""
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for item in codec._fields(cls):
        inner = values(item.type, item.name)
        if item.name == "format_version":
            inner = st.just(FORMAT_VERSION)
        (required if item.required else optional)[item.wire] = inner.map(json.dumps) if item.opaque else inner
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def edited(draw: st.DrawFn, cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON data of an object with some of its fields changed or removed."""
    result = dict(data)
    fields = {item.wire: item for item in codec._fields(cls)}
    for wire in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)):
        item, inner = fields[wire], result.get(wire)
        how = draw(st.sampled_from(["deeper", "deeper", "value", "value", "remove", "junk"]))
        if how == "deeper" and isinstance(inner, dict) and isinstance(item.type, type):
            result[wire] = draw(edited(item.type, inner))
        elif how == "remove":
            result.pop(wire, None)
        elif how == "junk":
            result[wire] = draw(JUNK)
        else:
            found = draw(values(item.type, item.name))
            result[wire] = json.dumps(found) if item.opaque else found
    return result


STATUSES = st.one_of(objects(Status), st.sampled_from(RECORDED).flatmap(lambda status: edited(Status, status)))

COUNTS = st.builds(
    lambda failed, more, shared: Counts(failed + more, failed, failed if shared else 0),
    st.sampled_from([0, 1, 10, 1000, 2**52]),
    st.sampled_from([0, 1, 10, 1000, 2**52]),
    st.booleans(),
)
PODS = st.lists(
    st.builds(
        Pod,
        st.sampled_from(["p0", "p1"]),
        st.floats(NOW - 1000, NOW),
        st.booleans(),
        terminating=st.booleans(),
        restarts=st.sampled_from([0, 3]),
        waiting=st.sampled_from(["", "CrashLoopBackOff"]),
        exit_code=st.sampled_from([None, 0, 3, 137]),
    ),
    max_size=2,
).map(tuple)
ROUTERS = st.builds(
    Router,
    st.sampled_from(["r/0", "r/1"]),
    boot=st.sampled_from(["", "a", "0" * 16]),
    candidate=st.sampled_from(REVISIONS),
    stable_ms=st.sampled_from([0, 10, 2**53]),
    weights=st.dictionaries(st.sampled_from([1, 5, 25, 99, 100]), st.builds(Sides, COUNTS, COUNTS), max_size=2),
    uncounted=st.fixed_dictionaries({"large": st.sampled_from([0, 2**53])}),
)
PAIRS = st.builds(
    lambda number, failed, gap: Pairs(
        seen=number,
        left=number,
        asked=number,
        pairs=Outcomes(number, failed, failed, number),
        again=Again(number, 0),
        agree=Agreement(number, number // 2, own_mode=number),
        gaps={gap: number},
        ratios={gap: number},
        times={"0": number, "200": failed},
    ),
    st.sampled_from([0, 1, 1000, 2**53]),
    st.sampled_from([0, 1, 1000, 2**53]),
    st.sampled_from(["-20", "0", "20"]),
)
REHEARSING = st.builds(
    Rehearsing,
    st.sampled_from(["p0", "p1"]),
    boot=st.sampled_from(["", "a", "0" * 16]),
    candidate=st.sampled_from(["", *REVISIONS]),
    pairs=PAIRS,
    silent_since=st.sampled_from([None, NOW - 100.0, NOW]),
)
MEASURED = st.builds(
    Measured,
    st.sampled_from(["p0", "p1"]),
    st.sampled_from(REVISIONS),
    boot=st.sampled_from(["", "a", "0" * 16]),
    calls=st.builds(Calls, *[st.sampled_from([0, 1, 20, 2**53])] * 4),
    milliwatts=st.sampled_from([0, 1, 10**6]),
    drift=st.builds(Drift, st.just("age"), st.sampled_from([None, 0.0, 0.001, 1000.0]), st.sampled_from([None, 0.1])),
)
OBSERVED = st.builds(
    Observed,
    st.dictionaries(
        st.sampled_from(REVISIONS),
        st.builds(
            RevisionState,
            PODS,
            st.sampled_from(["", "10.0.0.1", "fd00::2"]),
            st.integers(0, 3),
            rehearses=st.booleans(),
        ),
        max_size=3,
    ),
    st.lists(ROUTERS, max_size=2).map(tuple),
    followed=st.sampled_from(
        [None, Routes({"a": "10.0.0.1"}, "a"), Routes({"a": "10.0.0.1", "b": "fd00::2"}, "a", "b")]
    ),
    rehearsing=st.lists(REHEARSING, max_size=2).map(tuple),
    measured=st.lists(MEASURED, max_size=2).map(tuple),
)
ROLLOUTS = st.builds(
    Rollout, paused=st.booleans(), on_no_evidence=st.sampled_from(["Proceed", "Hold", "Promote", "RollBack"])
)

LINES = re.compile(  # as routes.lua reads them
    r"id [0-9a-f]+\n(slot [ab] [0-9a-f.:]+ \d+( [\w.-]*)?\n)*"
    r"(stable [ab]\n)?(candidate [ab] \d+ [0-9a-zA-Z]+ \d+ \d+\n)?",
    re.ASCII,
)


def load(raw: Mapping[str, Any], model: MLModel, observed: Observed, known: Known) -> Status | None:
    """Return a status as the controller reads it: without its evidence, or rebuilt, if it cannot be read."""
    try:
        status = read_status(raw)
    except DecodeError:
        try:
            status = read_status(without_state(raw))
        except DecodeError:
            status = Status()
    if is_lost(status, recorded_stable=known.decisions.stable):
        return recover(model, observed, known, IMAGE, NOW).status
    return status


@pytest.mark.attack(held=True)
@seed(SEED)
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(STATUSES, OBSERVED, ROLLOUTS, st.sampled_from(["v1", "v2", "v3"]), st.booleans())
def test_no_status_makes_a_decision_raise(
    raw: dict[str, Any], observed: Observed, rollout: Rollout, version: str, has_records: bool
) -> None:
    model = MLModel(OWNER, 2, spec(version, rollout=rollout))
    known = Known()
    if has_records:
        revisions = [desired_revision(spec(name), IMAGE) for name in ("v1", "v2", "v3")]
        known = Known(Decisions(identity("v1")), {revision.id: revision.snapshot for revision in revisions})
    status = load(raw, model, observed, known)
    if status is None:
        return  # nothing is changed, and StatusLost says what to do
    plan = decide(model, observed, status, IMAGE, NOW)
    written = json.loads(json.dumps(encode(plan.status), allow_nan=False))
    assert encode(read_status(written)) == written, "what is written can be read"
    assert encode(decisions_of(read_status(written))) == encode(decisions_of(plan.status))
    assert re.fullmatch(r"(candidate [0-9a-z]{1,63} [0-9a-f]{64} [!-~]+\n)?", plan.rehearsal), "servers understand it"
    if plan.routes is not None:
        assert LINES.fullmatch(plan.routes.text()), "the router understands the routes"


def test_a_new_segment_after_millions_of_requests_without_a_failure_has_a_rate() -> None:
    before = (Segment(5, 0.0025, Sides(Counts(50_000), Counts(950_000))),)
    segments = difference.add(before, 25, Sides(Counts(1), Counts(3)))
    assert 0 < segments[-1].rate < 1e-6
