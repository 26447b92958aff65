"""Parsing, encoding and identity of a spec: what starts a rollout."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_operator.api.codec import DecodeError, decode, encode, format_time, parse_time
from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.revision import desired_revision, revision_id
from mlmodel_operator.api.schema import Quantity, Time
from mlmodel_operator.api.status import Candidate, Condition, Stable, Status
from mlmodel_operator.api.types import ApiKeys, Batching, FeedbackKey, ModelSource, Resources, Revision, Snapshot, Spec


def revision(spec: dict[str, object]) -> str:
    return desired_revision(decode(Spec, spec), "image").id


BASE: dict[str, object] = {"model": {"uri": "configmap://fraud-v1", "version": "v1"}}


@pytest.mark.parametrize(
    "more",
    [
        {"serving": {"replicas": 3}},
        {"serving": {"autoscaling": {"maxReplicas": 3}}},
        {"serving": {"resources": {}}},
        {"serving": {"batching": {"maxRows": 64}}},
        {"serving": {"refresh": ""}},
        {"rollout": {"steps": [{"weight": 1}], "paused": True, "retry": "x"}},
        {"traffic": {"router": {"replicas": 2}}},
        {"model": {"uri": "configmap://fraud-v1", "version": "v1", "format": "auto", "sha256": "", "trust": "strict"}},
    ],
)
def test_a_change_of_no_pod_starts_no_rollout(more: dict[str, object]) -> None:
    assert revision({**BASE, **more}) == revision(BASE)


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"uri": "configmap://fraud-v2", "version": "v1"}},
        {"model": {"uri": "configmap://fraud-v1", "version": "v2"}},
        {"model": {"uri": "configmap://fraud-v1", "version": "v1", "format": "onnx"}},
        {"model": {"uri": "configmap://fraud-v1", "version": "v1", "trust": "signed"}},
        {**BASE, "serving": {"resources": {"limits": {"memory": "1Gi"}}}},
        {**BASE, "serving": {"batching": {"maxRows": 1}}},
        {**BASE, "serving": {"apiKeys": {"secretName": "fraud-keys"}}},
        {**BASE, "serving": {"feedbackKey": {"secretName": "fraud-keys"}}},
        {**BASE, "serving": {"refresh": "2026-06"}},
    ],
)
def test_a_change_of_a_pod_is_a_new_revision(other: dict[str, object]) -> None:
    assert revision(other) != revision(BASE)


SHA = "9f2c" * 16
RESOURCES = {"requests": {"cpu": 1, "memory": "1.5Gi"}, "limits": {"memory": "2Gi"}}


@pytest.mark.parametrize(
    ("spec", "identity"),
    [
        ({"model": {"uri": "builtin://iris"}}, "29f12fd6"),
        ({"model": {"uri": "configmap://fraud-v1", "version": "v1"}}, "d6fd3f2b"),
        ({"model": {"uri": "pvc://models/fraud/7", "format": "skops"}}, "50b882bc"),
        (
            {"model": {"uri": "https://example.com/m.joblib", "sha256": SHA, "format": "joblib", "version": "v7"}},
            "e9b82308",
        ),
        ({"model": {"uri": "configmap://fraud-v1"}, "serving": {"replicas": 2, "resources": RESOURCES}}, "722cf625"),
    ],
)
def test_the_revision_is_the_same_in_every_release(spec: dict[str, object], identity: str) -> None:
    # A changed value here would roll out models of users on the next upgrade of the operator.
    assert revision(spec) == identity


def test_every_field_of_a_pod_is_part_of_its_revision() -> None:
    """Every field of a snapshot except those that the operator computes, also one that is added later."""
    snapshot = Snapshot(ModelSource("builtin://x"), "image")
    others = {
        "model": ModelSource("builtin://y"),
        "resources": Resources({"cpu": Quantity("1")}),
        "batching": Batching(1),
        "api_keys": ApiKeys("keys"),
        "feedback_key": FeedbackKey("feedback"),
        "refresh": "2026-06",
    }
    computed = {"image": "other", "files_sha256": SHA}
    assert {field.name for field in dataclasses.fields(Snapshot)} == {*others, *computed}
    for name, value in others.items():
        assert revision_id(dataclasses.replace(snapshot, **{name: value})) != revision_id(snapshot), name  # type: ignore[arg-type]
    assert revision_id(dataclasses.replace(snapshot, **computed)) == revision_id(snapshot)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "digest", "label"),
    [
        (ModelSource("builtin://x"), "", "0123456"),
        (ModelSource("https://x/m", sha256=SHA), f"sha256:{SHA}", "9f2c9f2"),
        (ModelSource(f"oci://r.example/m@sha256:{SHA}"), f"sha256:{SHA}", "9f2c9f2"),
        (ModelSource("oci://r.example/m:v1", sha256=SHA, version="v1"), f"sha256:{SHA}", "v1"),
        (ModelSource("pvc://claim/a@b"), "", "0123456"),
    ],
)
def test_the_digest_is_of_the_model_or_of_its_image(model: ModelSource, digest: str, label: str) -> None:
    assert model.digest == digest
    assert Revision("01234567", Snapshot(model, "image")).label == label


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "spec.model is missing"),
        ({"model": {"uri": 7}}, "spec.model.uri must be of type str"),
        (
            {"model": {"uri": "x", "format": "sql"}},
            "spec.model.format must be one of auto, sklearn, skops, joblib, onnx",
        ),
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
    snapshot = Snapshot(ModelSource("configmap://x"), "image", Resources({}, {}), Batching(8), ApiKeys("keys"))
    status = Status(
        observed_generation=3,
        stable=Stable("v1", "aaaaaaaa", "a", snapshot, replicas=2, ready_replicas=2),
        candidate=Candidate("v2", "bbbbbbbb", "Canary", snapshot, now, now, slot="b", evidence=Evidence(at=now)),
        conditions=(Condition("Ready", "True", "Serving", "all is well", now),),
    )
    assert decode(Status, encode(status)) == status
    assert encode(decode(Status, encode(status))) == encode(status)


def test_a_status_of_the_first_release_is_read_and_leads_to_the_same_revision() -> None:
    raw = {"model": {"uri": "configmap://fraud-v1", "version": "v1", "format": "auto"}, "image": "i", "resources": {}}
    snapshot = decode(Snapshot, raw)
    assert snapshot == Snapshot(ModelSource("configmap://fraud-v1", version="v1"), "i")
    assert revision_id(snapshot) == "d6fd3f2b"
