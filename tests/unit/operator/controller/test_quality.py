"""What the controller reads of labels, and when."""

from __future__ import annotations

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.names import REHEARSAL_PORT
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous

ROLLOUT = {
    "bakeSeconds": 5,
    "steps": [{"weight": 5, "minSeconds": 60}, {"weight": 50}],
    "rehearsal": {"requests": 0},
    "gates": {"quality": {}},
}


@asynchronous
async def test_labels_of_both_sides_are_read_from_all_pods_and_decide() -> None:
    world = World()
    await world.serve("v1", rollout=ROLLOUT)
    world.labelled = [[0, 0], [0, 0]]
    await world.apply_model("v2", rollout=ROLLOUT)
    await world.run(lambda: world.weight() == 5)
    world.labelled = [[3000, 2700], [300, 180]]
    await world.run(lambda: world.status["candidate"] is None if "candidate" in world.status else True)
    (rejected,) = world.status["rejected"]
    assert (rejected["reason"], rejected["weight"]) == (Reason.LOWER_QUALITY, 5)
    assert "60.0 % of its 300 predictions with a label were right, and 90.0 % of 3000 of stable" in rejected["message"]
    assert len({address for address, port in world.http.requests if port == REHEARSAL_PORT}) == 2


@asynchronous
async def test_status_shows_the_labels_and_no_page_is_read_after_the_rollout() -> None:
    world = World()
    await world.serve("v1", rollout=ROLLOUT)
    world.labelled = [[1000, 900], [50, 45]]
    await world.apply_model("v2", rollout=ROLLOUT)
    await world.run(
        lambda: (
            "quality" in world.status.get("candidate", {})
            and world.status["candidate"]["quality"].get("stableLabels") == 1000
        )
    )
    assert world.status["candidate"]["quality"] == {
        "candidateLabels": 50,
        "candidatePercent": 90.0,
        "stableLabels": 1000,
        "stablePercent": 90.0,
        "message": "90.0 % of 50 predictions of v2 with a label were right, and 90.0 % of 1000 of stable in the same"
        " time",
    }
    await world.run(world.is_ready, requests=2000, limit=200)
    world.http.requests.clear()
    for _ in range(5):
        await world.tick()
    assert REHEARSAL_PORT not in [port for _, port in world.http.requests]


@asynchronous
async def test_pods_that_count_no_labels_hold_nothing_up() -> None:
    world = World()
    await world.serve("v1", rollout=ROLLOUT)
    await world.apply_model("v2", rollout=ROLLOUT)
    await world.run(world.is_ready, requests=2000, limit=200)
    assert world.status["stable"]["version"] == "v2"
