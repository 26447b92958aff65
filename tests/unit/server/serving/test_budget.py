"""Memory of requests: charged for what exists; what stalls, and the source that holds most, gives way."""

from __future__ import annotations

import pytest

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.serving.budget import MOVED, STALLED, Budget, Held

pytestmark = pytest.mark.attack

LIMIT = 100 * MOVED


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Request:
    """A request that still arrives; ``error`` is why it ended."""

    def __init__(self, budget: Budget, source: str) -> None:
        self.error: Overloaded | None = None
        self.held: Held = budget.hold(source, shed=self.end)

    def end(self, error: Overloaded) -> None:
        self.error = error
        self.held.close()

    def arrives(self, size: int) -> Request:
        self.held.grow(size * MOVED)
        return self


def test_memory_is_taken_and_given_back() -> None:
    budget = Budget(LIMIT)
    with budget.hold("a", 10) as first, budget.hold("b", 5):
        first.grow(7)
        assert budget.used == 22
        first.shrink(3)
        assert budget.used == 8
    assert (budget.used, budget._holders, budget._totals) == (0, {}, {})
    first.close()
    assert budget.used == 0


def test_a_single_request_may_be_larger() -> None:
    budget = Budget(LIMIT)
    with budget.hold("a", 10 * LIMIT) as held:
        held.grow(LIMIT)
        with pytest.raises(Overloaded, match="too many large requests at once: retry after 1 s") as caught:
            budget.hold("b", 1)
    assert (caught.value.status, caught.value.retry_after, budget.used) == (429, 1, 0)


def test_the_source_that_holds_most_gives_way() -> None:
    budget = Budget(LIMIT)
    small, large = Request(budget, "flood").arrives(20), Request(budget, "flood").arrives(54)
    honest = Request(budget, "honest").arrives(20)
    honest.arrives(10)
    assert (small.error, honest.error) == (None, None)
    assert large.error is not None
    assert budget.used == 50 * MOVED


def test_a_source_is_not_ended_by_one_that_holds_more() -> None:
    budget = Budget(LIMIT)
    honest, flood = Request(budget, "honest").arrives(10), Request(budget, "flood").arrives(60)
    with pytest.raises(Overloaded):
        flood.arrives(40)
    assert (honest.error, budget.used) == (None, 70 * MOVED)


def test_what_stalls_gives_way_to_any_request() -> None:
    budget = Budget(LIMIT, clock := Clock())
    stalled, moving = Request(budget, "one").arrives(40), Request(budget, "one").arrives(30)
    clock.now = STALLED + 0.1
    stalled.held.grow(1)  # a single byte does not count
    moving.arrives(1)
    Request(budget, "one").arrives(20)
    assert moving.error is None
    assert stalled.error is not None


def test_what_has_arrived_is_never_ended_and_never_takes_everything() -> None:
    budget = Budget(LIMIT)
    with budget.hold("flood", 75 * MOVED):
        with pytest.raises(Overloaded):
            budget.hold("flood", MOVED)
        with budget.hold("honest", 20 * MOVED):
            assert budget.used == 95 * MOVED


def test_what_exists_already_is_recorded_and_others_give_way() -> None:
    budget = Budget(LIMIT)
    arriving = Request(budget, "flood").arrives(60)
    response = budget.hold("honest")
    response.force(50 * MOVED)
    assert arriving.error is not None
    response.force(2 * LIMIT)
    assert budget.used == 250 * MOVED
