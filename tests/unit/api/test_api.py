"""Parsing, encoding and identity: what a user writes, and what starts a rollout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_operator.api.codec import DecodeError, decode, encode, format_time, parse_time
from mlmodel_operator.api.revision import revision_id, wanted_revision
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Condition, Evidence, Snapshot, Stable, Status
from mlmodel_operator.api.types import ModelSource, Resources, Spec


def revision(spec: dict[str, object]) -> str:
    return wanted_revision(decode(Spec, spec), "image").id


BASE: dict[str, object] = {"model": {"uri": "configmap://fraud-v1", "version": "v1"}}


@pytest.mark.parametrize(
    "more",
    [
        {"serving": {"replicas": 3}},
        {"serving": {"autoscaling": {"maxReplicas": 3}}},
        {"serving": {"resources": {}}},
        {"rollout": {"steps": [{"weight": 1}], "paused": True, "retry": "x"}},
        {"traffic": {"router": {"replicas": 2}}},
        {"model": {"uri": "configmap://fraud-v1", "version": "v1", "format": "auto", "sha256": ""}},
    ],
)
def test_what_does_not_change_the_answer_starts_no_rollout(more: dict[str, object]) -> None:
    assert revision({**BASE, **more}) == revision(BASE)


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"uri": "configmap://fraud-v2", "version": "v1"}},
        {"model": {"uri": "configmap://fraud-v1", "version": "v2"}},
        {**BASE, "serving": {"resources": {"limits": {"memory": "1Gi"}}}},
    ],
)
def test_what_changes_the_answer_is_a_new_revision(other: dict[str, object]) -> None:
    assert revision(other) != revision(BASE)


def test_the_revision_is_the_same_in_every_release() -> None:
    # A changed value here would roll out every model of every user on the next upgrade of the operator.
    assert revision_id(ModelSource("configmap://fraud-v1", version="v1"), Resources()) == "d6fd3f2b"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "spec.model is missing"),
        ({"model": {"uri": 7}}, "spec.model.uri must be of type str"),
        ({"model": {"uri": "x", "format": "onnx"}}, "spec.model.format must be one of auto, skops, joblib"),
        ({"model": {"uri": "x"}, "rollout": {"steps": 5}}, "spec.rollout.steps must be a list"),
        ({"model": {"uri": "x"}, "rollout": {"steps": [{}]}}, r"spec.rollout.steps\[0\].weight is missing"),
    ],
)
def test_data_that_does_not_fit_is_named(spec: dict[str, object], sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        decode(Spec, spec, "spec")


@given(st.floats(0, 4e9).map(lambda x: round(x, 3)))
def test_times_survive_the_wire(seconds: float) -> None:
    text = format_time(seconds)
    assert format_time(parse_time(text)) == text
    assert abs(parse_time(text) - seconds) < 0.0015


def test_status_survives_the_wire() -> None:
    now = Time(1_800_000_000.25)
    snapshot = Snapshot(ModelSource("configmap://x"), "image", Resources({}, {}))
    status = Status(
        observed_generation=3,
        stable=Stable("v1", "aaaaaaaa", "a", snapshot, replicas=2, ready_replicas=2),
        candidate=Candidate("v2", "bbbbbbbb", "Canary", snapshot, now, now, slot="b", evidence=Evidence(at=now)),
        conditions=(Condition("Ready", "True", "Serving", "all is well", now),),
    )
    assert decode(Status, encode(status)) == status
    assert encode(decode(Status, encode(status))) == encode(status)
