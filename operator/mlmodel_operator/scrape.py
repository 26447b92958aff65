"""Read the status pages of the routers, which routes they follow and the requests that count as evidence, and the pages
of stable's pods, which count pairs.

The figures decide about rollouts, so a response that is not exactly as expected is ignored.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import aiohttp

from mlmodel_operator.api.evidence import Again, Agreement, Counts, Dropped, Outcomes, Pairs, Sides
from mlmodel_operator.names import REHEARSAL_PORT, SERVER_PORT, SERVICE_PORT

_SECONDS = 1.0
_BODY_LIMIT = 16 * 1024  # a page with all 100 weights and millions of requests at each has 15 KiB
_COUNTER_LIMIT = 2**53  # JSON numbers above are not exact in every language
_CONNECTIONS = 100
_BOOT = re.compile(r"[0-9a-f]{16}")
_REVISION = re.compile(r"[0-9a-z]{1,63}")
_UNCOUNTED = ("large", "chosen", "crowd", "other")
_NEWER_UNCOUNTED = ("sticky", "matched")  # a router of the release before does not have them


@dataclass(frozen=True)
class RouterStatus:
    """Status of one router, as its page shows it."""

    boot: str
    """Identity of the process, which counts from zero."""
    id: str
    """Identity of the routes that the router follows; empty without routes."""
    candidate: str = ""
    """Revision whose requests ``weights`` counts."""
    stable_ms: int = 0
    """Average response time of stable in milliseconds; 0 without requests."""
    weights: Mapping[int, Sides] = field(default_factory=dict)
    """Counted requests, by the weight (1 to 100) under which they were drawn."""
    uncounted: Mapping[str, int] = field(default_factory=dict)
    """Predictions that cannot count, by kind."""


@dataclass(frozen=True)
class PairsPage:
    """What one pod of stable counted in the rehearsal of a candidate."""

    boot: str
    """Identity of the process for one rehearsal, which counts from zero."""
    revision: str
    """Revision of the pod."""
    candidate: str = ""
    """Revision that the pod rehearses; empty if it rehearses none."""
    pairs: Pairs = field(default_factory=Pairs)
    session: str = ""
    """Which rehearsal it is; empty on a page of an older release."""


class Scraper:
    """One HTTP session for all pods. Create and close it in the event loop that uses it."""

    def __init__(
        self, service_port: int = SERVICE_PORT, server_port: int = SERVER_PORT, rehearsal_port: int = REHEARSAL_PORT
    ) -> None:
        self._service_port = service_port
        self._server_port = server_port
        self._rehearsal_port = rehearsal_port
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def routers(self, addresses: Mapping[str, tuple[str, int]]) -> dict[str, RouterStatus | None]:
        """Return the status of the router processes at these ``addresses`` (IP and port), by name.

        None for a router that does not answer within a second, or whose response is not valid. Never raises.
        """
        names = list(addresses)
        bodies = await asyncio.gather(*(self._read(*addresses[name], "/status") for name in names))
        return {
            name: None if body is None else parse_router_status(body) for name, body in zip(names, bodies, strict=True)
        }

    async def pages(self, addresses: Mapping[str, str]) -> dict[str, PairsPage | None]:
        """Return what the pods at these ``addresses`` (IP) counted in a rehearsal, by name.

        None for a pod that does not answer within a second, or whose response is not valid. Never raises.
        """
        names = list(addresses)
        bodies = await asyncio.gather(*(self._read(addresses[name], self._rehearsal_port, "/") for name in names))
        return {name: None if body is None else parse_page(body) for name, body in zip(names, bodies, strict=True)}

    async def answers(self, address: str, side: Literal["stable", "candidate"] = "stable") -> bool:
        """Whether a request to the Service of a model, at its IP ``address``, reaches a pod of this side. Never
        raises."""
        headers = {"x-mlmodel-version": side}
        return await self._read(address, self._service_port, "/v2/health/live", headers) is not None

    async def service_answers(self, address: str) -> bool:
        """Whether a request to the Service of a revision, at its IP ``address``, reaches a pod. Never raises."""
        return await self._read(address, self._server_port, "/v2/health/live") is not None

    async def _read(self, address: str, port: int, path: str, headers: Mapping[str, str] | None = None) -> bytes | None:
        try:
            ip = ipaddress.ip_address(address)
            url = f"http://[{ip}]:{port}{path}" if ip.version == 6 else f"http://{ip}:{port}{path}"
            body = bytearray()
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > _BODY_LIMIT:
                        return None
            return bytes(body)
        except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
            return None


def parse_router_status(body: bytes) -> RouterStatus | None:
    """Return the status in the JSON of a router; None if any part of it is not valid."""
    if len(body) > _BODY_LIMIT:
        return None
    try:
        page = json.loads(body)
        return RouterStatus(
            boot=_text(page["boot"], _BOOT),
            id=_text(page["id"]),
            candidate=_text(page["candidate"]),
            stable_ms=_natural(page["stable_ms"]),
            weights={_weight(weight): _sides(sides) for weight, sides in page["weights"].items()},
            uncounted=_uncounted(page["uncounted"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def parse_page(body: bytes) -> PairsPage | None:
    """Return what the JSON of a pod of stable says about its rehearsal; None if any part of it is not valid."""
    if len(body) > _BODY_LIMIT:
        return None
    try:
        page = json.loads(body)
        candidate = page["candidate"]
        return PairsPage(
            boot=_text(page["boot"], _BOOT),
            revision=_text(page["revision"], _REVISION),
            candidate=_text(candidate, _REVISION) if candidate != "" else "",
            session=_text(page["session"], _BOOT) if page.get("session", "") != "" else "",
            pairs=Pairs(
                seen=_natural(page["seen"]),
                kept=_natural(page["kept"]),
                left=_natural(page["left"]),
                asked=_natural(page["asked"]),
                dropped=Dropped(**_naturals(page["dropped"], Dropped)),
                pairs=Outcomes(**_naturals(page["pairs"], Outcomes)),
                again=Again(**_naturals(page["again"], Again)),
                agree=Agreement(**_naturals(page["agree"], Agreement)),
                gaps=_bins(page["gaps"]),
                gaps_again=_bins(page["gaps_again"]),
                ratios=_bins(page["ratios"]),
                ratios_again=_bins(page["ratios_again"]),
                times=_bins(page["times"]),
                own_times=_bins(page["own_times"]),
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _naturals(counts: Mapping[str, Any], cls: type) -> dict[str, int]:
    """Return the counts with the names of the fields of ``cls``."""
    return {item.name: _natural(counts[item.name]) for item in fields(cls)}


def _bins(bins: Mapping[str, Any]) -> dict[str, int]:
    """Return a histogram; ``Pairs`` checks the names of the bins."""
    return {name: _natural(number) for name, number in bins.items()}


def _uncounted(numbers: Mapping[str, Any]) -> dict[str, int]:
    found = {kind: _natural(numbers[kind]) for kind in _UNCOUNTED}
    return found | {kind: _natural(numbers[kind]) for kind in _NEWER_UNCOUNTED if kind in numbers}


def _sides(sides: Mapping[str, Any]) -> Sides:
    candidate, stable = sides["candidate"], sides["stable"]
    return Sides(
        _counts(candidate, shared=_natural(candidate["shared"])), _counts(stable, left=_natural(stable["left"]))
    )


def _counts(counts: Mapping[str, Any], shared: int = 0, left: int = 0) -> Counts:
    requests, failed = _natural(counts["requests"]), _natural(counts["failed"])
    if not shared <= failed <= requests:
        raise ValueError(counts)
    return Counts(requests, failed, shared, left)


def _weight(text: str) -> int:
    weight = int(text)
    if not 1 <= weight <= 100 or str(weight) != text:
        raise ValueError(text)
    return weight


def _text(value: object, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise ValueError(value)
    return value


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _COUNTER_LIMIT:  # a bool is an int, but not a count
        raise ValueError(value)
    return value
