"""The CPU time of the router per request, beside that of a bare HAProxy in the same run: one version, and in a rollout.

Everything is on loopback: wrk on one CPU; on the other, the router with the shipped configuration, a bare HAProxy
(a frontend and a backend), and a HAProxy that answers as both versions. With --against, the router of a Git revision
and a second one of this checkout (A/A) take their turns in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from bench.serving import load, pinned, process
from hack import haproxy
from hack.cluster.shell import run, wait_for
from hack.ports import free_port
from mlmodel_operator import resources
from mlmodel_operator.api.status import Slot
from mlmodel_operator.resources import router_files
from mlmodel_operator.rollout.routes import Routes
from mlmodel_operator.rollout.sides import Sides

ADDRESSES: dict[Slot, str] = {"a": "127.0.0.11", "b": "127.0.0.12"}
BODY = b'{"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}'
PATH = "/v2/models/m/infer"
CONNECTIONS, SECONDS, ROUNDS = 8, 1.0, 7
HTTP, GRPC, STATUS = ":8080", ":9000", '":${MLMODEL_STATUS_PORT}"'
"""Addresses in the configuration of the router."""

_DEFAULTS = """
global
  nbthread 1
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 1s
"""
_ANSWER = """
frontend versions
  bind {a}:{port}
  bind {b}:{port}
  http-request return status 200 content-type application/json string '{{"outputs":[{{"name":"p","data":[1]}}]}}'
"""
_BARE = """
frontend traffic
  bind 127.0.0.1:{port}
  default_backend own
backend own
  server own {a}:{target}
"""


def cases() -> Mapping[str, Routes]:
    """Return the routes of each case: one version, the default steps of a rollout, and all requests while it bakes."""
    rollouts = {f"canary at {weight} %": Routes(ADDRESSES, "a", "b", weight, "b0b0b0b0") for weight in (5, 25, 50, 100)}
    # A prediction without the header, which is drawn after Lua has looked for it.
    sticky = replace(rollouts["canary at 25 %"], sides=Sides("x-user-id", "5e" * 32))
    return {"one version": Routes(ADDRESSES, "a"), **rollouts, "canary at 25 %, sticky": sticky}


def main(against: str | None = None) -> None:
    """Print the medians of all and their ratios, for each case."""
    load.require()
    versions, bare_port = free_port(*ADDRESSES.values()), free_port()
    routers = {"router": router_files()}
    if against:
        routers |= {"again": router_files(), against: _files_of(against)}
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in cases()}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(_haproxy(folder / "versions", _DEFAULTS + _ANSWER.format(**ADDRESSES, port=versions)))
        bare_text = _DEFAULTS + _BARE.format(**ADDRESSES, port=bare_port, target=versions)
        bare = stack.enter_context(_haproxy(folder / "bare", bare_text))
        running = {}
        for label, shipped in routers.items():
            traffic, status, grpc = (free_port() for _ in range(3))
            texts = on_ports(shipped, {HTTP: traffic, STATUS: status, GRPC: grpc})
            pid = stack.enter_context(_haproxy(folder / label, texts.pop("haproxy.cfg"), texts))
            running[label] = (pid, traffic, status)
        for _ in range(ROUNDS):
            for case, routes in cases().items():
                cost = {}
                for label, (pid, traffic, status) in running.items():
                    _route(folder / label / "routes", routes, versions, status)
                    cost[label] = _cost(pid, traffic)
                spent[case].append(cost | {"bare HAProxy": _cost(bare, bare_port)})
    print(f"{haproxy_version()}; {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s; µs of CPU per request")
    for case, rounds in spent.items():
        for other in rounds[0]:
            if other != "router":
                own, others = (statistics.median(cost[label] for cost in rounds) for label in ("router", other))
                ratio = statistics.median(cost["router"] / cost[other] for cost in rounds)
                print(f"{case}: router {own:.1f}, {other} {others:.1f}, ratio {ratio:.2f}")


def haproxy_version() -> str:
    """Return the first line in which HAProxy names its version."""
    return run([*haproxy.program("shipped"), "-v"], what="Reading the version of HAProxy").splitlines()[0]


def _files_of(revision: str) -> dict[str, str]:
    """Return the files of the router in a Git revision."""
    folder = files(resources).joinpath("haproxy")
    return {
        name: run(["git", "show", f"{revision}:./{name}"], what=f"Reading {name}", cwd=Path(str(folder)))
        for name in router_files()
    }


def on_ports(shipped: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    """Return the files of a router, on ports of loopback instead of these addresses."""
    texts = dict(shipped)
    for old, new in ports.items():
        texts["haproxy.cfg"] = texts["haproxy.cfg"].replace(f"bind {old}", f"bind 127.0.0.1:{new}")
    return texts


@contextmanager
def _haproxy(folder: Path, text: str, files: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run HAProxy on the CPU of the servers; yield its PID."""
    folder.mkdir()
    for name, content in {"haproxy.cfg": text, **(files or {})}.items():
        (folder / name).write_text(content)
    command = pinned.on(pinned.cpus()[0], [*haproxy.program("shipped"), "-db", "-f", f"{folder}/haproxy.cfg"])
    environment = {
        **os.environ,
        "MLMODEL_ROUTES": str(folder / "routes"),
        "MLMODEL_PROCESS": f"bench-{os.getpid()}-{folder.name}",
    }
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield running.pid
    finally:
        running.kill()
        running.wait()


def _route(file: Path, routes: Routes, port: int, status: int) -> None:
    """Write the routes with this port of the versions, and wait until the router follows them."""
    file.with_name("sides").write_text(routes.sides_text())
    text = routes.text().replace(" 8080", f" {port}")
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)

    def is_followed() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{status}/status", timeout=1) as page:
                return f'"id": "{routes.id()}"' in page.read().decode()
        except OSError:
            return False

    wait_for("The router follows the routes", is_followed, seconds=10, log=file.parent / "log")


def _cost(pid: int, port: int) -> float:
    """Return the CPU time per request in microseconds."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(BODY)
        body.flush()
        size = ["-t1", f"-c{CONNECTIONS}", f"-d{SECONDS:g}s", "-H", "content-type: application/json"]
        command = ["wrk", "-s", str(load.SCRIPT), *size, f"http://127.0.0.1:{port}{PATH}", "--", body.name]
        before = process.cpu_seconds(pid)
        printed = run(pinned.on(pinned.cpus()[1], command), what="wrk")
        sample = load.sample(printed, process.cpu_seconds(pid) - before)
    if sample.errors:
        raise SystemExit(f"{sample.errors} requests failed: the figures would be worthless")
    return sample.cpu


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.router_cpu", description=__doc__)
    parser.add_argument("--against", metavar="REVISION", help="Git revision whose router is measured too")
    main(parser.parse_args().against)
