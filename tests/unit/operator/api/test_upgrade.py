"""Statuses of other releases: a rollout of the release before continues, a newer status is detected."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlmodel_operator.api.codec import encode
from mlmodel_operator.api.crd import crd
from mlmodel_operator.api.evidence import Evidence, Pairs
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import FORMAT_VERSION
from mlmodel_operator.api.upgrade import newer_format, read_status, upgrade_status
from tests.unit.operator.rollout.world import Behaviour, World, resumed

HERE = Path(__file__).parent
BODIES: dict[str, dict[str, Any]] = {
    f"{path.parent.name[-2:]}-{path.stem}": json.loads(path.read_text())
    for path in sorted(HERE.glob("statuses_v[123]/*.json"))
}
IN_ROLLOUT = [name for name, body in BODIES.items() if {"stable", "candidate"} <= body["status"].keys()]
COMPARED = [name for name in IN_ROLLOUT if "evidence" in BODIES[name]["status"]["candidate"]]
FINISHED = [name for name, body in BODIES.items() if "candidate" not in body["status"]]


def test_every_phase_is_recorded() -> None:
    every = {"Stable", "Preparing", "Canary", "Promoting", "Baking", "RollingBack", "Draining"}
    for version in ("v1", "v2", "v3"):
        assert {body["status"]["phase"] for name, body in BODIES.items() if name.startswith(version)} == every
    assert {BODIES[name]["status"]["candidate"]["step"] for name in COMPARED} >= {1, 2, 3}
    assert any(body["status"].get("rejected") for body in BODIES.values())
    for name, body in BODIES.items():
        assert body["status"].get("formatVersion", 1) == int(name[1])


@pytest.mark.parametrize("name", BODIES)
def test_every_human_readable_field_is_kept(name: str) -> None:
    raw = BODIES[name]["status"]
    status = encode(read_status(raw))
    assert status.pop("formatVersion") == FORMAT_VERSION
    assert status.pop("draining", None) == raw.get("leaving", raw.get("draining"))
    assert status.keys() == raw.keys() - {"leaving", "draining", "formatVersion"}
    for key in status.keys() - {"candidate"}:
        assert status[key] == raw[key]
    candidate, before = status.get("candidate", {}), raw.get("candidate", {})
    new = {"attemptLimitMs", "stableMs", "holds", "heldRestarts"}
    assert candidate.keys() - new == before.keys() - new
    assert all(candidate[key] == before[key] for key in candidate.keys() - new - {"evidence"})


@pytest.mark.parametrize("name", [name for name in COMPARED if name.startswith("v3")])
def test_what_routers_counted_is_kept_and_there_is_no_pair(name: str) -> None:
    before = BODIES[name]["status"]["candidate"]["evidence"]
    candidate = read_status(BODIES[name]["status"]).candidate
    assert candidate is not None
    assert candidate.evidence is not None
    after = encode(candidate.evidence)
    kept = json.loads(after["state"])
    assert {**after, "state": None} == {**before, "state": None}
    assert {key: kept[key] for key in json.loads(before["state"])} == json.loads(before["state"])
    assert candidate.evidence.state.pairs == Pairs()
    assert candidate.rehearsal is None


@pytest.mark.parametrize("name", [name for name in COMPARED if not name.startswith("v3")])
def test_what_pods_counted_is_no_evidence(name: str) -> None:
    candidate = read_status(BODIES[name]["status"]).candidate
    assert candidate is not None
    assert candidate.evidence == Evidence()


@pytest.mark.parametrize("name", BODIES)
def test_an_upgraded_status_has_this_format_and_survives_the_wire(name: str) -> None:
    status = read_status(BODIES[name]["status"])
    assert read_status(json.loads(json.dumps(encode(status)))) == status
    assert upgrade_status(encode(status)) == encode(status)


def is_finished(world: World) -> bool:
    """Whether the recorded rollout is finished."""
    return world.status.candidate is None and not world.status.draining


@pytest.mark.simulation
@pytest.mark.parametrize("name", IN_ROLLOUT)
@pytest.mark.parametrize("error_rate", [0.0, 1.0], ids=["good", "bad"])
def test_a_rollout_resumes_in_its_phase_and_ends_as_expected(name: str, error_rate: float) -> None:
    body = BODIES[name]
    before = read_status(body["status"])
    assert before.candidate is not None
    world = resumed(body, requests_per_second=100)
    stable_pods = {name: list(revision.pods) for name, revision in world.revisions.items()}
    world.behaviours[before.candidate.version] = Behaviour(error_rate=error_rate)

    world.reconcile()  # no time has passed and no request was sent: only what was due may change
    now = world.status.candidate
    assert now is not None
    assert (now.revision, now.started_at) == (before.candidate.revision, before.candidate.started_at)
    assert now.weight >= before.candidate.weight
    assert (now.evidence is None) == (before.candidate.evidence is None)

    world.change(replace(world.spec, rollout=replace(world.spec.rollout, paused=False)))
    world.run(is_finished)
    entry = world.status.history[0]
    assert (entry.revision, entry.started_at) == (before.candidate.revision, before.candidate.started_at)
    assert entry.outcome == ("RolledBack" if error_rate else "Promoted")
    assert Reason.PREPARING not in [notice.reason for notice in world.notices], "no rollout was restarted"
    survivor = world.status.stable
    assert survivor is not None
    assert set(stable_pods[survivor.revision]) <= set(world.revisions[survivor.revision].pods), "no pod was restarted"


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_rollout_is_not_started_again(name: str) -> None:
    body = BODIES[name]
    before = read_status(body["status"])
    world = resumed(body)
    world.run(lambda w: is_finished(w) and w.condition("Available") == "True")
    for _ in range(30):
        world.tick()
    after = world.status
    assert after.stable is not None
    if name != "v1-superseded":
        assert (after.stable, after.rejected, after.history) == (before.stable, before.rejected, before.history)
        assert not world.notices
    assert set(world.revisions) == {after.stable.revision}


@pytest.mark.parametrize("name", ["v1-preparing-first", "v1-promoting-first"])
def test_a_first_revision_becomes_stable(name: str) -> None:
    world = resumed(BODIES[name])
    revisions = set(world.revisions)
    world.run(lambda w: w.settled() and w.condition("Ready") == "True")
    assert set(world.revisions) == revisions
    assert [notice.reason for notice in world.notices] == [Reason.SERVING]


@pytest.mark.parametrize(
    ("raw", "newer"),
    [
        ({}, None),
        ({"formatVersion": 1}, None),
        ({"formatVersion": FORMAT_VERSION}, None),
        ({"formatVersion": FORMAT_VERSION + 1, "candidate": {"phase": "Unknown"}}, FORMAT_VERSION + 1),
    ],
)
def test_a_newer_format_is_recognised_without_reading_more(raw: dict[str, Any], newer: int | None) -> None:
    assert newer_format(raw) == newer


def types(path: str, field: dict[str, Any]) -> dict[str, str]:
    """Return the type of every field below ``path``."""
    found = {path: field.get("type", "quantity")}
    for name, inner in field.get("properties", {}).items():
        found |= types(f"{path}.{name}", inner)
    for ending, key in (("[]", "items"), ("{}", "additionalProperties")):
        if isinstance(field.get(key), dict):
            found |= types(path + ending, field[key])
    return found


def test_no_field_of_format_1_has_another_type() -> None:
    before = json.loads((HERE / "status_fields_v1.json").read_text())
    properties = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    now = types("status", properties["status"])
    assert len(now.keys() & before.keys()) > 80
    assert {path: now[path] for path in now.keys() & before.keys()} == {
        path: before[path] for path in now.keys() & before.keys()
    }


FORMAT_4 = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("statuses_v4/*.json"))}


@pytest.mark.simulation
@pytest.mark.parametrize("name", FORMAT_4)
def test_a_rehearsal_of_format_4_goes_on_with_pods_of_its_release(name: str) -> None:
    """Their pages do not say of which rehearsal they are."""
    body = FORMAT_4[name]
    assert body["status"]["formatVersion"] == 4
    before = read_status(body["status"])
    assert before.candidate is not None
    assert before.candidate.evidence is not None
    pairs = before.candidate.evidence.state.pairs
    assert encode(before)["formatVersion"] == FORMAT_VERSION
    assert read_status(json.loads(json.dumps(encode(before)))) == before
    world = resumed(body, requests_per_second=20, rehearses=True, names_sessions=False)
    world.reconcile()
    now = world.status.candidate
    assert now is not None
    assert (now.phase, now.weight) == (before.candidate.phase, before.candidate.weight)
    assert now.evidence is not None
    assert now.evidence.state.pairs.pairs == pairs.pairs
    world.run(is_finished)
    assert world.status.history[0].outcome == "Promoted"
