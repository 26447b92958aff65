"""Rollouts on a whole cluster, under traffic: what users see, and how quickly the operator decides."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hack.cluster import Cluster
from hack.quickstart import NAME, Model, condition, message
from hack.traffic import Traffic, wait_for
from mlmodel_server import package

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
SEED = 20260103

QUICK = {"steps": [{"weight": 50}], "bakeSeconds": 3, "gates": {"errors": {"maxPercent": 5}}}
"""A rollout for tests that are about something else: one step, proven with about 140 requests."""


def test_a_better_version_is_promoted_and_no_request_fails(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    with traffic(rate=50) as users:
        model.apply("v2", rollout={"bakeSeconds": 10})
        weights: set[int] = set()

        def promoted(status: dict[str, object]) -> bool:
            candidate = status.get("candidate")
            if isinstance(candidate, dict):
                weights.add(int(candidate.get("weight", 0)))
            return condition(status, "Ready") == "True"

        status = model.wait("v2 is promoted", 300, promoted)
        users.wait(lambda seen: seen.versions.get("v2", 0) > 1000, 60, "v2 answers")
        seen = users.stop()
    print(f"{seen.sent} requests, {seen.failed} failed, slowest {seen.slowest_ms} ms, by version {seen.versions}")
    assert seen.failed == 0, seen.errors
    assert seen.sent == seen.ok
    assert weights >= {5, 25, 50, 100}
    assert status["stable"]["version"] == "v2"
    assert status["history"][0]["outcome"] == "Promoted"
    reasons = [
        event["reason"]
        for event in json.loads(model("get", "events.events.k8s.io", "-o", "json"))["items"]
        if event["regarding"]["kind"] == "MLModel"
    ]
    assert sorted(reasons) == sorted(
        [
            "Preparing",
            "Serving",
            "Preparing",
            "CanaryStep",
            "CanaryStep",
            "CanaryStep",
            "Promoting",
            "Baking",
            "Promoted",
        ]
    )


def test_a_version_that_fails_everything_costs_no_user_an_error(model: Model, traffic: StartTraffic) -> None:
    model.apply("v2")
    model.wait_ready(90, "v2")
    with traffic(rate=10) as users:
        model.apply("v3-all", rollout={"steps": [{"weight": 5}]})
        began: list[float] = []
        ended: list[float] = []
        asked: list[int] = []

        def at_zero(status: dict[str, object]) -> bool:
            if users.now.fallbacks and not began:
                began.append(time.monotonic())
            if condition(status, "RolledBack") == "True":
                ended.append(time.monotonic())
                asked.append(users.now.fallbacks)
                return True
            return False

        model.wait("v3 is rolled back", 120, at_zero, every=0.1)
        status = model.wait_rejected(60)
        fallbacks = users.now.fallbacks
        users.more(50)
        seen = users.stop()
    evidence = status["rejected"][0]["message"]
    took = ended[0] - began[0] if began else 0.0
    print(f"asked {seen.fallbacks} times, {seen.failed} user errors of {seen.sent}, {took:.1f} s: {evidence}")
    assert seen.failed == 0, seen.errors
    assert seen.fallbacks <= 10
    assert seen.fallbacks == fallbacks, "nothing was asked after the rollback"
    assert took <= 10
    assert set(seen.versions) == {"v2"}
    assert status["rejected"][0]["reason"] == "ErrorRate"
    assert condition(status, "Available") == "True"
    assert condition(status, "Stalled") == "True"


def test_a_version_that_refuses_what_stable_takes_costs_no_user_an_error(
    model: Model, traffic: StartTraffic, tmp_path: Path
) -> None:
    """It was trained on a third of the columns, so it answers every request with 400."""
    X, y = load_breast_cancer(as_frame=True, return_X_y=True)
    X = X.iloc[:, :10]
    narrow = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    package.save(narrow, X, y, tmp_path / "narrow", version="narrow")
    model("apply", "-f", "-", input=package.config_map(tmp_path / "narrow", "narrow"))
    model.apply("v2")
    model.wait_ready(90, "v2")
    with traffic(rate=20) as users:
        change = {"spec": {"model": {"uri": "configmap://narrow", "version": "narrow"}}}
        model("patch", "mlm", NAME, "--type=merge", "-p", json.dumps(change))
        status = model.wait_rejected(120)
        fallbacks = users.now.fallbacks
        users.more(20)
        seen = users.stop()
    print(f"{seen.fallbacks} rescued, {seen.failed} failed of {seen.sent}: {status['rejected'][0]['message']}")
    assert seen.failed == 0, seen.errors
    assert 0 < seen.fallbacks <= 10
    assert seen.fallbacks == fallbacks, "nothing was asked after the rollback"
    assert set(seen.versions) == {"v2"}
    assert status["rejected"][0]["reason"] == "ErrorRate"


def test_some_errors_are_enough_for_a_rollback(model: Model, traffic: StartTraffic) -> None:
    model.apply("v2")
    model.wait_ready(90, "v2")
    with traffic(rate=50) as users:
        model.apply("v3")
        status = model.wait_rejected(120)
        seen = users.stop()
    print(f"{seen.fallbacks} rescued, {seen.failed} failed of {seen.sent}: {message(status)}")
    assert seen.failed == 0, seen.errors
    assert seen.fallbacks > 0


def test_a_model_that_cannot_load_is_rejected_without_a_request(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    with traffic(rate=20) as users:
        began = time.monotonic()
        model.apply("v4")
        status = model.wait("v4 is rejected", 60, lambda status: condition(status, "RolledBack") == "True")
        took = time.monotonic() - began
        seen = users.stop()
    print(f"rejected after {took:.1f} s: {message(status)}")
    assert took <= 30
    assert status["rejected"][0]["reason"] == "ModelRejected"
    assert "clipped" in message(status)
    assert "v4" not in seen.versions
    assert seen.fallbacks == 0
    assert seen.failed == 0


def test_an_image_that_cannot_be_pulled_is_rejected_without_a_request(
    model: Model, traffic: StartTraffic, operator_settings: Callable[..., AbstractContextManager[None]]
) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    with operator_settings(SERVER_IMAGE="localhost/no-such-image:1"):
        before = model.pods()
        with traffic(rate=20) as users:
            began = time.monotonic()
            model.apply("v2")
            status = model.wait("it is rejected", 60, lambda status: condition(status, "RolledBack") == "True")
            took = time.monotonic() - began
            seen = users.stop()
    print(f"rejected after {took:.1f} s: {message(status)}")
    assert took <= 30
    assert status["rejected"][0]["reason"] == "ImageFailed"
    assert set(seen.versions) == {"v1"}
    assert seen.failed == 0
    assert before.items() <= model.pods().items(), "another server image restarts nothing"


def test_the_share_is_exact_for_each_of_two_clients_that_take_turns(model: Model, traffic: StartTraffic) -> None:
    hold = {"steps": [{"weight": 10, "minSeconds": 3600}]}
    model.apply("v1")
    model.wait_ready(90, "v1")
    model.apply("v2", rollout=hold)
    model.wait_weight(10)
    time_to_settle = wait_for("the routers follow", 20, lambda: model.status().get("routes", "") == _routes_id(model))
    with traffic(rate=200, clients=2, limit=2000) as users:
        users.wait(lambda seen: seen.ok + seen.failed >= 2000, 60, "2000 answers")
        seen = users.stop()
    total = 100 * seen.versions["v2"] / 2000
    each = {client: 100 * counts["v2"] / sum(counts.values()) for client, counts in seen.clients.items()}
    print(f"together {total:.2f} %, each {each}; routed after {time_to_settle:.1f} s")
    assert seen.failed == 0
    assert abs(total - 10) <= 0.5
    assert all(abs(share - 10) <= 2 for share in each.values())
    model.wait(
        "the share and all requests are in status",
        30,
        lambda status: (
            abs((status["candidate"].get("observedPercent") or 0) - 10) <= 0.5
            and status["candidate"]["evidence"]["candidate"]["requests"] == seen.versions["v2"]
        ),
    )


def test_going_back_is_ready_at_once_and_restarts_nothing(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    pods = model.pods()
    with traffic(rate=50) as users:
        model.apply("v2", rollout={"steps": [{"weight": 50, "minSeconds": 3600}]})
        model.wait_weight(50)
        users.wait(lambda seen: seen.versions.get("v2", 0) > 50, 30, "v2 answers")
        began = time.monotonic()
        model.apply("v1")
        model.wait_ready(20, "v1")
        took = time.monotonic() - began
        model.wait("it is drained", 40, lambda status: status["phase"] == "Stable")
        seen = users.stop()
    print(f"ready {took:.2f} s after kubectl apply began; {seen.failed} of {seen.sent} failed")
    assert took <= 2
    assert seen.failed == 0, seen.errors
    assert model.pods() == pods
    assert model.status()["history"][0]["outcome"] == "Reverted"


def test_a_third_version_in_the_middle_takes_over(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    with traffic(rate=50) as users:
        model.apply("v3", rollout={"steps": [{"weight": 1, "minSeconds": 3600}]})
        model.wait_weight(1)
        model.apply("v2", rollout=QUICK)
        status = model.wait_ready(120, "v2")
        seen = users.stop()
    assert seen.failed == 0, seen.errors
    assert [entry["outcome"] for entry in status["history"]][:2] == ["Promoted", "Superseded"]


def test_paused_holds_the_share_and_goes_on_afterwards(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    with traffic(rate=50) as users:
        model.apply("v2", rollout={**QUICK, "paused": True})
        status = model.wait("its pods are ready", 60, lambda status: "paused" in message(status))
        assert status["phase"] == "Preparing"
        assert condition(status, "Paused") == "True"
        model.apply("v2", rollout=QUICK)
        model.wait_ready(120, "v2")
        seen = users.stop()
    assert seen.failed == 0, seen.errors


def test_a_retry_tries_a_rejected_version_again(
    model: Model, operator_settings: Callable[..., AbstractContextManager[None]], traffic: StartTraffic
) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    with operator_settings(SERVER_IMAGE="localhost/no-such-image:1"):
        model.apply("v2", rollout=QUICK)
        model.wait_rejected(60)
    with traffic(rate=50) as users:
        model.apply("v2", rollout={**QUICK, "retry": "the image is there now"})
        model.wait_ready(120, "v2")
        assert users.stop().failed == 0
    assert not model.status().get("rejected")


def test_pods_that_are_killed_and_scaling_lose_no_request(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1", serving={"replicas": 3})
    model.wait("3 pods are ready", 90, lambda status: status.get("replicas") == "3/3")
    assert json.loads(model("get", "pdb", "-o", "json"))["items"]
    with traffic(rate=50) as users:
        for _ in range(3):
            victim = random.Random(SEED).choice(sorted(model.pods()))
            model("delete", "pod", victim, "--grace-period=0", "--force")
            model.wait("3 pods are ready again", 60, lambda status: status.get("replicas") == "3/3")
            wait_for("three pods of which none is the victim", 30, lambda: len(model.pods()) == 3)
        model.apply("v1", serving={"replicas": 1})
        model.wait("1 pod is left", 60, lambda status: status.get("replicas") == "1/1")
        wait_for("the others are gone", 90, lambda: len(model.pods()) == 1)
        model("rollout", "restart", "deploy/tumour-router")
        model("rollout", "status", "deploy/tumour-router", "--timeout=90s")
        users.more(100)
        seen = users.stop()
    print(f"seed {SEED}: {seen.failed} of {seen.sent} failed, slowest {seen.slowest_ms} ms: {seen.errors}")
    assert seen.failed == 0, seen.errors


def test_an_operator_killed_at_ten_random_moments_reaches_the_same_end(
    cluster: Cluster, model: Model, traffic: StartTraffic, kill_operator: Callable[[], None]
) -> None:
    rng = random.Random(SEED)
    model.apply("v1")
    model.wait_ready(90, "v1")
    kills = 0
    with traffic(rate=100) as users:
        model.apply("v2", rollout={**QUICK, "steps": [{"weight": 5}, {"weight": 25}, {"weight": 50}]})
        end = time.monotonic() + 300
        while kills < 10:
            assert time.monotonic() < end
            users.more(rng.randint(20, 400))
            kill_operator()
            kills += 1
        status = model.wait_ready(300, "v2")
        seen = users.stop()
    outcomes = [entry["outcome"] for entry in status.get("history", [])]
    print(f"seed {SEED}: {kills} kills, {seen.failed} of {seen.sent} failed, {outcomes}")
    assert seen.failed == 0, seen.errors
    assert outcomes == ["Promoted"]
    model.wait("all is still", 60, lambda status: status["phase"] == "Stable")
    wait_for("one pod is left", 60, lambda: len(model.pods()) == 1)


def test_deleting_the_model_in_the_middle_leaves_nothing(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(90, "v1")
    model.apply("v2", rollout={"steps": [{"weight": 50, "minSeconds": 3600}]})
    model.wait_weight(50)
    model("delete", "mlm", "tumour")

    def gone() -> bool:
        kinds = "deployments,services,configmaps,hpa,pdb,pods"
        return not model("get", kinds, "-l", "app.kubernetes.io/part-of=mlmodel", "-o", "name").strip()

    wait_for("all children are gone", 90, gone)


def _routes_id(model: Model) -> str:
    text = json.loads(model("get", "configmap", "tumour-routes", "-o", "json"))["data"]["routes"]
    return str(text.split("\n")[0].removeprefix("id "))
