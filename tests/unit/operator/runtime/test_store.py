"""The store: a newer body replaces an older one, deletions stay, groups follow the label."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.runtime.resource import PODS, SERVICES, Body, Resource, is_newer
from mlmodel_operator.runtime.store import LAST_APPLIED, Store
from mlmodel_operator.runtime.view import View

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
    pod = store.get(PODS, "ns", name)
    return None if pod is None else pod["metadata"]["resourceVersion"]


def test_an_older_event_does_not_replace_our_write() -> None:
    store = Store(LABEL)
    assert store.put(PODS, body(12))  # the response of our write
    assert not store.put(PODS, body(9))  # "10" < "9" as text: versions are numbers
    assert not store.put(PODS, body(12))
    assert version_of(store) == "12"
    assert store.put(PODS, body(100))
    assert version_of(store) == "100"


def test_an_event_from_before_a_deletion_does_not_restore_the_object() -> None:
    store = Store(LABEL)
    store.put(PODS, body(10))
    assert store.observe_deletion(PODS, body(15))
    assert not store.put(PODS, body(14))
    assert version_of(store) is None
    assert store.put(PODS, body(16))  # it matches the selector of the watch again
    assert version_of(store) == "16"


def test_a_deleted_object_is_not_restored_by_late_events() -> None:
    store = Store(LABEL)
    store.put(PODS, body(10))
    assert store.remove(PODS, body(10))
    assert not store.put(PODS, body(12))  # a status update from before our delete, delivered after it
    assert version_of(store) is None
    assert not store.observe_deletion(PODS, body(13))
    assert store.put(PODS, body(14, uid="u2"))  # another client created a new one
    assert version_of(store) == "14"


def test_a_deleted_object_stays_in_the_store_while_a_finalizer_delays_it() -> None:
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


def test_a_list_removes_objects_that_it_lacks_unless_they_are_newer() -> None:
    store = Store(LABEL)
    store.put(PODS, body(5, name="deleted"))
    store.put(PODS, body(6, name="kept"))
    store.put(PODS, body(31, name="written-meanwhile"))
    store.put(SERVICES, body(7, name="other-kind"))
    removed = store.replace(PODS, [body(8, name="kept"), body(9, name="new")], "30")
    assert [pod["metadata"]["name"] for pod in removed] == ["deleted"]
    assert {pod["metadata"]["name"] for pod in store.all(PODS)} == {"kept", "new", "written-meanwhile"}
    assert len(store.all(SERVICES)) == 1
    assert not store.put(PODS, body(29, name="deleted"))  # an event from before the list


def test_groups_follow_the_label_and_a_move_is_a_change_of_both() -> None:
    changes: list[tuple[Resource, str, str]] = []
    store = Store(LABEL)
    store.on_change(lambda *change: changes.append(change))
    store.put(PODS, body(1, name="b"))
    store.put(PODS, body(2, name="a"))
    store.put(PODS, body(3, name="c", group=None))
    assert [pod["metadata"]["name"] for pod in store.group(PODS, "ns", "g")] == ["a", "b"]
    assert changes == [(PODS, "ns", "g")] * 2
    changes.clear()
    store.put(PODS, body(4, name="a", group="h"))
    assert set(changes) == {(PODS, "ns", "g"), (PODS, "ns", "h")}
    changes.clear()
    store.observe_deletion(PODS, body(5, name="b"))
    assert changes == [(PODS, "ns", "g")]
    assert store.group(PODS, "ns", "g") == []


def test_a_repeated_body_is_not_a_change() -> None:
    changes = []
    store = Store(LABEL)
    store.on_change(lambda *change: changes.append(change))
    store.put(PODS, body(1))
    store.put(PODS, body(1))
    store.replace(PODS, [body(1)], "5")
    assert len(changes) == 1


def test_a_body_that_differs_only_in_what_is_not_stored_is_stored_and_no_change() -> None:
    def slim(full: Body, known: Body | None) -> Body:
        assert known is None or "times" not in known
        return {key: value for key, value in full.items() if key != "times"}

    store, changes = Store(LABEL, {PODS: View(Body, slim)}), []
    store.on_change(lambda r, _, group: changes.append((r, group)))
    store.put(PODS, {**body(1), "times": 1})
    store.put(PODS, {**body(2), "times": 2})
    assert version_of(store) == "2"
    assert changes == [(PODS, "g")]
    store.put(PODS, {**body(3), "phase": "Running"})
    store.put(SERVICES, {**body(4), "times": 1})
    store.put(SERVICES, {**body(5), "times": 2})
    assert changes == [(PODS, "g"), (PODS, "g"), (SERVICES, "g"), (SERVICES, "g")]
    store.put(PODS, body(6, group="h"))
    assert set(changes[-2:]) == {(PODS, "g"), (PODS, "h")}


def test_bodies_are_slimmed_and_the_original_stays_unchanged() -> None:
    original = body(1, managedFields=[{"manager": "m"}], annotations={LAST_APPLIED: "{}", "keep": "me"})
    store = Store(LABEL)
    store.put(PODS, original)
    stored = store.get(PODS, "ns", "x")
    assert stored is not None
    assert "managedFields" not in stored["metadata"]
    assert stored["metadata"]["annotations"] == {"keep": "me"}
    assert "managedFields" in original["metadata"]
    assert LAST_APPLIED in original["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [("10", "9", True), ("9", "10", False), ("9", "9", False), ("abc", "9", True), ("9", "", True), ("x", "x", False)],
)
def test_versions_compare_as_numbers_and_anything_else_counts_as_newer(version: str, than: str, newer: bool) -> None:
    assert is_newer(version, than) is newer


def test_a_list_of_one_namespace_removes_nothing_in_another() -> None:
    store = Store(LABEL)
    for namespace in ("shop", "bank"):
        item = body(5, name="pod")
        store.put(PODS, {**item, "metadata": {**item["metadata"], "namespace": namespace}})
    removed = store.replace(PODS, [], "9", "shop")
    assert [found["metadata"]["namespace"] for found in removed] == ["shop"]
    assert [found["metadata"]["namespace"] for found in store.all(PODS)] == ["bank"]
