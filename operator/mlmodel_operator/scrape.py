"""Read counters from the pods: the responses of the server pods, and the requests that the routers sent to each slot.

The figures decide about rollouts, so a response that is not exactly as expected is ignored.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import aiohttp

from mlmodel_operator.api.evidence import Counts
from mlmodel_operator.names import ROUTER_STATUS_PORT, SERVER_PORT, SERVICE_PORT

_SECONDS = 1.0
_BODY_LIMIT = 1 << 20
_COUNTER_LIMIT = 2**53  # a float cannot represent every integer above
_CONNECTIONS = 100

_METRIC = "mlmodel_requests_total"
# A label value ends at the first quote that is not escaped; no part of this matches in two ways.
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*"'
_SAMPLE = re.compile(rf"{_METRIC}\{{((?:{_LABEL},?)*)\}} ([^ ]+)(?: -?[0-9]+)?")
_CODE = re.compile(rf'(?:{_LABEL},)*?code="([1-5][0-9][0-9])"')

T = TypeVar("T")


@dataclass(frozen=True)
class RouterStatus:
    """Status of one router: the identity of the routes that it follows, and for each slot (``a``, ``b``) the requests
    since its start and how many of them the revision in the slot failed."""

    id: str
    slots: Mapping[str, Counts]


class Scraper:
    """One HTTP session for all pods. Create and close it in the event loop that uses it."""

    def __init__(
        self, server_port: int = SERVER_PORT, router_port: int = ROUTER_STATUS_PORT, service_port: int = SERVICE_PORT
    ) -> None:
        self._server_port = server_port
        self._router_port = router_port
        self._service_port = service_port
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def pods(self, addresses: Mapping[str, str]) -> dict[str, Counts | None]:
        """Return the counters of the server pods at these IP ``addresses``, by name.

        None for a pod that does not answer within a second, or whose response is not valid. Never raises.
        """
        return await self._read_all(addresses, self._server_port, f"/metrics?name[]={_METRIC}", parse_counts)

    async def routers(self, addresses: Mapping[str, str]) -> dict[str, RouterStatus | None]:
        """Return the status of the router pods at these IP ``addresses``, by name; None as for ``pods``."""
        return await self._read_all(addresses, self._router_port, "/status", parse_router_status)

    async def answers(self, address: str, side: Literal["stable", "candidate"] = "stable") -> bool:
        """Whether a request to the Service of a model, at its IP ``address``, reaches a pod of this side. Never
        raises."""
        headers = {"x-mlmodel-version": side}
        return await self._read(address, self._service_port, "/v2/health/live", headers) is not None

    async def service_answers(self, address: str) -> bool:
        """Whether a request to the Service of a revision, at its IP ``address``, reaches a pod. Never raises."""
        return await self._read(address, self._server_port, "/v2/health/live") is not None

    async def _read_all(
        self, addresses: Mapping[str, str], port: int, path: str, parse: Callable[[bytes], T | None]
    ) -> dict[str, T | None]:
        names = list(addresses)
        bodies = await asyncio.gather(*(self._read(addresses[name], port, path) for name in names))
        return {name: None if body is None else parse(body) for name, body in zip(names, bodies, strict=True)}

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


def parse_counts(body: bytes) -> Counts | None:
    """Return the counts in the Prometheus text format; None if the metric is missing or a line of it is not valid."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    if f"# TYPE {_METRIC} " not in text and f"{_METRIC}{{" not in text:
        return None
    by_class = dict.fromkeys("12345", 0)
    for line in text.split("\n"):
        if not line.startswith(_METRIC + "{"):
            continue
        sample = _SAMPLE.fullmatch(line)
        code = sample and _CODE.match(sample[1])
        value = _count(sample[2]) if sample else None
        if code is None or value is None:
            return None
        by_class[code[1][0]] += value
    return Counts(sum(by_class.values()), by_class["4"], by_class["5"])


def parse_router_status(body: bytes) -> RouterStatus | None:
    """Return the status in the JSON of a router; None if any part of it is not valid."""
    try:
        status = json.loads(body)
        slots = {
            slot: Counts(_natural(counts["requests"]), failed=_natural(counts["failed"]))
            for slot, counts in status["slots"].items()
        }
        if not isinstance(status["id"], str):
            return None
        return RouterStatus(status["id"], slots)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _COUNTER_LIMIT:  # a bool is an int, but not a count
        raise ValueError(value)
    return value


def _count(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and 0 <= value <= _COUNTER_LIMIT and value.is_integer() else None
