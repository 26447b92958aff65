"""Leader election: the replica that holds the Lease works.

The clocks of two machines are never compared. A standby acquires the Lease if the Lease has not changed for its whole
duration on the standby's own monotonic clock, or at once if it was released. A holder that cannot renew stops before
the Lease can expire for any other replica.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress

from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.clock import Clock, micro_time
from mlmodel_operator.runtime.resource import LEASES, Body, resource_version

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_RELEASE_SECONDS = 3.0


class LeaseLost(Exception):
    """Another replica holds the Lease, or the Lease was not renewed in time: stop at once."""


class Elector:
    """One candidate for the Lease ``namespace/name``; ``identity`` is the pod's name.

    All times are in seconds. The Lease expires after ``duration`` without a change. The holder renews it every
    ``renew`` and stops after ``deadline`` without success, so that ``duration - deadline`` remains for reconciles in
    progress. A candidate that finds its own identity (its container was restarted) does not wait: a pod runs one
    container of a name at a time.
    """

    def __init__(
        self,
        api: Api,
        clock: Clock,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        renew: float = 5.0,
        deadline: float = 11.0,
    ) -> None:
        if not 0 < renew < deadline < duration:
            raise ValueError("a Lease needs renew < deadline < duration")
        self._api = api
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._path = f"{namespace}/{name}"
        self._identity = identity
        self._duration = duration
        self._renew = renew
        self._deadline = deadline
        self._lease: Body = {}
        self._renewed = 0.0  # monotonic time just before the last successful renewal was sent
        self.leading = False

    async def acquire(self) -> None:
        """Return once this candidate holds the Lease; wait while the API server does not answer."""
        seen, since = "", 0.0
        while True:
            try:
                lease = await self._read()
                now = self._clock.monotonic()
                if resource_version(lease) != seen:
                    seen, since = resource_version(lease), now
                holder = _spec(lease).get("holderIdentity") or ""
                expires = since + float(_spec(lease).get("leaseDurationSeconds") or self._duration)
                if holder in ("", self._identity) or now >= expires:
                    if await self._try_acquire(lease):
                        return
                    continue
                if not self._lease:
                    logger.info("standing by", extra={"leader": holder})
                self._lease = lease
                # A change ends the wait; the next read shows whether it was a renewal or a release.
                await self._wait_for_change(seen, expires - now)
            except ApiError as error:
                logger.warning("cannot read the Lease", extra={"lease": self._path, "error": error})
                await self._clock.sleep(_RETRY_SECONDS)

    async def hold(self) -> None:
        """Renew the Lease until cancelled. Raise LeaseLost."""
        while True:
            await self._clock.sleep(self._renew)
            await self._renew_once()

    async def release(self) -> None:
        """Release the Lease, so that a standby acquires it at once. Never raises: without a response the Lease
        expires."""
        if not self.leading:
            return
        self.leading = False
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._patch({"holderIdentity": "", "renewTime": micro_time(self._clock.now())})

    async def _renew_once(self) -> None:
        while True:
            started = self._clock.monotonic()
            remaining = self._renewed + self._deadline - started
            if remaining <= 0:
                self.leading = False
                raise LeaseLost(f"the Lease was not renewed for {self._deadline:.0f} s")
            try:
                async with asyncio.timeout(remaining):
                    self._lease = await self._patch({"renewTime": micro_time(self._clock.now())})
                self._renewed = started
                return
            except TimeoutError:
                continue
            except ApiError as error:
                if error.conflict or error.not_found:
                    await self._check_holder()
                    continue
                logger.warning("cannot renew the Lease", extra={"lease": self._path, "error": error})
                await self._clock.sleep(min(_RETRY_SECONDS, remaining))

    async def _check_holder(self) -> None:
        """Read the Lease after a conflict, which has three causes: an earlier renewal whose response was lost, an edit
        by a user, or another holder. Raise LeaseLost in the last case."""
        with suppress(ApiError):
            self._lease = await self._read()
            holder = _spec(self._lease).get("holderIdentity") or ""
            if holder != self._identity:
                self.leading = False
                raise LeaseLost(f"{holder or 'no replica'} holds the Lease now")

    async def _try_acquire(self, lease: Body) -> bool:
        """Write this identity into the Lease; return False if another write came first, as its resourceVersion
        shows."""
        self._lease = lease
        started = self._clock.monotonic()
        stamp = micro_time(self._clock.now())
        before = _spec(lease)
        is_transition = before.get("holderIdentity") != self._identity
        try:
            self._lease = await self._patch(
                {
                    "holderIdentity": self._identity,
                    "leaseDurationSeconds": round(self._duration),
                    "acquireTime": stamp,
                    "renewTime": stamp,
                    "leaseTransitions": int(before.get("leaseTransitions") or 0) + is_transition,
                }
            )
        except ApiError as error:
            if error.conflict:
                return False
            raise
        self._renewed = started
        self.leading = True
        return True

    async def _read(self) -> Body:
        try:
            return await self._api.get(LEASES, self._namespace, self._name)
        except ApiError as error:
            if not error.not_found:
                raise
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"namespace": self._namespace, "name": self._name},
            "spec": {},
        }
        try:
            return await self._api.create(LEASES, body)
        except ApiError as error:
            if error.conflict:  # another candidate has just created it
                return await self._api.get(LEASES, self._namespace, self._name)
            raise

    async def _patch(self, spec: Body) -> Body:
        meta = {"resourceVersion": resource_version(self._lease)}
        return await self._api.patch(LEASES, self._namespace, self._name, {"metadata": meta, "spec": spec})

    async def _wait_for_change(self, version: str, seconds: float) -> None:
        events = self._api.watch(LEASES, version, self._namespace, field_selector=f"metadata.name={self._name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), aclosing(events):
                async for event in events:
                    if event.type != "BOOKMARK":
                        return
                # The server closed the watch: pause, so that a server that closes each watch at once gets few requests.
                await self._clock.sleep(_RETRY_SECONDS)


def _spec(lease: Body) -> Body:
    return lease.get("spec") or {}
