"""Records, the comparison of an orphan with what the operator built, and snapshots that are read from a Deployment."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from mlmodel_operator import resources
from mlmodel_operator.api.revision import revision_id
from mlmodel_operator.api.schema import Quantity, Time
from mlmodel_operator.api.status import HistoryEntry, Rejected
from mlmodel_operator.api.types import (
    ApiKeys,
    Batching,
    FeedbackKey,
    ModelSource,
    Resources,
    Revision,
    RouterSpec,
    Snapshot,
    Traffic,
)
from mlmodel_operator.observe import slim_record
from mlmodel_operator.resources.equality import difference
from mlmodel_operator.resources.found import read_snapshot
from mlmodel_operator.resources.records import decisions_record, deployment_record, number_of, read_records
from mlmodel_operator.rollout.recovery import Decisions
from tests.unit.operator.resources.cast import IMAGE, OWNER, Body, revision

SHA = "9f2c" * 16
REJECTED = Rejected("77b0d1c4", "v2", "ErrorRate", "\x7f \U0001f600 <&>", Time(2.25), 5, "again")
ENTRY = HistoryEntry("77b0d1c4", "v2", "RolledBack", Time(1.0), Time(2.25), "failed")


def test_what_is_recorded_is_read_again() -> None:
    deployment = resources.deployment(OWNER, revision())
    router = resources.router_deployment(OWNER, Traffic(RouterSpec(3)), "haproxy:3.2", "0123")
    decisions = Decisions("5f1c2e9a", (REJECTED,), (ENTRY,))
    bodies = [
        decisions_record(OWNER, decisions, 2),
        decisions_record(OWNER, Decisions("00000000"), 1),
        deployment_record(OWNER, deployment, revision()),
        deployment_record(OWNER, router),
    ]
    recorded = read_records(bodies)
    assert recorded.known.decisions == decisions
    assert recorded.known.snapshots == {"5f1c2e9a": revision().snapshot}
    (built,) = recorded.deployments["fraud-5f1c2e9a"]
    assert built["spec"] == deployment["spec"]
    (built,) = recorded.deployments["fraud-router"]
    assert built["spec"] == {key: value for key, value in router["spec"].items() if key != "replicas"}
    assert all(str(body["data"]).isascii() for body in bodies)
    assert all("\x7f" not in body["data"]["mlmodelRecord"] for body in bodies)


def test_a_record_of_another_release_has_the_snapshot_and_no_intent() -> None:
    deployment = resources.deployment(OWNER, revision())
    recorded = read_records([deployment_record(OWNER, deployment, revision(), exact=False)])
    assert set(recorded.known.snapshots) == {"5f1c2e9a"}
    assert recorded.deployments == {}


def test_the_name_of_a_record_is_that_of_its_content() -> None:
    first = decisions_record(OWNER, Decisions("5f1c2e9a"), 1)
    assert (
        first["metadata"]["name"]
        == decisions_record(replace(OWNER, uid="new"), Decisions("5f1c2e9a"), 7)["metadata"]["name"]
    )
    assert (
        first["metadata"]["name"] != decisions_record(OWNER, Decisions("5f1c2e9a", (REJECTED,)), 1)["metadata"]["name"]
    )


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"spec": {"template": {}}},
        {"mlmodelRecord": "{"},
        {"mlmodelRecord": 7},
        {"mlmodelRecord": "[]"},
        {"mlmodelRecord": '{"kind": "Other"}'},
        {"mlmodelRecord": '{"kind": "Decisions", "stable": 7}'},
        {"mlmodelRecord": '{"kind": "Deployment", "snapshot": {}}'},
        {"mlmodelRecord": '{"kind": "Decisions", "stable": "bad"}', "spec": {}},
    ],
    ids=str,
)
def test_anything_else_is_no_record(data: Any) -> None:
    known = read_records([{"metadata": {"name": "x"}, "revision": 9, "data": data}]).known
    assert (known.decisions, known.snapshots) == (Decisions(), {})


def test_the_store_keeps_a_record_without_its_data() -> None:
    body = deployment_record(OWNER, resources.deployment(OWNER, revision()), revision())
    kept = slim_record(body, None)
    assert "data" not in kept
    assert number_of(kept) == 1
    assert kept["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid


# ------------------------------------------------------------------------------------------------------ the comparison

CONTAINER = ("spec", "template", "spec", "containers", 0)


def changed(body: Body, *path: Any, value: Any) -> Body:
    """Return a copy with one field set; None removes it."""
    copied = copy.deepcopy(body)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ((*CONTAINER, "image"), "evil:1", "spec.template.spec.containers[0].image"),
        ((*CONTAINER, "command"), ["sh"], "spec.template.spec.containers[0].command"),
        ((*CONTAINER, "securityContext"), None, "spec.template.spec.containers[0].securityContext"),
        ((*CONTAINER, "args", 1), "other", "spec.template.spec.containers[0].args[1]"),
        (("spec", "template", "spec", "containers"), [{}, {}], "spec.template.spec.containers"),
        (("spec", "template", "spec", "hostNetwork"), True, "spec.template.spec.hostNetwork"),
        (("spec", "template", "spec", "serviceAccountName"), "admin", "spec.template.spec.serviceAccountName"),
        (
            ("spec", "template", "metadata", "annotations"),
            {"x": "y"},
            "spec.template.metadata.annotations.eks.amazonaws.com/skip-containers",
        ),
        (("spec", "template", "spec", "volumes"), [], "spec.template.spec.volumes"),
        (("spec", "selector"), {}, "spec.selector.matchLabels"),
        (("metadata", "labels", "mlmodel.dev/revision"), "other", "metadata.labels[mlmodel.dev/revision]"),
        (("metadata", "annotations", "mlmodel.dev/template"), "x", "metadata.annotations[mlmodel.dev/template]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_any_other_field_is_a_difference(path: tuple[Any, ...], value: Any, found: str) -> None:
    built = resources.deployment(OWNER, revision())
    assert difference(changed(built, *path, value=value), built) == found


def test_what_changes_later_is_no_difference() -> None:
    built = resources.deployment(OWNER, revision())
    live = changed(built, "spec", "replicas", value=7)
    live["metadata"]["annotations"] |= {"deployment.kubernetes.io/revision": "3", "mlmodel.dev/applied": "x"}
    live["metadata"]["labels"]["velero.io/restore-name"] = "nightly"
    live["spec"]["template"]["metadata"]["annotations"] |= {"kubectl.kubernetes.io/restartedAt": "2027-01-01"}
    assert difference(live, built) == ""
    service = resources.service(OWNER, "5f1c2e9a")
    live = changed(service, "spec", "clusterIP", value="10.0.0.7")
    live["spec"] |= {"clusterIPs": ["10.0.0.7"]}
    live["spec"]["ports"][0]["nodePort"] = 30000
    assert difference(live, service) == ""
    assert difference(changed(service, "spec", "externalIPs", value=["1.2.3.4"]), service) == "spec.externalIPs"


# -------------------------------------------------------------------------------------- snapshots read from Deployments


@pytest.mark.parametrize(
    "snapshot",
    [
        Snapshot(ModelSource("builtin://iris"), IMAGE),
        Snapshot(ModelSource("configmap://fraud-v1", version="v1"), IMAGE),
        Snapshot(ModelSource("configmap://fraud-v1"), IMAGE, files_sha256=SHA),
        Snapshot(ModelSource("s3://models/fraud/7", sha256=SHA), IMAGE),
        Snapshot(ModelSource("https://x.example/m.skops?token=a$$b$", sha256=SHA), IMAGE),
        Snapshot(ModelSource("pvc://claim/dir", version="v1", trust="signed", format="onnx"), IMAGE),
        Snapshot(ModelSource("builtin://iris"), IMAGE, api_keys=ApiKeys("keys"), batching=Batching(8)),
        Snapshot(ModelSource("builtin://iris"), IMAGE, api_keys=ApiKeys("keys"), feedback_key=FeedbackKey("feedback")),
        Snapshot(ModelSource("builtin://iris"), IMAGE, Resources({"cpu": Quantity("2")}, {"memory": Quantity("1Gi")})),
        Snapshot(
            ModelSource("builtin://iris"), IMAGE, Resources({"cpu": Quantity("100m"), "memory": Quantity("256Mi")})
        ),
    ],
    ids=lambda snapshot: snapshot.model.uri,
)
def test_a_snapshot_is_read_from_the_deployment_that_was_built_from_it(snapshot: Snapshot) -> None:
    identity = revision_id(snapshot)
    built = resources.deployment(OWNER, Revision(identity, snapshot), signing_keys="PEM", timeout_seconds=600)
    assert read_snapshot(built, IMAGE) == snapshot


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*CONTAINER, "args", 3), "s3://evil/model"),
        ((*CONTAINER, "args"), []),
        ((*CONTAINER, "args"), None),
        (("spec", "template", "spec", "containers"), []),
        ((*CONTAINER, "resources"), {"limits": {"memory": "64Gi"}}),
        ((*CONTAINER, "resources"), {"limits": [1]}),
    ],
    ids=str,
)
def test_a_deployment_that_was_changed_gives_no_snapshot(path: tuple[Any, ...], value: Any) -> None:
    snapshot = Snapshot(ModelSource("builtin://iris"), IMAGE)
    built = resources.deployment(OWNER, Revision(revision_id(snapshot), snapshot))
    assert read_snapshot(changed(built, *path, value=value), IMAGE) is None
