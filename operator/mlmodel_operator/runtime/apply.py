"""Writes an intent when, and only when, the cluster differs from it.

An apply that changes nothing is still a request, may still move the resourceVersion, and would be repeated at every
event: a converged operator must write nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.resource import (
    Body,
    Resource,
    address,
    controller_of,
    metadata,
    uid,
)
from mlmodel_operator.runtime.store import Store


class NotOurs(ApiError):
    """An object of that name exists, and another owner (or nobody) controls it; it is left alone.

    ``retryable`` when it belongs to a former owner of the same name: the garbage collector is about to remove it.
    Never a ``conflict``: reading again changes nothing.
    """

    def __init__(self, r: Resource, body: Body, *, outdated: bool) -> None:
        namespace, name = address(body)
        what = f"{r.kind} {namespace}/{name}"
        owner = controller_of(body)
        if outdated:
            message = f"{what} still belongs to a deleted owner of the same name; the garbage collector removes it soon"
        elif owner:
            message = f"{what} belongs to {owner.get('kind')} {owner.get('name')}: delete it, or choose another name"
        else:
            message = f"{what} exists and was not made by this operator: delete it, or choose another name"
        super().__init__(409, "NotOurs", message)
        self._outdated = outdated

    @property
    def conflict(self) -> bool:
        """Never."""
        return False

    @property
    def retryable(self) -> bool:
        """Whether it will be gone soon."""
        return self._outdated


_REMEMBERED = 50_000


@dataclass(frozen=True)
class _Applied:
    """What was last written, and what the server made of the fields in it (it fills in, and normalises, values)."""

    uid: str
    intent: str
    outcome: str


class Applier:
    """Server-side apply of whole intents, skipped when nothing would change.

    The comparison is over the fields of the intent, as the server answered when they were last applied: a drift of any
    of them, labels and annotations included, is written again; fields of others (an autoscaler's ``replicas``) are not
    looked at. ``manager`` is the field manager. ``hash_annotation`` names the annotation of each object with the hash
    of its intent, so that after a restart an object that still equals its intent needs no write either.
    """

    def __init__(self, api: Api, store: Store, manager: str, hash_annotation: str) -> None:
        self._api = api
        self._store = store
        self._manager = manager
        self._hash_annotation = hash_annotation
        # Bounded, oldest out: forgetting costs at most one apply that changes nothing.
        self._applied: OrderedDict[tuple[Resource, str, str], _Applied] = OrderedDict()

    async def apply(self, r: Resource, body: Body) -> Body:
        """Make the object as ``body`` says, and return it as it now is (shared with the store: read only).

        Raises NotOurs instead of touching an object of another controller, and ApiError. An object that is being
        deleted is returned as it is; when it is gone, its deletion event leads back here.
        """
        namespace, name = address(body)
        intent_hash = _hash(body)
        intent = _with_annotation(body, self._hash_annotation, intent_hash)
        live = self._store.get(r, namespace, name)
        if live is None:
            # Not seen is not the same as not there: it may lack the label by which we watch.
            live = await self._read(r, namespace, name)
        if live is not None:
            _refuse_if_not_ours(r, intent, live)
            if metadata(live).get("deletionTimestamp") or self._is_current(r, intent, intent_hash, live):
                return live
            written = await self._update(r, intent, uid(live))
        else:
            written = await self._api.apply(r, intent, self._manager)
        self._remember(r, written, intent_hash, intent)
        self._store.put(r, written)
        return self._store.get(r, namespace, name) or written

    async def patch(self, r: Resource, live: Body, change: Body) -> Body:
        """Change some fields of the object ``live``, which are no part of an applied intent; return it as it then is.

        Raises ApiError, a conflict when another object has taken its place.
        """
        request = _with_uid(change, uid(live))
        with _another_uid_is_a_conflict(r, live):
            written = await self._api.patch(r, *address(live), request)
        self._store.put(r, written)
        return self._store.get(r, *address(live)) or written

    async def _update(self, r: Resource, intent: Body, known: str) -> Body:
        """Apply onto the very object that we know: one that somebody has just put in its place is not taken over."""
        with _another_uid_is_a_conflict(r, intent):
            return await self._api.apply(r, _with_uid(intent, known), self._manager)

    async def _read(self, r: Resource, namespace: str, name: str) -> Body | None:
        try:
            return await self._api.get(r, namespace, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def _is_current(self, r: Resource, intent: Body, intent_hash: str, live: Body) -> bool:
        key = (r, *address(live))
        applied = self._applied.get(key)
        if applied is not None and applied.uid == uid(live):
            return applied.intent == intent_hash and applied.outcome == _hash(_project(live, intent))
        # After a restart: the annotation says that exactly this intent was the last one applied (so no field of an
        # older one is left over), and the fields that it sets are as it sets them.
        annotations = metadata(live).get("annotations") or {}
        if annotations.get(self._hash_annotation) == intent_hash and _project(live, intent) == intent:
            self._remember(r, live, intent_hash, intent)
            return True
        return False

    def _remember(self, r: Resource, live: Body, intent_hash: str, intent: Body) -> None:
        self._applied[(r, *address(live))] = _Applied(uid(live), intent_hash, _hash(_project(live, intent)))
        while len(self._applied) > _REMEMBERED:
            self._applied.popitem(last=False)


def _with_uid(body: Body, known: str) -> Body:
    return {**body, "metadata": {**metadata(body), "uid": known}}


@contextmanager
def _another_uid_is_a_conflict(r: Resource, body: Body) -> Iterator[None]:
    """An object that is gone is a conflict already; one with another UID is reported as an invalid request."""
    try:
        yield
    except ApiError as error:
        if error.invalid and "metadata.uid" in error.message:
            raise ApiError(409, "Conflict", f"{r.kind} {'/'.join(address(body))} was replaced") from error
        raise


def _refuse_if_not_ours(r: Resource, intent: Body, live: Body) -> None:
    wanted, found = controller_of(intent), controller_of(live)
    if (wanted or {}).get("uid") == (found or {}).get("uid"):
        return
    outdated = bool(
        wanted and found and (wanted.get("kind"), wanted.get("name")) == (found.get("kind"), found.get("name"))
    )
    raise NotOurs(r, live, outdated=outdated)


def _project(live: Any, intent: Any) -> Any:
    """``live`` reduced to the fields that ``intent`` sets. A list of another length is taken whole: it differs."""
    if isinstance(intent, dict) and isinstance(live, dict):
        return {key: _project(live.get(key), value) for key, value in intent.items()}
    if isinstance(intent, list) and isinstance(live, list) and len(intent) == len(live):
        return [_project(there, here) for there, here in zip(live, intent, strict=True)]
    return live


def _with_annotation(body: Body, key: str, value: str) -> Body:
    meta = metadata(body)
    return {**body, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), key: value}}}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
