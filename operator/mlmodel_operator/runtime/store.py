"""The newest known body of each object that the operator watches or writes.

Two streams of news meet here: events of a watch, which may be late, and the responses to our own writes, which are
ahead of the events. An older body never replaces a newer one, so whoever reads the store after a write reads that
write: deciding from a stale view is the commonest serious bug of operators.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mlmodel_operator.runtime.resource import Bodies, Body, Resource, address, is_newer, metadata, resource_version, uid

Slim = Callable[[Body], Body]
OnChange = Callable[[Resource, str, str], None]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_TOMBSTONES = 10_000


def slim_metadata(body: Body) -> Body:
    """The body without what nobody reads here and what is often its largest part: managedFields and kubectl's copy."""
    meta = {key: value for key, value in metadata(body).items() if key != "managedFields"}
    annotations = meta.get("annotations")
    if annotations and LAST_APPLIED in annotations:
        meta["annotations"] = {key: value for key, value in annotations.items() if key != LAST_APPLIED}
    return {**body, "metadata": meta}


@dataclass(frozen=True)
class _Tombstone:
    """An object was known to be gone at ``version``; ``dead`` is its UID if we ourselves deleted it."""

    version: str
    dead: str = ""

    def covers(self, body: Body) -> bool:
        """Whether ``body`` is news from before the deletion."""
        if not is_newer(resource_version(body), self.version):
            return True
        return self.dead == uid(body) != "" and not metadata(body).get("deletionTimestamp")


class Store:
    """Bodies by (resource, namespace, name), grouped by a label.

    ``group_label`` names the label whose value says which group an object belongs to; ``slim`` reduces a body before it
    is kept. What the store returns is shared: read it, never change it.
    """

    def __init__(self, group_label: str, slim: Slim = slim_metadata) -> None:
        self._group_label = group_label
        self._slim = slim
        self._bodies: dict[Resource, dict[tuple[str, str], Body]] = defaultdict(dict)
        self._groups: dict[tuple[Resource, str, str], dict[str, Body]] = {}
        # Bounded: the oldest are forgotten, long after any event that could resurrect them has passed.
        self._tombstones: OrderedDict[tuple[Resource, str, str], _Tombstone] = OrderedDict()
        self._callbacks: list[OnChange] = []

    def on_change(self, callback: OnChange) -> None:
        """Call ``callback(resource, namespace, group)`` after each change of an object that has the group label."""
        self._callbacks.append(callback)

    def get(self, r: Resource, namespace: str, name: str) -> Body | None:
        """The newest body, or None if there is no such object as far as is known."""
        return self._bodies[r].get((namespace, name))

    def all(self, r: Resource) -> Bodies:
        """All bodies of a kind."""
        return list(self._bodies[r].values())

    def group(self, r: Resource, namespace: str, key: str) -> Bodies:
        """All bodies of a kind in a namespace whose group label is ``key``, by name."""
        found = self._groups.get((r, namespace, key), {})
        return [found[name] for name in sorted(found)]

    def put(self, r: Resource, body: Body) -> bool:
        """Keep ``body`` unless a newer one, or its deletion, is known. Returns whether it was news."""
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
        body = self._slim(body)
        self._bodies[r][namespace, name] = body
        self._regroup(r, namespace, name, known, body)
        return True

    def remove(self, r: Resource, body: Body) -> bool:
        """Forget an object that we have deleted, ``body`` being what was known of it.

        From now on events of that UID are echoes from before the deletion, whatever their resourceVersion; only one
        with a deletionTimestamp is believed (a finalizer keeps the object for a while). Returns whether it was news.
        """
        return self._forget(r, body, uid(body))

    def observe_deletion(self, r: Resource, body: Body) -> bool:
        """Forget an object of which a DELETED event tells, unless something newer is known of it already.

        Such an event also comes when an object merely stops matching the label selector of the watch, so the same UID
        may come back later. Returns whether it was news.
        """
        return self._forget(r, body, "")

    def replace(self, r: Resource, bodies: Iterable[Body], version: str) -> Bodies:
        """Make the kind equal to a list taken at ``version``, and return the bodies that this removed.

        What is not in the list is gone, unless it is newer than the list: written by us while the list was read.
        """
        listed = set()
        for body in bodies:
            listed.add(address(body))
            self.put(r, body)
        removed = []
        for where, known in list(self._bodies[r].items()):
            if where not in listed and not is_newer(resource_version(known), version):
                self._bury(r, *where, _Tombstone(version))
                del self._bodies[r][where]
                self._regroup(r, *where, known, None)
                removed.append(known)
        return removed

    def _forget(self, r: Resource, body: Body, dead: str) -> bool:
        namespace, name = address(body)
        version = resource_version(body)
        known = self._bodies[r].get((namespace, name))
        if known is not None and is_newer(resource_version(known), version) and uid(known) != dead:
            return False
        self._bury(r, namespace, name, _Tombstone(version, dead))
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
        for group_key in {before, after} - {""}:
            for callback in self._callbacks:
                callback(r, namespace, group_key)

    def _group_of(self, body: Body | None) -> str:
        labels = metadata(body).get("labels") if body is not None else None
        return str((labels or {}).get(self._group_label, ""))
