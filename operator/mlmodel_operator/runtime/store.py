"""The newest known body of each object that the operator watches or writes.

It gets the events of a watch, which may be late, and the responses to the operator's own writes, which come before
these events. An older body never replaces a newer one, so a reader always sees the last write: decisions from stale
data are the most common serious bug of operators.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mlmodel_operator.runtime.resource import Bodies, Body, Resource, address, is_newer, metadata, resource_version, uid
from mlmodel_operator.runtime.view import View

OnChange = Callable[[Resource, str, str], None]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_TOMBSTONES = 10_000


def slim_metadata(body: Body) -> Body:
    """Return the body without managedFields and kubectl's copy, which are often its largest parts and never read."""
    meta = {key: value for key, value in metadata(body).items() if key != "managedFields"}
    annotations = meta.get("annotations")
    if annotations and LAST_APPLIED in annotations:
        meta["annotations"] = {key: value for key, value in annotations.items() if key != LAST_APPLIED}
    return {**body, "metadata": meta}


@dataclass(frozen=True)
class _Tombstone:
    """An object did not exist at ``version``; ``deleted_uid`` is its UID if the operator deleted it."""

    version: str
    deleted_uid: str = ""

    def covers(self, body: Body) -> bool:
        """Whether ``body`` is from before the deletion."""
        if not is_newer(resource_version(body), self.version):
            return True
        return self.deleted_uid == uid(body) != "" and not metadata(body).get("deletionTimestamp")


class Store:
    """Bodies by (resource, namespace, name), grouped by a label.

    ``group_label`` names the label whose value is the group of an object. ``views`` says what is stored of a kind, for
    other kinds see ``slim_metadata``. A body that differs from the one before
    only in what is dropped is not a change. The bodies that the store returns are shared: do not change them.
    """

    def __init__(self, group_label: str, views: Mapping[Resource, View] | None = None) -> None:
        self._group_label = group_label
        self._views = dict(views or {})
        self._bodies: dict[Resource, dict[tuple[str, str], Body]] = defaultdict(dict)
        self._groups: dict[tuple[Resource, str, str], dict[str, Body]] = {}
        # Bounded: the oldest are dropped, long after the last event from before the deletion.
        self._tombstones: OrderedDict[tuple[Resource, str, str], _Tombstone] = OrderedDict()
        self._callbacks: list[OnChange] = []

    def on_change(self, callback: OnChange) -> None:
        """Call ``callback(resource, namespace, group)`` after each change of an object that has the group label."""
        self._callbacks.append(callback)

    def get(self, r: Resource, namespace: str, name: str) -> Body | None:
        """Return the newest body; None if the store has no such object."""
        return self._bodies[r].get((namespace, name))

    def all(self, r: Resource) -> Bodies:
        """Return all bodies of a kind."""
        return list(self._bodies[r].values())

    def group(self, r: Resource, namespace: str, key: str) -> Bodies:
        """Return all bodies of a kind in a namespace whose group label is ``key``, by name."""
        bodies = self._groups.get((r, namespace, key), {})
        return [bodies[name] for name in sorted(bodies)]

    def reduced(self, r: Resource, body: Body, known: Body | None = None) -> Body:
        """Return what is stored of a body; ``known`` is the stored body before it."""
        view = self._views.get(r)
        return slim_metadata(body) if view is None else view.keep(body, known)

    def put(self, r: Resource, body: Body) -> bool:
        """Store ``body`` unless a newer one or its deletion is known. Return whether it was stored."""
        key = (r, *address(body))
        _, namespace, name = key
        version = resource_version(body)
        known = self._bodies[r].get((namespace, name))
        if known is not None and not is_newer(version, resource_version(known)):
            return False
        tombstone = self._tombstones.get(key)
        if tombstone is not None and tombstone.covers(body):
            return False
        self._tombstones.pop(key, None)
        body = self.reduced(r, body, known)
        self._bodies[r][namespace, name] = body
        self._regroup(r, namespace, name, known, body)
        return True

    def remove(self, r: Resource, body: Body) -> bool:
        """Remove an object that the operator has deleted; ``body`` is its last known body.

        From then on the store ignores events with that UID at any resourceVersion, as they are from before the
        deletion, unless they have a deletionTimestamp (a finalizer delays the deletion). Return whether it was stored.
        """
        return self._forget(r, body, uid(body))

    def observe_deletion(self, r: Resource, body: Body) -> bool:
        """Remove the object of a DELETED event, unless a newer body is known.

        Such an event also comes when an object no longer matches the label selector of the watch, so the same UID may
        return later. Return whether the object was removed.
        """
        return self._forget(r, body, "")

    def replace(self, r: Resource, bodies: Iterable[Body], version: str, namespace: str | None = None) -> Bodies:
        """Make the kind, in all namespaces or one, equal to a list with the resourceVersion ``version``, and return the
        removed bodies.

        An object that is not in the list is removed, unless it is newer than the list: the operator has just written
        it.
        """
        listed = set()
        for body in bodies:
            listed.add(address(body))
            self.put(r, body)
        removed = []
        for where, known in list(self._bodies[r].items()):
            if namespace not in (None, where[0]):
                continue
            if where not in listed and not is_newer(resource_version(known), version):
                self._bury(r, *where, _Tombstone(version))
                del self._bodies[r][where]
                self._regroup(r, *where, known, None)
                removed.append(known)
        return removed

    def _forget(self, r: Resource, body: Body, deleted_uid: str) -> bool:
        namespace, name = address(body)
        version = resource_version(body)
        known = self._bodies[r].get((namespace, name))
        if known is not None and is_newer(resource_version(known), version) and uid(known) != deleted_uid:
            return False
        self._bury(r, namespace, name, _Tombstone(version, deleted_uid))
        if known is None:
            return False
        del self._bodies[r][namespace, name]
        self._regroup(r, namespace, name, known, None)
        return True

    def _bury(self, r: Resource, namespace: str, name: str, tombstone: _Tombstone) -> None:
        self._tombstones.pop((r, namespace, name), None)
        self._tombstones[r, namespace, name] = tombstone
        while len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)

    def _regroup(self, r: Resource, namespace: str, name: str, old: Body | None, new: Body | None) -> None:
        before, after = self._group_of(old), self._group_of(new)
        if before and before != after:
            group = self._groups[r, namespace, before]
            del group[name]
            if not group:
                del self._groups[r, namespace, before]
        if after and new is not None:
            self._groups.setdefault((r, namespace, after), {})[name] = new
        if old is not None and new is not None and _content(old) == _content(new):
            return
        for group_key in {before, after} - {""}:
            for callback in self._callbacks:
                callback(r, namespace, group_key)

    def _group_of(self, body: Body | None) -> str:
        labels = metadata(body).get("labels") if body is not None else None
        return str((labels or {}).get(self._group_label, ""))


def _content(body: Body) -> Body:
    """Return the body without its resourceVersion, which also changes with fields that are not stored."""
    return {**body, "metadata": {key: value for key, value in metadata(body).items() if key != "resourceVersion"}}
