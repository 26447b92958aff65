"""The clients of tests and demo send requests as real ones do: no two are equal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.traffic.client import Clients, varied

BODIES: list[Any] = [
    {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [value, 2.0]}]} for value in (0, 1.5, -3e9)
]


def test_no_two_requests_are_equal_and_the_first_ones_are_as_given() -> None:
    clients = Clients("http://m/v2/models/m/infer", BODIES, 1, 1.0)
    sent = [clients.body(number) for number in range(3000)]
    assert sent[:3] == BODIES
    assert len({json.dumps(body) for body in sent}) == 3000
    for number, body in enumerate(sent):
        value = BODIES[number % 3]["inputs"][0]["data"][0]
        assert body["inputs"][0]["data"] == [pytest.approx(value, rel=1e-6, abs=1e-6), 2.0]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [{"datatype": "BYTES", "data": ["a"]}]},
        {"inputs": [{"datatype": "INT64", "data": [1]}]},
    ],
)
def test_what_has_no_number_is_sent_as_it_is(body: Any) -> None:
    assert varied(body, 7) == body
