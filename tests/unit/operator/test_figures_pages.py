"""Pages with figures of pods: what the server writes is what the operator reads, and nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from aiohttp import web

from mlmodel_operator.api.figures import MAX_FEATURE, Calls, Drift
from mlmodel_operator.observe import read_measured
from mlmodel_operator.rollout.observed import Measured
from mlmodel_operator.scrape import FiguresPage, Scraper, parse_figures
from mlmodel_server.observe.figures import WARM_UP, Figures
from mlmodel_server.observe.metrics import Recorder
from mlmodel_server.observe.rollout import RolloutLabels
from mlmodel_server.rehearsal.process import Pages
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous
from tests.unit.operator.test_scrape import servers
from tests.unit.server.observe.test_metrics import IDENTITY

REVISION = "5f1c2e9a"
JSON: dict[str, Any] = {
    "boot": "0123456789abcdef",
    "revision": REVISION,
    "requests": 10,
    "requests_cpu_us": 20_000,
    "copies": 30,
    "copies_cpu_us": 60_000,
    "milliwatts": 3500,
    "drift": {"feature": "age", "feature_psi": 0.25, "prediction_psi": None},
    "of_a_newer_release": {},
}
PAGE = FiguresPage("0123456789abcdef", REVISION, Calls(10, 20_000, 30, 60_000), 3500, Drift("age", 0.25, None))


def test_a_page_is_read() -> None:
    assert parse_figures(json.dumps(JSON).encode()) == PAGE


def test_the_server_writes_what_the_operator_reads() -> None:
    figures = Figures(REVISION, watts_per_core=3.5)
    recorder = Recorder(IDENTITY, figures=figures)
    recorder.start()
    for _ in range(WARM_UP + 1):
        recorder.record_cpu(2, 1_500_000)
    recorder.record_cpu(1, 700_000, is_copy=True)
    recorder.fold()
    figures.publish({"feature": "age", "feature_psi": 0.25, "prediction_psi": 0.0})
    content = Pages(RolloutLabels(REVISION), figures, None)(b"/figures")
    assert content is not None
    found = parse_figures(content)
    assert found is not None
    assert (found.calls, found.milliwatts, found.drift) == (Calls(2, 1500, 1, 700), 3500, Drift("age", 0.25, 0.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boot", "0123"),
        ("revision", "../../x"),
        ("requests", -1),
        ("requests", 1.5),
        ("requests", True),
        ("requests", "10"),
        ("copies", 2**53 + 1),
        ("copies_cpu_us", None),
        ("milliwatts", -1),
        ("drift", None),
        ("drift", []),
        ("drift", {"feature": "age"}),
        ("drift", {"feature": 7, "feature_psi": 0.1, "prediction_psi": None}),
        ("drift", {"feature": "", "feature_psi": float("nan"), "prediction_psi": None}),
        ("drift", {"feature": "", "feature_psi": float("inf"), "prediction_psi": None}),
        ("drift", {"feature": "", "feature_psi": 10**400, "prediction_psi": None}),
        ("drift", {"feature": "", "feature_psi": -0.1, "prediction_psi": None}),
        ("drift", {"feature": "", "feature_psi": 0.1, "prediction_psi": True}),
        ("drift", {"feature": "", "feature_psi": 0.1, "prediction_psi": "0.1"}),
    ],
)
def test_a_page_that_is_not_exactly_as_expected_is_ignored(field: str, value: object) -> None:
    page = copy.deepcopy(JSON) | {field: value}
    assert parse_figures(json.dumps(page).encode()) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"\xff", b"[" * 20_000, b"{}" + b" " * 20_000])
def test_anything_else_is_ignored(body: bytes) -> None:
    assert parse_figures(body) is None


def test_the_name_of_a_feature_is_one_short_line() -> None:
    page = parse_figures(
        json.dumps(JSON | {"drift": JSON["drift"] | {"feature": "\x1b[31m a\nb" + 500 * "x"}}).encode()
    )
    found = read_measured("pod", REVISION, page)
    assert found is not None
    assert found.drift.feature.startswith("[31m a b")
    assert len(found.drift.feature) == MAX_FEATURE


def test_a_page_of_another_revision_or_none_is_ignored() -> None:
    assert read_measured("pod", "77b0d1c4", PAGE) is None
    assert read_measured("pod", REVISION, None) is None
    assert read_measured("pod", REVISION, PAGE) == Measured("pod", REVISION, PAGE.boot, PAGE.calls, 3500, PAGE.drift)


@asynchronous
async def test_pods_are_asked_for_their_figures_and_older_ones_have_none() -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/figures"
        return web.Response(body=json.dumps(JSON).encode())

    async def older(_: web.Request) -> web.Response:
        return web.Response(status=404, body=b"{}")

    async with servers({"127.0.0.2": handle, "127.0.0.3": older}) as port:
        scraper = Scraper(rehearsal_port=port)
        found = await scraper.figures({"good": "127.0.0.2", "older": "127.0.0.3", "refused": "127.0.0.4", "no-ip": ""})
        await scraper.close()
    assert found == {"good": PAGE, "older": None, "refused": None, "no-ip": None}


# ---------------------------------------------------------------------------------------------------- by the controller


@asynchronous
async def test_status_shows_them_and_history_keeps_the_last_ones() -> None:
    world = World()
    world.copy_us = (2000, 3000)
    await world.serve("v1", rollout={"bakeSeconds": 5})
    await world.apply_model("v2", rollout={"bakeSeconds": 5})
    await world.run(lambda: world.weight() == 5, limit=200)
    found = world.status["candidate"]["figures"]
    assert (found["cpuRatio"], found["candidate"]["cpuMilliseconds"], found["stable"]["joules"]) == (1.5, 3.0, 0.007)
    await world.run(world.is_ready, requests=2000, limit=200)
    assert world.status["history"][0]["figures"].startswith("CPU per prediction: v2 3 ms (0.0105 J), v1 2 ms (0.007 J)")


@pytest.mark.attack
@asynchronous
@pytest.mark.parametrize("lies", [{"copies": -1}, {"copies": 2**53}, {"revision": "aaaaaaaa"}, {"drift": "\x00"}])
async def test_pods_that_lie_in_their_figures_hold_nothing_up(lies: dict[str, Any]) -> None:
    world = World()
    world.copy_us, world.lies = (2000, 3000), lies
    await world.serve("v1", rollout={"bakeSeconds": 5})
    await world.apply_model("v2", rollout={"bakeSeconds": 5})
    await world.run(world.is_ready, requests=2000, limit=300)
    assert world.status["stable"]["version"] == "v2"
