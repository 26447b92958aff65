"""Which requests a header assigns to a side: what the spec permits, and what the routers get."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mlmodel_operator.api.schema import HeaderValue, Rule
from mlmodel_operator.api.types import Match, MLModel, Owner, Rollout, Step, Sticky
from mlmodel_operator.rollout.sides import NO_SIDES, Sides, sides_of
from tests.unit.operator.rollout.world import OWNER, World, serving, spec

STICKY, MATCH = Sticky("x-user-id"), Match("x-group", (HeaderValue("beta"), HeaderValue("staff")))
BOTH = Rollout(bake_seconds=20, sticky=STICKY, match=MATCH)


def complaints(rules: tuple[Rule, ...], text: str) -> list[str]:
    """Return the messages of the rules with a pattern that a header or value does not fit."""
    found = []
    for rule in rules:
        match = re.search(r"(!?)(?:self\.header|v)\.matches\('\^(.*)\$'\)", rule.rule)
        if match and bool(re.fullmatch(match[2], text)) == bool(match[1]):
            found.append(rule.message)
    return found


@pytest.mark.parametrize("header", ["x-user-id", "x-amzn-oidc-identity", "x_user", "x.user", "user", "0", "x" * 64])
def test_a_name_that_http_and_grpc_allow_is_valid(header: str) -> None:
    assert complaints(Sticky.rules, header) == []


@pytest.mark.parametrize(
    "header", ["", "X-User-Id", "x user", "x-user:", ":path", "-x", "x-user\n", "x-üser", "x/y", "x\0", "x-a,b", "$x"]
)
def test_a_name_that_is_not_a_header_is_rejected_with_what_to_type(header: str) -> None:
    (message,) = complaints(Sticky.rules, header)
    assert "type for example `sticky: {header: x-user-id}`" in message


RESERVED = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "x-mlmodel-version",
    "x-mlmodel-",
    "te",
]
RESERVED += ["connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade", "expect", "trailer"]
RESERVED += ["grpc-timeout", "x-user-bin", "http2-settings", "proxy-connection"]


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("header", RESERVED)
def test_credentials_and_headers_of_the_connection_are_rejected(header: str) -> None:
    (message,) = complaints(Match.rules, header)[:1]
    assert "let your gateway set another one" in message
    assert "match: {header: x-group, values: [beta]}" in message


@pytest.mark.parametrize(("value", "is_valid"), [("beta", True), ("a-b.c_d/e=f;g", True), ("!~", True)] + [
    (value, False) for value in ("", "a b", "a,b", "\n", "a\r\nopen", "ü", "\x7f", "\x1b[31m")
])  # fmt: skip
def test_a_value_is_one_element_of_a_list_in_printable_ascii(value: str, is_valid: bool) -> None:
    rules = tuple(rule for rule in Match.rules if "values" in rule.rule)
    assert (complaints(rules, value) == []) == is_valid


def test_the_key_is_of_the_model_and_the_revision_alone() -> None:
    def key(uid: str = "uid-1", revision: str = "b0b0b0b0") -> str:
        return sides_of(MLModel(Owner("fraud", "default", uid), 7, spec("v2", rollout=BOTH)), revision).key

    assert re.fullmatch("[0-9a-f]{64}", key())
    assert key() == key()
    assert len({key(), key(uid="uid-2"), key(revision="c0c0c0c0")}) == 3


@pytest.mark.attack(held=True)
def test_a_text_that_the_schema_does_not_permit_makes_no_line() -> None:
    rollout = Rollout(sticky=Sticky("x\nopen"), match=Match("x-group", (HeaderValue("a\nopen"), HeaderValue("b"))))
    assert sides_of(MLModel(OWNER, 1, spec("v2", rollout=rollout)), "b0").text() == "match x-group b\n"
    assert sides_of(MLModel(OWNER, 1, spec("v2")), "b0") == NO_SIDES


@pytest.mark.parametrize(
    ("weight", "is_open", "lines"),
    [
        (0, False, ""),
        (0, True, "match open"),
        (5, False, "sticky match"),
        (99, False, "sticky match"),
        (100, False, ""),
    ],
)
def test_a_rule_is_sent_to_the_routers_only_where_it_has_an_effect(weight: int, is_open: bool, lines: str) -> None:
    """At 0 the hash assigns no user; at 100 there is one side, and what it fails must count however it is marked."""
    found = Sides("x-user-id", "5e", "x-group", ("beta",)).at(weight, is_open=is_open)
    assert " ".join(line.split(" ")[0] for line in found.text().splitlines()) == lines


def test_the_routers_get_the_rules_from_the_first_step_to_the_last_and_none_afterwards() -> None:
    world = serving("v1", requests_per_second=200)
    world.change(spec("v2", rollout=BOTH))
    seen: dict[tuple[str, int], set[str]] = {}

    def note(w: World, _: Any) -> None:
        if w.followed is not None:
            seen.setdefault((w.status.phase, w.followed.weight), set()).add(w.followed.sides.text())

    world.check = note
    world.tick()
    world.run(lambda w: w.settled())
    texts = {text for (_, weight), texts in seen.items() for text in texts if 0 < weight < 100}
    assert len(texts) == 1
    (text,) = texts
    assert re.fullmatch(r"sticky x-user-id [0-9a-f]{64}\nmatch x-group beta staff\n", text)
    assert {text for (_, weight), texts in seen.items() for text in texts if weight in (0, 100)} == {""}


def test_a_changed_header_is_a_change_of_the_routes_that_every_router_confirms() -> None:
    world = serving("v1", requests_per_second=50)
    world.change(spec("v2", rollout=Rollout(steps=(Step(5, min_seconds=60),), sticky=STICKY)))
    world.run(lambda w: w.status.phase == "Canary")
    assert world.routes is not None
    before = world.routes
    world.change(spec("v2", rollout=Rollout(steps=(Step(5, min_seconds=60),), sticky=Sticky("x-account"))))
    world.reconcile()
    assert (world.status.routes, world.routes.sides.sticky) == ("", "x-account")
    assert world.routes.id() != before.id()
