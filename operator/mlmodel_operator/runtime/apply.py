"""Write an intent if, and only if, the cluster differs from it.

An apply that changes nothing is still a request, may change the resourceVersion, and would be repeated at every event:
a converged operator must write nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.resource import (
    CONFIG_MAPS,
    Body,
    Resource,
    address,
    controller_of,
    metadata,
    uid,
)
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.view import CONTENT, read_content

logger = logging.getLogger(__name__)


class NotOurs(ApiError):
    """An object with this name exists, and this owner does not control it; it stays unchanged.

    ``retryable`` if it belongs to a deleted owner of the same name: the garbage collector will delete it. Never a
    ``conflict``: reading it again changes nothing.
    """

    def __init__(self, r: Resource, body: Body, *, outdated: bool) -> None:
        namespace, name = address(body)
        what = f"{r.kind} {namespace}/{name}"
        owner = controller_of(body)
        todo = f"delete it, or choose another name: `{delete_command(r, body)}`"
        if outdated:
            message = f"{what} belongs to a deleted owner of the same name; the garbage collector will delete it"
        elif owner:
            message = f"{what} belongs to {owner.get('kind')} {owner.get('name')}: {todo}"
        else:
            message = f"{what} exists, and this operator did not create it: {todo}"
        super().__init__(409, "NotOurs", message)
        self._outdated = outdated

    @property
    def conflict(self) -> bool:
        """False."""
        return False

    @property
    def retryable(self) -> bool:
        """Whether the garbage collector will delete the object."""
        return self._outdated


def delete_command(r: Resource, body: Body) -> str:
    """Return the kubectl command that deletes the object."""
    namespace, name = address(body)
    return f"kubectl delete {r.kind.lower()} {name} -n {namespace}"


_REMEMBERED = 50_000

Foreign = Callable[[Body, Body], Body | None]
"""From an object and the intent to the JSON merge patch that removes what others added to it; None if nothing is."""


def _nothing(_live: Body, _intent: Body) -> None:
    """Remove nothing."""


@dataclass(frozen=True)
class _Applied:
    """Hashes of the last write and of its fields in the response, where the server has normalised values."""

    uid: str
    intent: str
    outcome: str
    seen: str
    """What the store has of the object with this outcome: while that stays, the object is unchanged."""


class Applier:
    """Server-side apply of whole intents, skipped if nothing would change.

    Compares the fields of the intent with the server's response to the last apply. A drift of any of them, also of
    labels and annotations, is written again. Of a ConfigMap and of a large object the store shows only whether it has
    changed: it is read if it has, and after a restart. ``manager`` is the field manager. ``hash_annotation`` names the
    annotation with the hash of the intent, so that an object that equals its intent is not written after a restart
    either.

    Server-side apply leaves the fields of others. ``foreign`` says which of them must go, for example a container that
    somebody added. What the API server adds again in the same request stays: its own defaults, and what the cluster's
    admission webhooks write.
    """

    def __init__(self, api: Api, store: Store, manager: str, hash_annotation: str, foreign: Foreign = _nothing) -> None:
        self._api = api
        self._foreign = foreign
        self._store = store
        self._manager = manager
        self._hash_annotation = hash_annotation
        # Bounded: an entry that is dropped costs at most one apply that changes nothing.
        self._applied: OrderedDict[tuple[Resource, str, str], _Applied] = OrderedDict()
        # By UID: hash of what the API server adds to what the operator writes.
        self._added: OrderedDict[str, str] = OrderedDict()

    async def apply(self, r: Resource, body: Body) -> Body:
        """Bring the object to the state in ``body``, and return it (shared with the store: do not change it).

        Raise ApiError; NotOurs if the object belongs to another controller. An object that terminates is returned
        unchanged; the event of its deletion requeues the model.
        """
        namespace, name = address(body)
        intent_hash = _hash(body)
        intent = _with_annotation(body, self._hash_annotation, intent_hash)
        live = self._store.get(r, namespace, name)
        if live is None:
            # An object that is not in the store may exist: it may lack the label of the watch.
            live = await self._read(r, namespace, name)
        if live is not None:
            _check_controller(r, intent, live)
            if metadata(live).get("deletionTimestamp") or self._is_unchanged(r, intent, intent_hash, live):
                return live
            whole = await self._whole(r, live, intent)
            if self._is_current(r, intent, intent_hash, live, whole):
                return live
            written = await self._update(r, intent, live, whole)
        else:
            written = await self._api.apply(r, intent, self._manager)
        written = await self._clean(r, written, intent)
        self._remember(r, written, intent_hash, intent)
        self._store.put(r, written)
        return self._store.get(r, namespace, name) or written

    async def patch(self, r: Resource, live: Body, change: Body) -> Body:
        """Change fields of the object ``live`` that are not part of an applied intent; return the changed object.

        Raise ApiError; a conflict if the object was replaced by another of the same name.
        """
        request = _with_uid(change, uid(live))
        with _another_uid_is_a_conflict(r, live):
            written = await self._api.patch(r, *address(live), request)
        self._store.put(r, written)
        return self._store.get(r, *address(live)) or written

    async def _update(self, r: Resource, intent: Body, live: Body, whole: Body | None) -> Body:
        """Apply onto the object ``live``; one that has replaced it is not taken over."""
        if whole is not None and uid(whole) == uid(live):
            if r == CONFIG_MAPS and whole.get("immutable"):
                return await self._replace(r, intent, live)
            await self._clean(r, whole, intent)
        with _another_uid_is_a_conflict(r, intent):
            return await self._api.apply(r, _with_uid(intent, uid(live)), self._manager)

    async def _replace(self, r: Resource, intent: Body, live: Body) -> Body:
        """Delete a ConfigMap that somebody has made immutable and make it again: the API server rejects every change of
        it."""
        logger.warning("immutable object replaced", extra={"kind": r.kind, "object": "/".join(address(live))})
        await self._api.delete(r, *address(live), uid(live))
        self._store.remove(r, live)
        return await self._api.apply(r, intent, self._manager)

    def _removable(self, live: Body, intent: Body) -> Body | None:
        """Return the patch that removes fields of others that must go; None if there are none."""
        foreign = self._foreign(live, intent)
        return None if foreign is None or self._added.get(uid(live)) == _hash(foreign) else foreign

    async def _clean(self, r: Resource, live: Body, intent: Body) -> Body:
        """Remove what others added to the object, and return it.

        The same request has all fields of the intent: admission policies, which permit only what the operator builds,
        would reject an object with only the one or the other corrected.
        """
        foreign = self._removable(live, intent)
        if foreign is None:
            return live
        # Without the hash of this intent they may be the operator's own, of an earlier intent.
        hashes = [(metadata(body).get("annotations") or {}).get(self._hash_annotation) for body in (live, intent)]
        report = logger.warning if hashes[0] == hashes[1] else logger.info
        report("foreign fields removed", extra={"kind": r.kind, "object": "/".join(address(live))})
        with _another_uid_is_a_conflict(r, live):
            written = await self._api.patch(r, *address(live), _with_uid(correction(intent, foreign), uid(live)))
        rest = self._foreign(written, intent)
        if rest is not None:
            self._added[uid(written)] = _hash(rest)
            while len(self._added) > _REMEMBERED:
                self._added.popitem(last=False)
        return written

    async def _read(self, r: Resource, namespace: str, name: str) -> Body | None:
        try:
            return await self._api.get(r, namespace, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def _is_unchanged(self, r: Resource, intent: Body, intent_hash: str, live: Body) -> bool:
        """Whether this intent was the last one applied, and the store shows no change since then."""
        applied = self._applied.get((r, *address(live)))
        return (
            applied is not None
            and (applied.uid, applied.intent) == (uid(live), intent_hash)
            and applied.seen == self._seen(r, live, intent)
        )

    def _is_current(self, r: Resource, intent: Body, intent_hash: str, live: Body, whole: Body | None) -> bool:
        """Whether the object ``live``, of which ``whole`` has all fields, equals its intent; remember it if so."""
        applied = self._applied.get((r, *address(live)))
        if applied is not None and applied.uid == uid(live):
            if applied.intent != intent_hash:
                return False
            expected = applied.outcome
        else:
            # After a restart: the annotation shows that this intent was the last one applied (so no field of an older
            # one remains), and the fields must have the values of the intent.
            annotations = metadata(live).get("annotations") or {}
            if annotations.get(self._hash_annotation) != intent_hash:
                return False
            expected = _hash(intent)
        if whole is None or uid(whole) != uid(live) or _hash(_project(whole, intent)) != expected:
            return False
        if self._removable(whole, intent) is not None:
            return False
        self._remember(r, whole, intent_hash, intent)
        return True

    async def _whole(self, r: Resource, live: Body, intent: Body) -> Body | None:
        """Return all fields in the intent: from the store if it has them, else read them. None if the object does not
        exist, or is larger than any that the operator writes."""
        kept = self._store.reduced(r, live)
        if CONTENT not in kept:
            return live
        spec = read_content(kept)
        if spec is not None:
            # The identity of the kind is not stored.
            return {**intent, "metadata": {**metadata(intent), **metadata(kept)}, "spec": spec}
        try:
            return await self._read(r, *address(live))
        except ApiError as error:
            if error.too_large:
                return None
            raise

    def _seen(self, r: Resource, live: Body, intent: Body) -> str:
        """Return a hash of what the store shows of the fields in the intent."""
        kept = self._store.reduced(r, live)
        meta = {key: value for key, value in metadata(intent).items() if key in _SEEN}
        content = kept.get(CONTENT, b"").decode() or {k: v for k, v in kept.items() if k not in _NOT_CONTENT}
        return _hash([_project(metadata(kept), meta), content])

    def _remember(self, r: Resource, live: Body, intent_hash: str, intent: Body) -> None:
        outcome, seen = _hash(_project(live, intent)), self._seen(r, live, intent)
        self._applied[(r, *address(live))] = _Applied(uid(live), intent_hash, outcome, seen)
        while len(self._applied) > _REMEMBERED:
            self._applied.popitem(last=False)


_SEEN = ("labels", "annotations", "ownerReferences")
_NOT_CONTENT = ("metadata", "status")
_IDENTITY = ("apiVersion", "kind", *_NOT_CONTENT)


def correction(intent: Body, foreign: Body | None) -> Body:
    """Return the JSON merge patch that gives an object the content of the intent, and removes what is ``foreign``."""
    return _merged({key: value for key, value in intent.items() if key not in _IDENTITY}, foreign or {})


def _merged(desired: Body, foreign: Body) -> Body:
    """Return ``desired`` with the removals; a list in ``foreign`` is that of the intent."""
    found = dict(desired)
    for key, value in foreign.items():
        inner = desired.get(key)
        found[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def _with_uid(body: Body, known: str) -> Body:
    return {**body, "metadata": {**metadata(body), "uid": known}}


@contextmanager
def _another_uid_is_a_conflict(r: Resource, body: Body) -> Iterator[None]:
    """Raise a conflict for another UID, which the API server reports as an invalid request; a missing object is one."""
    try:
        yield
    except ApiError as error:
        if error.invalid and "metadata.uid" in error.message:
            raise ApiError(409, "Conflict", f"{r.kind} {'/'.join(address(body))} was replaced") from error
        raise


def _check_controller(r: Resource, intent: Body, live: Body) -> None:
    """Raise NotOurs unless the controller in ``intent`` controls the object."""
    desired, actual = controller_of(intent), controller_of(live)
    if (desired or {}).get("uid") == (actual or {}).get("uid"):
        return
    outdated = bool(
        desired and actual and (desired.get("kind"), desired.get("name")) == (actual.get("kind"), actual.get("name"))
    )
    raise NotOurs(r, live, outdated=outdated)


def _project(live: Any, intent: Any) -> Any:
    """Return ``live`` reduced to the fields of ``intent``; a selector stays whole, because it is one value to the API
    server too, and so does a list of another length, because it differs."""
    if isinstance(intent, dict) and isinstance(live, dict):
        return {
            key: live.get(key) if key == "selector" else _project(live.get(key), value) for key, value in intent.items()
        }
    if isinstance(intent, list) and isinstance(live, list) and len(intent) == len(live):
        return [_project(actual, desired) for actual, desired in zip(live, intent, strict=True)]
    return live


def _with_annotation(body: Body, key: str, value: str) -> Body:
    meta = metadata(body)
    return {**body, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), key: value}}}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
