"""Pages with labels: as the server writes them, so the operator reads them, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from mlmodel_operator import observe
from mlmodel_operator.api.evidence import Labels, LabelSides
from mlmodel_operator.api.types import QualityGate
from mlmodel_operator.rollout.evidence import labels
from mlmodel_operator.rollout.observed import Labelled
from mlmodel_operator.scrape import LabelsPage, Scraper, parse_labels
from mlmodel_server.observe import rollout
from mlmodel_server.observe.figures import Figures
from mlmodel_server.rehearsal.process import Pages
from tests.unit.operator.runtime.support import asynchronous
from tests.unit.operator.test_scrape import servers

STABLE, CANDIDATE = "5f1c2e9a", "91e4b519"
GOOD: dict[str, Any] = {
    "boot": "00000000000000cd",
    "revision": STABLE,
    "tag": labels.tag_of(CANDIDATE),
    "other": labels.hash_of(CANDIDATE),
    "kind": "classes",
    "weights": {"5": [[900, 810], [40, 32]], "25": [[3, 3], [1, 0]]},
}
PAGE = LabelsPage(
    "00000000000000cd",
    STABLE,
    labels.tag_of(CANDIDATE),
    labels.hash_of(CANDIDATE),
    "classes",
    {"5": (Labels(900, 810), Labels(40, 32)), "25": (Labels(3, 3), Labels(1, 0))},
)


def page(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def read(side: str = STABLE, largest: int = 7, **changes: Any) -> Labelled:
    return observe.read_labelled("pod", side, (STABLE, CANDIDATE), parse_labels(page(**changes)), largest)


@asynchronous
async def test_pages_are_read_with_the_tolerance_in_the_path() -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/labels/348"
        return web.Response(body=page())

    async def older(_: web.Request) -> web.Response:
        return web.Response(status=404, body=b"{}")

    async with servers({"127.0.0.2": handle, "127.0.0.3": older}) as port:
        scraper = Scraper(rehearsal_port=port)
        addresses = {"good": "127.0.0.2", "older": "127.0.0.3", "refused": "127.0.0.4", "no-ip": ""}
        found = await scraper.label_pages(addresses, 348)
        await scraper.close()
    assert found == {"good": PAGE, "older": None, "refused": None, "no-ip": None}


def test_the_server_writes_what_the_operator_reads() -> None:
    counted = rollout.RolloutLabels(STABLE)
    counted.start()
    mark = rollout.mark_of(f"25 {CANDIDATE} candidate".encode(), CANDIDATE)
    counted.count(CANDIDATE, mark, 1.0, True)
    counted.count(STABLE, rollout.mark_of(f"25 {CANDIDATE} stable".encode(), STABLE), 2.0, False)
    content = Pages(counted, Figures(STABLE), None)(b"/labels/0")
    assert content is not None
    found = observe.read_labelled("pod", STABLE, (STABLE, CANDIDATE), parse_labels(content), 0)
    assert found.weights == {"25": LabelSides(Labels(1, 1), Labels(1, 0))}
    assert found.kind == "classes"


@pytest.mark.parametrize("value", [1e-9, 0.003, 0.5, 1.0, 2.0, 123.4, 1e8])
def test_a_tolerance_is_never_rounded_down_and_both_sides_round_alike(value: float) -> None:
    largest = labels.bin_for(QualityGate("within", value))
    assert rollout.bin_of(value * (1 - 1e-9)) <= largest
    assert rollout.bin_of(value * 1.07) > largest
    assert 0 <= largest < rollout.BINS - 1


@pytest.mark.parametrize("revision", [STABLE, CANDIDATE, "00000000", "z" * 63])
def test_both_sides_have_the_same_names_for_a_revision(revision: str) -> None:
    assert rollout.hash_of(revision) == labels.hash_of(revision)
    assert rollout.tag_of(revision) == labels.tag_of(revision)


def test_the_sides_are_those_of_the_rollout() -> None:
    weights = {"5": LabelSides(Labels(40, 32), Labels(900, 810)), "25": LabelSides(Labels(1, 0), Labels(3, 3))}
    assert read() == Labelled("pod", GOOD["boot"], "classes", 7, weights)
    of_candidate = read(CANDIDATE, revision=CANDIDATE, other=labels.hash_of(STABLE))
    assert of_candidate.weights["25"] == LabelSides(Labels(3, 3), Labels(1, 0))
    assert read(other=labels.hash_of("00000000")).weights["25"] == LabelSides(Labels(), Labels(3, 3))
    assert read(other=-1).weights["25"] == LabelSides(Labels(), Labels(3, 3))


def test_a_page_of_another_rollout_or_pod_has_no_labels_of_this_one() -> None:
    assert read(tag=labels.tag_of(CANDIDATE) ^ 1).weights == {}
    assert read(tag=-1).weights == {}
    assert read(revision="00000000") == Labelled("pod")
    assert observe.read_labelled("pod", STABLE, (STABLE, CANDIDATE), None, 0) == Labelled("pod")


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "x"},
        {"boot": 1},
        {"revision": "A" * 8},
        {"tag": -2},
        {"tag": True},
        {"tag": "1"},
        {"other": 1.5},
        {"kind": "texts"},
        {"weights": []},
        {"weights": {"0": [[1, 1], [1, 1]]}},
        {"weights": {"05": [[1, 1], [1, 1]]}},
        {"weights": {"100": [[1, 1], [1, 1]]}},
        {"weights": {"5": [[1, 2], [1, 1]]}},
        {"weights": {"5": [[-1, -1], [1, 1]]}},
        {"weights": {"5": [[2**53 + 1, 0], [1, 1]]}},
        {"weights": {"5": [[1, 1]]}},
        {"weights": {"5": [[1, 1], [1, 1], [1, 1]]}},
        {"weights": {"5": [[1.0, 1], [1, 1]]}},
        {"weights": {"5": None}},
    ],
)
def test_a_page_that_is_not_exactly_as_expected_is_not_read(changes: dict[str, Any]) -> None:
    assert parse_labels(page(**changes)) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"[" * 10_000, b"\xff", b" " * 16385])
def test_anything_else_is_not_read(body: bytes) -> None:
    assert parse_labels(body) is None


@pytest.mark.parametrize("field", list(GOOD))
def test_every_field_is_required(field: str) -> None:
    assert parse_labels(json.dumps({key: value for key, value in GOOD.items() if key != field}).encode()) is None
