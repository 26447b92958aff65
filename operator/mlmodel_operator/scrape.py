"""Read the status pages of the routers, which routes they follow and the requests that count as evidence, and the pages
of server pods, which count pairs, labels and CPU time.

The figures decide about rollouts, so a response that is not exactly as expected is ignored. A pod may be anyone's, so
bytes, headers, time and connections are bounded: for each pod, and for all pods of a model together.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

import aiohttp

from mlmodel_operator.api.evidence import Again, Agreement, Counts, Dropped, Labels, Outcomes, Pairs, Sides
from mlmodel_operator.api.figures import Calls, Drift
from mlmodel_operator.names import REHEARSAL_PORT, SERVER_PORT, SERVICE_PORT

_SECONDS = 1.0
"""Time for all pods of a model that are read together; those that have not answered by then are silent."""
_BODY_LIMIT = 16 * 1024  # a page with all 100 weights and millions of requests at each has 15 KiB
_HEADERS = 64
_HEADER_LIMIT = 4 * 1024
_COUNTER_LIMIT = 2**53  # JSON numbers above are not exact in every language
_AT_ONCE = 32
"""Connections to the pods of one model. All models together have no limit, which one of them could use up: the number
of models that are reconciled at the same time is bounded."""
_MOST_DRIFT, _MOST_MILLIWATTS = 1000.0, 10**6
"""Largest stability index and power of a CPU: those of the server are smaller."""
_BOOT = re.compile(r"[0-9a-f]{16}")
_FILE_STATE = re.compile(r"(current|former|closed)?")
_REVISION = re.compile(r"[0-9a-z]{1,63}")
T = TypeVar("T")

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
    tls: str = ""
    """``current`` if the router uses the mounted certificate, ``former`` if it could not be taken; empty without
    TLS."""
    keys: str = ""
    """The same for the file of API keys; ``closed`` if none was ever valid, empty if the router checks none."""


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


@dataclass(frozen=True)
class LabelsPage:
    """Labels of a rollout that were posted to one pod."""

    boot: str
    """Identity of the process for one rollout, which counts from zero."""
    revision: str
    """Revision of the pod."""
    tag: int = -1
    """That of the candidate of the rollout; -1 before the first label."""
    other: int = -1
    """Hash of the other revision; -1 before its first label."""
    kind: str = ""
    """``classes`` or ``numbers``; empty before the first label."""
    weights: Mapping[str, tuple[Labels, Labels]] = field(default_factory=dict)
    """Labels of the own revision and of the other one, by the weight (1 to 99) under which they were drawn."""


@dataclass(frozen=True)
class FiguresPage:
    """CPU time of predictions in one pod, and drift."""

    boot: str
    """Identity of the server's start, which counts from zero."""
    revision: str
    """Revision of the pod."""
    calls: Calls = field(default_factory=Calls)
    milliwatts: int = 0
    """Assumed power of a busy CPU."""
    drift: Drift = field(default_factory=Drift)


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
            connector=aiohttp.TCPConnector(limit=0),
            # A pod neither stores cookies in the operator nor sends a small body that unpacks to a large one.
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=_BODY_LIMIT,
            max_line_size=_HEADER_LIMIT,
            max_field_size=_HEADER_LIMIT,
            max_headers=_HEADERS,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def routers(self, addresses: Mapping[str, tuple[str, int]]) -> dict[str, RouterStatus | None]:
        """Return the status of the router processes at these ``addresses`` (IP and port), by name.

        None for a router that does not answer within a second, or whose response is not valid. Never raises.
        """
        targets = {name: (address, port, "/status") for name, (address, port) in addresses.items()}
        return await self._read_all(targets, parse_router_status)

    async def pages(self, addresses: Mapping[str, str]) -> dict[str, PairsPage | None]:
        """Return what the pods at these ``addresses`` (IP) counted in a rehearsal, by name.

        None for a pod that does not answer within a second, or whose response is not valid. Never raises.
        """
        targets = {name: (address, self._rehearsal_port, "/") for name, address in addresses.items()}
        return await self._read_all(targets, parse_page)

    async def label_pages(self, addresses: Mapping[str, str], largest_bin: int) -> dict[str, LabelsPage | None]:
        """Return the labels that were posted to the pods at these ``addresses`` (IP), by name. Errors of numbers up to
        ``largest_bin`` are right.

        None for a pod that does not answer within a second, as of an older release. Never raises.
        """
        path = f"/labels/{largest_bin}"
        targets = {name: (address, self._rehearsal_port, path) for name, address in addresses.items()}
        return await self._read_all(targets, parse_labels)

    async def figures(self, addresses: Mapping[str, str]) -> dict[str, FiguresPage | None]:
        """Return CPU time and drift of the pods at these ``addresses`` (IP), by name.

        None for a pod that does not answer within a second, as of an older release. Never raises.
        """
        targets = {name: (address, self._rehearsal_port, "/figures") for name, address in addresses.items()}
        return await self._read_all(targets, parse_figures)

    async def answers(self, address: str, side: Literal["stable", "candidate"] = "stable") -> bool:
        """Whether a request to the Service of a model, at its IP ``address``, reaches a pod of this side. Never
        raises."""
        headers = {"x-mlmodel-version": side}
        return await self._read(address, self._service_port, "/v2/health/live", headers) is not None

    async def service_answers(self, address: str) -> bool:
        """Whether a request to the Service of a revision, at its IP ``address``, reaches a pod. Never raises."""
        return await self._read(address, self._server_port, "/v2/health/live") is not None

    async def _read_all(
        self, targets: Mapping[str, tuple[str, int, str]], parse: Callable[[bytes], T | None]
    ) -> dict[str, T | None]:
        """Read pods of one model (IP, port and path, by name), some at the same time and all within a second."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def read(address: str, port: int, path: str) -> T | None:
            async with gate:
                body = await self._read(address, port, path)
            return None if body is None else parse(body)

        tasks = {name: asyncio.create_task(read(*target)) for name, target in targets.items()}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=_SECONDS)
            return {name: task.result() if task.done() else None for name, task in tasks.items()}
        finally:
            for task in tasks.values():
                task.cancel()

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
            tls=_text(page.get("tls", ""), _FILE_STATE),  # a router of the release before does not have them
            keys=_text(page.get("keys", ""), _FILE_STATE),
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


def parse_labels(body: bytes) -> LabelsPage | None:
    """Return what the JSON of a pod says about labels; None if any part of it is not valid."""
    if len(body) > _BODY_LIMIT:
        return None
    try:
        page = json.loads(body)
        kind, tag, other = page["kind"], page["tag"], page["other"]
        if kind not in ("", "classes", "numbers"):
            return None
        return LabelsPage(
            boot=_text(page["boot"], _BOOT),
            revision=_text(page["revision"], _REVISION),
            tag=-1 if tag == -1 else _natural(tag),
            other=-1 if other == -1 else _natural(other),
            kind=kind,
            weights={str(_drawn_weight(weight)): _both(sides) for weight, sides in page["weights"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def parse_figures(body: bytes) -> FiguresPage | None:
    """Return what the JSON of a pod says about CPU time and drift; None if any part of it is not valid."""
    if len(body) > _BODY_LIMIT:
        return None
    try:
        page = json.loads(body)
        drift = page["drift"]
        return FiguresPage(
            boot=_text(page["boot"], _BOOT),
            revision=_text(page["revision"], _REVISION),
            calls=Calls(
                _natural(page["requests"]),
                _natural(page["requests_cpu_us"]),
                _natural(page["copies"]),
                _natural(page["copies_cpu_us"]),
            ),
            milliwatts=min(_natural(page["milliwatts"]), _MOST_MILLIWATTS),
            drift=Drift(_text(drift["feature"]), _index(drift["feature_psi"]), _index(drift["prediction_psi"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _index(value: object) -> float | None:
    """Return a stability index; None if the pod has none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_DRIFT:
        raise ValueError(value)
    return round(float(value), 3)


def _drawn_weight(text: str) -> int:
    weight = _weight(text)
    if weight == 100:  # nothing is drawn
        raise ValueError(text)
    return weight


def _both(sides: Any) -> tuple[Labels, Labels]:
    (number, right), (others, others_right) = sides
    return Labels(_natural(number), _natural(right)), Labels(_natural(others), _natural(others_right))


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
