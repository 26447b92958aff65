"""HAProxy with the shipped configuration, on loopback, for the tests of the router."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hack import haproxy
from hack.ports import free_port
from mlmodel_operator.api.status import Slot
from mlmodel_operator.api.types import Owner
from mlmodel_operator.resources import router_files
from mlmodel_operator.rollout.routes import Routes
from tests.integration.router.loopback import Client, Message

Answer = TypeVar("Answer")

OWNER = Owner("m", "default", "uid")
ADDRESSES: dict[Slot, str] = {"a": "127.0.0.11", "b": "127.0.0.12"}
STABLE_A = Routes(ADDRESSES, stable="a")
UNCOUNTED = {"large": 0, "chosen": 0, "sticky": 0, "matched": 0, "crowd": 0, "other": 0}

NO_FILES = {"tls": "", "keys": ""}
"""What the page says of a router without TLS and API keys."""


def canary(weight: int, limit_ms: int = 10_000, revision: str = "b0b0b0b0", patience_ms: int | None = None) -> Routes:
    """Return routes in which slot a is stable, with version v1, and slot b the candidate, with version v2."""
    patience_ms = limit_ms if patience_ms is None else patience_ms
    return Routes(ADDRESSES, "a", "b", weight, revision, limit_ms, patience_ms, {"a": "v1", "b": "v2"})


def failing(folder: Path, function: str) -> tuple[dict[str, str], Path]:
    """Return the change of a router whose HAProxy fails in this ``function`` of Lua while a file exists, and that
    file."""
    program, file = folder / "failing.lua", folder / "fails"
    program.write_text(
        f"local works = {function}\n"
        f"{function} = function(...)\n"
        f'  local file = io.open("{file}")\n'
        "  if file then\n"
        "    file:close()\n"
        '    error("not now")\n'
        "  end\n"
        "  return works(...)\n"
        "end\n"
    )
    return {"lua-load routes.lua": f"lua-load {program}\n  lua-load routes.lua"}, file


def candidate(requests: int, failed: int = 0, shared: int = 0) -> dict[str, int]:
    """Return counts of the candidate as the router reports them."""
    return {"requests": requests, "failed": failed, "shared": shared}


def stable(requests: int, failed: int = 0, left: int = 0) -> dict[str, int]:
    """Return counts of stable as the router reports them."""
    return {"requests": requests, "failed": failed, "left": left}


@dataclass
class Router:
    """One HAProxy with its mounted files in ``folder``; it replaces the routes file as the kubelet does."""

    folder: Path
    changes: dict[str, str] = field(default_factory=dict)
    grpc_port: int = 1
    """Port of the revisions for gRPC."""
    version: str = "shipped"
    """Which HAProxy: a key of ``hack.haproxy.SUITES``."""
    supervised: bool = False
    """Whether two processes run, as in a pod; ``second`` has the status of the second one."""
    tls: str = ""
    """`only` or `both` ports, with the certificate in ``folder/tls``; empty without TLS."""
    with_keys: bool = False
    """Whether it checks API keys, with the file ``folder/keys``."""
    environment: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Router:
        addresses = (("127.0.0.1", free_port()) for _ in range(6))
        self.traffic, self.status, self.second, self.grpc, self.https, self.grpcs = addresses
        self.folder.mkdir(parents=True, exist_ok=True)
        files = dict(router_files())
        for old, new in {
            "bind :8080": f"bind {self.traffic[0]}:{self.traffic[1]}",
            "bind :9000": f"bind {self.grpc[0]}:{self.grpc[1]}",
            "bind :8443": f"bind {self.https[0]}:{self.https[1]}",
            "bind :9443": f"bind {self.grpcs[0]}:{self.grpcs[1]}",
            **self.changes,
        }.items():
            assert old in files["haproxy.cfg"]
            files["haproxy.cfg"] = files["haproxy.cfg"].replace(old, new)
        numbers = {"1 9090": f"{self.status[1]}1 {self.status[1]}", "2 9091": f"{self.status[1]}2 {self.second[1]}"}
        for old, new in numbers.items():
            files["router.sh"] = files["router.sh"].replace(f"supervise {old}", f"supervise {new}")
        for name, text in files.items():
            (self.folder / name).write_text(text)
        program = [*haproxy.program(self.version)]
        (self.folder / "haproxy").write_text(f'#!/bin/sh\nexec {" ".join(program)} "$@"\n')
        (self.folder / "haproxy").chmod(0o755)
        single = [*program, "-db", "-f", str(self.folder / "haproxy.cfg")]
        self.process = await asyncio.create_subprocess_exec(
            *(["sh", str(self.folder / "router.sh")] if self.supervised else single),
            env={
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "MLMODEL_ROUTES": str(self.folder / "routes"),
                "MLMODEL_ASSIGNED": str(self.folder / "assigned" / "routes"),
                "MLMODEL_GRPC_PORT": str(self.grpc_port),
                # Numbers of abstract sockets, which the whole machine shares.
                "MLMODEL_PROCESS": str(self.status[1]),
                "MLMODEL_STATUS_PORT": str(self.status[1]),
                "MLMODEL_STOP": str(self.folder / "stop"),
                **({"MLMODEL_TLS": self.tls, "MLMODEL_TLS_PATH": str(self.folder / "tls")} if self.tls else {}),
                **({"MLMODEL_KEYS": str(self.folder / "keys")} if self.with_keys else {}),
                **self.environment,
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = asyncio.ensure_future(self._read_log())
        await self.until(self._live)
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        await self._reader

    async def _read_log(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.log.append(line.decode().rstrip())

    def _pages(self) -> list[tuple[str, int]]:
        """Return the address of the status of each process."""
        return [self.status, self.second] if self.supervised else [self.status]

    async def _live(self) -> bool:
        assert self.process.returncode is None, self.log
        try:
            return all([(await self.get("/live", page)).status == 200 for page in self._pages()])
        except ConnectionError:
            return False

    def logged(self, text: str) -> Counter[int]:
        """Return how often each process has logged a line with this text, by PID."""
        # [notice] 333/002001 (3463) : certificate read
        return Counter(int(line.split("(", 1)[1].split(")", 1)[0]) for line in self.log if text in line)

    async def until_each_logs(self, text: str, before: Mapping[int, int] | None = None) -> None:
        """Wait until each process has logged a line with this text, or one more than ``before``.

        The kernel chooses which process gets a connection, so no number of connections is sure to have reached each.
        """
        processes, before = self.processes(), before or {}
        assert len(processes) == len(self._pages())

        async def each_has() -> bool:
            now = self.logged(text)
            return all(now[process] > before.get(process, 0) for process in processes)

        await self.until(each_has)

    async def is_closed(self) -> bool:
        """Whether no process accepts connections: the router stops."""
        for page in self._pages():
            with contextlib.suppress(ConnectionError):
                await self.get("/live", page)
                return False
        return True

    async def begin_stop(self) -> None:
        """Have a router of one process prepare its stop, as router.sh does, but never send the signal."""
        stop = self.folder / "stop"
        stop.touch()

        async def is_prepared() -> bool:
            return not stop.exists()

        await self.until(is_prepared)

    async def exits(self) -> int:
        """Wait until the router has exited, and return its code; fail before HAProxy would end what does not end."""
        return await asyncio.wait_for(self.process.wait(), 60)

    async def idle(self) -> None:
        """Wait until no request of a client is in flight: all outcomes are in the counts."""
        kinds = r"(?:grpc_)?(?:only|either|stable|candidate|chosen|assigned)_[ab]"
        in_flight = re.compile(rf'haproxy_backend_current_sessions{{proxy="{kinds}"}} (\d+)')

        async def are_all_answered() -> bool:
            found = in_flight.findall((await self.get("/metrics?scope=backend")).body.decode())
            assert len(found) == 24
            return set(found) == {"0"}

        await self.until(are_all_answered)

    async def released(self, requests: Iterable[Awaitable[Answer]], hold: asyncio.Event, answered: int) -> list[Answer]:
        """Send these requests at once, set ``hold``, for which servers wait, when ``answered`` of them have an answer,
        and return all answers."""
        tasks = [asyncio.ensure_future(request) for request in requests]

        async def are_answered() -> bool:
            return sum(task.done() for task in tasks) >= answered

        await self.until(are_answered)
        hold.set()
        return await asyncio.gather(*tasks)

    async def is_ready(self) -> bool:
        """Whether the router is ready for requests."""
        return (await self.get("/ready")).status == 200

    def processes(self) -> list[int]:
        """Return the PIDs of the HAProxy processes."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if str(self.folder / "haproxy.cfg").encode() in command:
                    found.append(int(entry.name))
        return found

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
        """Check a condition a hundred times a second until it is true; fail after ``seconds``."""
        end = time.monotonic() + seconds
        while not await condition():
            assert time.monotonic() < end, self.log
            await asyncio.sleep(0.01)

    async def get(self, path: str, address: tuple[str, int] | None = None) -> Message:
        """Send a GET to the status port, or to that of another process."""
        client = Client(address or self.status)
        try:
            return await client.get(path)
        finally:
            client.close()

    async def counts(self) -> dict[str, Any]:
        """Return the page ``/status``, of the first process."""
        return (await self.statuses())[0]

    async def statuses(self) -> list[dict[str, Any]]:
        """Return the page ``/status`` of each process."""
        return [json.loads((await self.get("/status", page)).body) for page in self._pages()]

    async def tally(self, weight: int) -> tuple[dict[str, int], dict[str, int]]:
        """Return the counts of candidate and stable at a weight."""
        found = (await self.counts())["weights"][str(weight)]
        return found["candidate"], found["stable"]

    def resident_kib(self) -> int:
        """Return the resident memory of the process in KiB."""
        return int(Path(f"/proc/{self.process.pid}/status").read_text().split("VmRSS:")[1].split()[0])

    def write(self, text: str, sides: str = "") -> None:
        """Replace the text of the routes file, and of the sides, as the kubelet does for a ConfigMap."""
        _replace(self.folder, {"routes": text} | ({"sides": sides} if sides else {}))

    def assign(self, text: str, sides: str = "") -> None:
        """Replace what the operator wrote on the pod, as the kubelet does for annotations."""
        _replace(self.folder / "assigned", {"routes": text, "sides": sides})

    async def route(self, routes: Routes) -> float:
        """Write routes and wait until each process of the router confirms them; return the time in seconds."""
        start = time.monotonic()
        self.write(routes.text(), routes.sides_text())
        await self.confirmed(routes)
        return time.monotonic() - start

    async def confirmed(self, routes: Routes) -> None:
        """Wait until each process of the router confirms these routes."""

        async def are_followed() -> bool:
            return all(page["id"] == routes.id() for page in await self.statuses())

        await self.until(are_followed)


def _replace(folder: Path, files: dict[str, str]) -> None:
    """Replace files at once, by renaming a symbolic link."""
    data = folder / f"..{time.monotonic_ns()}"
    data.mkdir(parents=True)
    for name, text in files.items():
        (data / name).write_text(text)
    link, new = folder / "..data", folder / "..data_tmp"
    new.symlink_to(data.name)
    new.rename(link)
    for name in ("routes", "sides"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
