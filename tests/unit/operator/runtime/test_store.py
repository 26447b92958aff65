"""The store: newer wins, deletions stay, groups follow the label."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.runtime.resource import PODS, SERVICES, Body, Resource, is_newer
from mlmodel_operator.runtime.store import LAST_APPLIED, Store

LABEL = "example.org/group"


def body(version: int | str, *, name: str = "x", uid: str = "u1", group: str | None = "g", **meta: Any) -> Body:
    labels = {} if group is None else {LABEL: group}
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "labels": labels,
            **meta,
        }
    }


def version_of(store: Store, name: str = "x") -> str | None:
    found = store.get(PODS, "ns", name)
    return None if found is None else found["metadata"]["resourceVersion"]


def test_an_older_event_does_not_replace_what_we_wrote() -> None:
    store = Store(LABEL)
    assert store.put(PODS, body(12))  # the response of our write
    assert not store.put(PODS, body(9))  # "10" < "9" as text: versions are numbers
    assert not store.put(PODS, body(12))
    assert version_of(store) == "12"
    assert store.put(PODS, body(100))
    assert version_of(store) == "100"


def test_a_stale_event_does_not_resurrect_what_the_watch_has_deleted() -> None:
    store = Store(LABEL)
    store.put(PODS, body(10))
    assert store.observe_deletion(PODS, body(15))
    assert not store.put(PODS, body(14))
    assert version_of(store) is None
    assert store.put(PODS, body(16))  # it matches the selector of the watch again
    assert version_of(store) == "16"


def test_what_we_deleted_stays_deleted_whatever_late_events_say() -> None:
    store = Store(LABEL)
    store.put(PODS, body(10))
    assert store.remove(PODS, body(10))
    assert not store.put(PODS, body(12))  # a status update from before our delete, seen after it
    assert version_of(store) is None
    assert not store.observe_deletion(PODS, body(13))
    assert store.put(PODS, body(14, uid="u2"))  # somebody made a new one
    assert version_of(store) == "14"


def test_what_we_deleted_comes_back_while_a_finalizer_holds_it() -> None:
    store = Store(LABEL)
    store.put(PODS, body(10))
    store.remove(PODS, body(10))
    assert store.put(PODS, body(12, deletionTimestamp="2026-01-01T00:00:00Z"))


def test_deleting_an_old_object_does_not_remove_its_successor() -> None:
    store = Store(LABEL)
    store.put(PODS, body(20, uid="u2"))
    assert not store.observe_deletion(PODS, body(15))
    assert not store.remove(PODS, body(10))
    assert version_of(store) == "20"


def test_a_list_removes_what_it_does_not_have_and_spares_what_is_newer_than_it() -> None:
    store = Store(LABEL)
    store.put(PODS, body(5, name="gone"))
    store.put(PODS, body(6, name="kept"))
    store.put(PODS, body(31, name="written-meanwhile"))
    store.put(SERVICES, body(7, name="other-kind"))
    removed = store.replace(PODS, [body(8, name="kept"), body(9, name="new")], "30")
    assert [found["metadata"]["name"] for found in removed] == ["gone"]
    assert {found["metadata"]["name"] for found in store.all(PODS)} == {"kept", "new", "written-meanwhile"}
    assert len(store.all(SERVICES)) == 1
    assert not store.put(PODS, body(29, name="gone"))  # an event from before the list


def test_groups_follow_the_label_and_both_groups_hear_of_a_move() -> None:
    heard: list[tuple[Resource, str, str]] = []
    store = Store(LABEL)
    store.on_change(lambda *change: heard.append(change))
    store.put(PODS, body(1, name="b"))
    store.put(PODS, body(2, name="a"))
    store.put(PODS, body(3, name="c", group=None))
    assert [found["metadata"]["name"] for found in store.group(PODS, "ns", "g")] == ["a", "b"]
    assert heard == [(PODS, "ns", "g")] * 2
    heard.clear()
    store.put(PODS, body(4, name="a", group="h"))
    assert set(heard) == {(PODS, "ns", "g"), (PODS, "ns", "h")}
    heard.clear()
    store.observe_deletion(PODS, body(5, name="b"))
    assert heard == [(PODS, "ns", "g")]
    assert store.group(PODS, "ns", "g") == []


def test_an_echo_is_not_a_change() -> None:
    heard = []
    store = Store(LABEL)
    store.on_change(lambda *change: heard.append(change))
    store.put(PODS, body(1))
    store.put(PODS, body(1))
    store.replace(PODS, [body(1)], "5")
    assert len(heard) == 1


def test_bodies_are_slimmed_and_the_original_is_not_touched() -> None:
    original = body(1, managedFields=[{"manager": "m"}], annotations={LAST_APPLIED: "{}", "keep": "me"})
    store = Store(LABEL)
    store.put(PODS, original)
    kept = store.get(PODS, "ns", "x")
    assert kept is not None
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"keep": "me"}
    assert "managedFields" in original["metadata"]
    assert LAST_APPLIED in original["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [("10", "9", True), ("9", "10", False), ("9", "9", False), ("abc", "9", True), ("9", "", True), ("x", "x", False)],
)
def test_versions_compare_as_numbers_and_anything_else_counts_as_newer(version: str, than: str, newer: bool) -> None:
    assert is_newer(version, than) is newer
