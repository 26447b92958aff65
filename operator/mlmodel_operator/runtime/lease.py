"""Which replica works: the holder of a Lease.

The clocks of two machines are never compared. A standby takes over when the Lease has not changed for its whole
duration by its own monotonic clock, or at once when it was released. A holder that cannot renew stops before its Lease
can have expired for anybody else.
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
    """Somebody else holds the Lease, or it could not be renewed in time: stop working at once."""


class Elector:
    """One candidate for the Lease ``namespace/name``; ``identity`` is the pod's name.

    All times are in seconds. The Lease counts as abandoned after ``duration`` without a change, is renewed every
    ``renew``, and given up after ``deadline`` without success, which leaves ``duration - deadline`` for the work in
    progress to stop. A holder that finds its own identity (its container was restarted) goes on without waiting: a pod
    runs one container of a name at a time.
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
        self._renewed = 0.0  # monotonic, just before the request that renewed was sent
        self.leading = False

    async def acquire(self) -> None:
        """Return when this candidate holds the Lease. An API server that is away is waited for."""
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
                    if await self._take(lease):
                        return
                    continue
                if not self._lease:
                    logger.info("standing by", extra={"leader": holder})
                self._lease = lease
                # A change ends the watch early; the reading that follows tells whether it was a renewal or a release.
                await self._wait_for_change(seen, expires - now)
            except ApiError as error:
                logger.warning("cannot read the Lease", extra={"lease": self._path, "error": error})
                await self._clock.sleep(_RETRY_SECONDS)

    async def hold(self) -> None:
        """Keep renewing; ends only by raising LeaseLost (or being cancelled)."""
        while True:
            await self._clock.sleep(self._renew)
            await self._renew_once()

    async def release(self) -> None:
        """Let a standby take over at once. Never raises: without an answer the Lease expires by itself."""
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
                raise LeaseLost(f"the Lease could not be renewed for {self._deadline:.0f} s")
            try:
                async with asyncio.timeout(remaining):
                    self._lease = await self._patch({"renewTime": micro_time(self._clock.now())})
                self._renewed = started
                return
            except TimeoutError:
                continue
            except ApiError as error:
                if error.conflict or error.not_found:
                    await self._look_again()
                    continue
                logger.warning("cannot renew the Lease", extra={"lease": self._path, "error": error})
                await self._clock.sleep(min(_RETRY_SECONDS, remaining))

    async def _look_again(self) -> None:
        """After a conflict: an earlier renewal whose answer was lost, an edit by hand, or another holder."""
        with suppress(ApiError):
            self._lease = await self._read()
            holder = _spec(self._lease).get("holderIdentity") or ""
            if holder != self._identity:
                self.leading = False
                raise LeaseLost(f"{holder or 'nobody'} holds the Lease now")

    async def _take(self, lease: Body) -> bool:
        """Write ourselves in, if nobody was quicker. The resourceVersion read before decides that on the server."""
        self._lease = lease
        started = self._clock.monotonic()
        stamp = micro_time(self._clock.now())
        before = _spec(lease)
        another = before.get("holderIdentity") != self._identity
        try:
            self._lease = await self._patch(
                {
                    "holderIdentity": self._identity,
                    "leaseDurationSeconds": round(self._duration),
                    "acquireTime": stamp,
                    "renewTime": stamp,
                    "leaseTransitions": int(before.get("leaseTransitions") or 0) + another,
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
            if error.conflict:  # another candidate created it in this moment
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
                # The server ended the watch: a pause, so that one that does so at once is not asked in a loop.
                await self._clock.sleep(_RETRY_SECONDS)


def _spec(lease: Body) -> Body:
    return lease.get("spec") or {}
