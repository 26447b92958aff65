"""What a tenant can do to the operator: fat objects, lookalike pods whose pages lie, and edits without end.

The attacker may write every object of its namespace, as ``edit`` allows, and the status of its pods, as real pods write
it. Traffic goes only to loopback, and everything is bounded in number and time.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from hack import ROOT
from mlmodel_operator.controller import MODELS
from mlmodel_operator.names import COMPONENT_LABEL, MANAGED_BY_LABEL, MODEL_LABEL, OPERATOR, REVISION_LABEL
from mlmodel_operator.runtime.api import ApiError, KubeApi
from mlmodel_operator.runtime.resource import CONFIG_MAPS, DEPLOYMENTS, PODS, REPLICA_SETS, Body, Resource, uid

PATIENCE = 60.0
STATUS_PORTS = (9090, 9091)


class OperatorProcess:
    """The whole operator with its controller, in its own process."""

    def __init__(self, kubeconfig: Path, namespace: str, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        env = {**os.environ, "KUBECONFIG": str(kubeconfig), "SERVER_IMAGE": "server", "ROUTER_IMAGE": "router"}
        env |= {"POD_NAMESPACE": namespace, "POD_NAME": "pod"}
        start = f"from mlmodel_operator.__main__ import main; main(port={self.port}, argv=[])"
        with log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT, env=env, stdout=out, stderr=out)

    def memory(self, name: str = "VmRSS") -> float:
        """Return the resident memory in MiB; ``VmHWM`` is its maximum since the start."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def leads(self) -> None:
        """Wait until the process leads."""
        deadline = time.monotonic() + PATIENCE
        while 'msg="leading"' not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


@dataclass
class Watched:
    """How long an honest model and the event loop of the operator took, in seconds."""

    delays: list[float] = field(default_factory=list)
    """From an edit of a model in another namespace to the status that answers it."""
    lags: list[float] = field(default_factory=list)
    """Response times of ``/healthz``, which the event loop of the operator serves."""

    def __str__(self) -> str:
        delays, lags = sorted(self.delays), sorted(self.lags)
        if not delays or not lags:
            return "no sample"
        return (
            f"edits={len(delays)} delay_median={delays[len(delays) // 2]:.2f}s delay_max={delays[-1]:.2f}s"
            f" lag_median={lags[len(lags) // 2] * 1000:.0f}ms lag_max={lags[-1] * 1000:.0f}ms"
        )


async def edit_honestly(api: KubeApi, namespace: str, watched: Watched, *, edits: int, name: str = "honest") -> None:
    """Edit a model again and again, and note how long each status takes."""
    body = model(namespace, name)
    for number in range(edits):
        body["spec"]["model"]["version"] = f"v{number}"
        started = time.monotonic()
        generation = (await api.apply(MODELS, body, "honest"))["metadata"]["generation"]
        while True:
            live = await api.get(MODELS, namespace, name)
            if (live.get("status") or {}).get("observedGeneration") == generation:
                break
            assert time.monotonic() - started < PATIENCE, f"edit {number} was not answered in {PATIENCE:.0f} s"
            await asyncio.sleep(0.02)
        watched.delays.append(time.monotonic() - started)
        await asyncio.sleep(0.2)


async def probe(port: int, watched: Watched) -> None:
    """Measure the lag of the operator's event loop until cancelled."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        while True:
            started = time.monotonic()
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
                    await answer.read()
                watched.lags.append(time.monotonic() - started)
            await asyncio.sleep(0.05)


async def many(count: int, write: Callable[[int], Awaitable[Any]], at_once: int = 6) -> None:
    """Make ``count`` writes, some at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await write(number)

    await asyncio.gather(*(work() for _ in range(at_once)))


# --------------------------------------------------------------------------------------------------------- fat objects


def model(namespace: str, name: str, fat: int = 0) -> Body:
    """Return an MLModel; ``fat`` is the size of its annotations in bytes."""
    annotations = {"example.org/fat": "x" * fat} if fat else {}
    return {
        "apiVersion": MODELS.api_version,
        "kind": MODELS.kind,
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"model": {"uri": "builtin://iris"}},
    }


def fat_config_map(namespace: str, name: str, size: int, of: str) -> Body:
    """Return a ConfigMap with our labels that has ``size`` bytes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name, "labels": {MANAGED_BY_LABEL: OPERATOR, MODEL_LABEL: of}},
        "data": {"fat": "x" * size},
    }


# ----------------------------------------------------------------------------------------------------------- lying pods


def owned(body: Body, r: Resource, owner: Body) -> Body:
    """Make ``owner`` the controller of the object."""
    body["metadata"]["ownerReferences"] = [
        {
            "apiVersion": r.api_version,
            "kind": r.kind,
            "name": owner["metadata"]["name"],
            "uid": uid(owner),
            "controller": True,
        }
    ]
    return body


async def deployments_of(api: KubeApi, namespace: str, name: str) -> dict[str, Body]:
    """Return the Deployments of a model by component, once the operator has created both."""
    deadline = time.monotonic() + PATIENCE
    while True:
        bodies, _ = await api.list(DEPLOYMENTS, namespace, f"{MODEL_LABEL}={name}")
        whole = [await api.get(DEPLOYMENTS, namespace, body["metadata"]["name"]) for body in bodies]
        found = {body["metadata"]["labels"][COMPONENT_LABEL]: body for body in whole}
        if len(found) == 2:
            return found
        assert time.monotonic() < deadline, f"the operator made {sorted(found)} of {name}"
        await asyncio.sleep(0.1)


async def add_pods(api: KubeApi, deployment: Body, addresses: list[str]) -> None:
    """Create ready pods of a Deployment at these addresses, with owners up to it."""
    namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
    labels = {
        key: value
        for key, value in deployment["metadata"]["labels"].items()
        if key in (MANAGED_BY_LABEL, MODEL_LABEL, COMPONENT_LABEL, REVISION_LABEL)
    }
    container = {"name": labels[COMPONENT_LABEL], "image": "example.org/none"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    replica_set: Body = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"namespace": namespace, "name": f"{name}-lies", "labels": labels},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }
    parent = await api.create(REPLICA_SETS, owned(replica_set, DEPLOYMENTS, deployment))

    async def add(number: int) -> None:
        pod: Body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": f"{name}-lies-{number}", "labels": labels},
            "spec": {"containers": [container], "automountServiceAccountToken": False},
        }
        await api.create(PODS, owned(pod, REPLICA_SETS, parent))
        state = {
            "name": container["name"],
            "ready": True,
            "started": True,
            "restartCount": 0,
            "image": "",
            "imageID": "",
        }
        status = {
            "phase": "Running",
            "podIP": addresses[number],
            "podIPs": [{"ip": addresses[number]}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}],
            "containerStatuses": [state | {"state": {"running": {"startedAt": "2027-01-15T08:00:00Z"}}}],
        }
        await api.patch(PODS, namespace, pod["metadata"]["name"], {"status": status}, "status")

    await many(len(addresses), add)


Writer = asyncio.StreamWriter


async def _drip(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 16000\r\n\r\n")
    for _ in range(60):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.5)


async def _huge(writer: Writer) -> None:
    body = b'{"boot": "' + b"0" * (1 << 20) + b'"}'
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()


async def _endless(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(3000):
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


_BOMB = gzip.compress(b" " * (64 << 20))


async def _bomb(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(_BOMB), _BOMB))
    await writer.drain()


async def _redirect(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def _headers(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(20_000):
        writer.write(b"X-%d: %s\r\n" % (number, b"y" * 1000))
        await writer.drain()


async def _silent(writer: Writer) -> None:
    await asyncio.sleep(30)


LIES = (_drip, _huge, _endless, _bomb, _redirect, _headers, _silent)
"""Each writes the response to one request."""


@asynccontextmanager
async def liars(count: int, ports: tuple[int, ...] = STATUS_PORTS) -> AsyncIterator[list[str]]:
    """Serve lies at ``count`` addresses of loopback; yield the addresses."""
    addresses = [f"127.77.{number // 200}.{number % 200 + 1}" for number in range(count)]
    servers = []

    def handler(lie: Callable[[Writer], Awaitable[None]]) -> Callable[[asyncio.StreamReader, Writer], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: Writer) -> None:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await reader.readuntil(b"\r\n\r\n")
                await lie(writer)
            writer.transport.abort()

        return serve

    try:
        for number, address in enumerate(addresses):
            for port in ports:
                servers.append(await asyncio.start_server(handler(LIES[number % len(LIES)]), address, port))
        yield addresses
    finally:
        for server in servers:
            server.close()


# ------------------------------------------------------------------------------------------------------ endless edits


async def edit_without_end(api: KubeApi, namespace: str, names: list[str], per_second: float) -> None:
    """Edit models until cancelled, each edit a new spec."""
    number = 0
    while True:
        started = time.monotonic()
        body = model(namespace, names[number % len(names)])
        body["spec"]["model"]["version"] = f"e{number}"
        with suppress(ApiError):
            await api.apply(MODELS, body, "attacker")
        number += 1
        await asyncio.sleep(max(0.0, 1 / per_second - (time.monotonic() - started)))


async def create_fat_models(api: KubeApi, namespace: str, count: int, size: int) -> None:
    """Create MLModels with annotations of ``size`` bytes."""
    await many(count, lambda number: api.create(MODELS, model(namespace, f"fat-{number}", size)))


async def create_fat_config_maps(api: KubeApi, namespace: str, count: int, size: int, of: str) -> None:
    """Create ConfigMaps with our labels, of ``size`` bytes each."""
    await many(count, lambda number: api.create(CONFIG_MAPS, fat_config_map(namespace, f"fat-{number}", size, of)))
