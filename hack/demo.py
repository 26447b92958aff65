"""`make demo`: roll out the versions of a model on a real Kubernetes, under constant traffic.

The output shows what a user of the cluster sees: the status of the MLModel, and the responses to the clients' requests.
It ends with a table, and with an error if an outcome was not the expected one. ``out/demo.jsonl`` records the same for
``make picture``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack import ROOT, installed_operator
from hack.cluster import Cluster, ClusterError, start
from hack.quickstart import NAME, Model, condition, message, train
from hack.recording import Recorder
from hack.traffic import Totals, Traffic

RATE = 100.0
NAMESPACE = "demo"
RECORDING = "demo.jsonl"


@dataclass
class Row:
    """One row of the final table."""

    version: str
    outcome: str
    expected: str
    seconds: float
    requests: int
    failed: int

    @property
    def is_expected(self) -> bool:
        """Whether the outcome is the expected one and no request failed."""
        return self.outcome == self.expected and self.failed == 0


class Screen:
    """A line that is redrawn on a terminal; plain lines, one per change, elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._last = ""
        self._started = time.monotonic()

    def log(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        print(f"{time.monotonic() - self._started:6.1f}s  {text}", flush=True)

    def show(self, state: str, figures: str) -> None:
        """Show the current state; a change of ``figures`` alone adds no plain line."""
        if self._live:
            self._clear()
            print(f"{time.monotonic() - self._started:6.1f}s  {state}  {figures}"[: _columns()], end="\r", flush=True)
        elif state != self._last:
            print(f"{time.monotonic() - self._started:6.1f}s  {state}  {figures}", flush=True)
        self._last = state

    def _clear(self) -> None:
        if self._live:
            print(" " * (_columns() - 1), end="\r")


def _columns() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 120


class Demo:
    """Rolls out one version after the other, and keeps a row for each."""

    def __init__(self, model: Model, traffic: Traffic, screen: Screen, recorder: Recorder) -> None:
        self.model, self.traffic, self.screen, self.recorder = model, traffic, screen, recorder
        self.rows: list[Row] = []

    def roll_out(
        self,
        version: str,
        headline: str,
        expected: str,
        until: Callable[[dict[str, Any]], str],
        seconds: float,
        rollout: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Apply ``version`` and watch until ``until`` names an outcome; "timeout" after ``seconds``."""
        self.screen.log(headline)
        before, started = self.traffic.now, time.monotonic()
        self.model.apply(version, rollout=rollout)
        self.recorder.mark(f"{version} applied")
        outcome, status = self.watch(until, seconds)
        self.recorder.mark(f"{version} {outcome}")
        took = time.monotonic() - started
        # Requests that are in flight at this moment count for this version too.
        seen = self.traffic.wait_for_requests(round(RATE))
        self.rows.append(Row(version, outcome, expected, took, seen.sent - before.sent, seen.failed - before.failed))
        self.screen.log(f"→ {version} {outcome} after {took:.1f} s. {message(status)}")
        return status

    def watch(self, until: Callable[[dict[str, Any]], str], seconds: float) -> tuple[str, dict[str, Any]]:
        """Show and record until ``until`` names an outcome; return it ("timeout" after ``seconds``) and the last
        status."""
        started = time.monotonic()
        while True:
            status = self.model.status()
            self.screen.show(*_state(status, self.traffic.now))
            self.recorder.sample(status, self.traffic.now)
            if status and (outcome := until(status)):
                return outcome, status
            if time.monotonic() - started > seconds:
                return "timeout", status
            time.sleep(0.25)

    def wait_drained(self) -> None:
        """Watch until the previous version has drained."""
        outcome, status = self.watch(lambda status: "drained" if status["phase"] == "Stable" else "", 60)
        if outcome != "drained":
            raise AssertionError(f"the previous version has not drained after 60 s: {status}")


def _state(status: dict[str, Any], seen: Totals) -> tuple[str, str]:
    candidate, stable = status.get("candidate") or {}, status.get("stable") or {}
    weight = candidate.get("weight", 0) if candidate else 0
    bar = "█" * round((100 - weight) / 5) + "▒" * round(weight / 5)
    names = f"{stable.get('version', '-')}" + (f" | {candidate['version']} {weight} %" if candidate else "")
    requests = (
        f"{seen.sent} requests, {seen.failed} failed, {seen.fallbacks} retried on stable, p99 {seen.p99_ms:.0f} ms"
    )
    return f"{status.get('phase', '…'):<11} {bar} {names:<14}", requests


def _outcome(version: str, success: str) -> Callable[[dict[str, Any]], str]:
    """Return a function from a status to the outcome of ``version``; ``success`` if it is stable and Ready."""

    def outcome(status: dict[str, Any]) -> str:
        if condition(status, "RolledBack") == "True":
            return "rolled back" if status["rejected"][0].get("weight") else "rejected"
        if condition(status, "Ready") == "True" and status["stable"]["version"] == version:
            return success
        return ""

    return outcome


WITHOUT_REHEARSAL = {"rehearsal": {"requests": 0}, "retry": "live", "bakeSeconds": 20}
SCENES: tuple[tuple[str, str, str, Callable[[dict[str, Any]], str], float, dict[str, Any] | None], ...] = (
    (
        "v2",
        "applying v2, a better model: v1's own requests are repeated on it, then it gets 5, 25, 50 and 100 %",
        "promoted",
        _outcome("v2", "promoted"),
        240,
        None,
    ),
    (
        "v3",
        "applying v3, which fails some requests: found before a user meets it",
        "rejected",
        _outcome("v3", "promoted"),
        120,
        None,
    ),
    (
        "v5",
        "applying v5, which takes far longer: found before a user meets it",
        "rejected",
        _outcome("v5", "promoted"),
        120,
        None,
    ),
    (
        "v3",
        "applying v3 again, without the rehearsal: users' own requests decide, and the router retries what it fails",
        "rolled back",
        _outcome("v3", "promoted"),
        120,
        WITHOUT_REHEARSAL,
    ),
    ("v4", "applying v4, which cannot be loaded", "rejected", _outcome("v4", "promoted"), 60, None),
    (
        "v2",
        "applying v2 again, as a reverted commit does",
        "ready at once",
        _outcome("v2", "ready at once"),
        30,
        None,
    ),
)
"""Version, headline, expected outcome, the outcome that a status shows, time limit in seconds, spec.rollout."""


def run(cluster: Cluster, out: Path, screen: Screen) -> list[Row]:
    """Roll out all versions on a cluster that has the operator."""
    bodies = train(out)
    screen.log(f"trained v1 to v5 of {NAME}, each a model package in a ConfigMap")
    cluster.kubectl("create", "namespace", NAMESPACE)
    model = Model(cluster, NAMESPACE, out)
    rows: list[Row] = []

    screen.log("applying v1: the first version gets all requests as soon as it is ready")
    started = time.monotonic()
    model.apply("v1")
    model.wait_ready(120, "v1")
    rows.append(Row("v1", "serving", "serving", time.monotonic() - started, 0, 0))
    screen.log(f"→ v1 serving after {rows[0].seconds:.1f} s, at {model.url}")

    recorder = Recorder(out / RECORDING)
    clients = Traffic(
        cluster.kubectl,
        cluster.kubectl_command,
        NAMESPACE,
        model.url,
        bodies,
        image=installed_operator.image("server"),
        rate=RATE,
    )
    with recorder, clients as traffic:
        screen.log(f"clients send {RATE:g} requests/s, half of them on new connections, half on keep-alive connections")
        demo = Demo(model, traffic, screen, recorder)
        for scene in SCENES:
            demo.roll_out(*scene)
            demo.wait_drained()
        seen = traffic.stop()
    rows += demo.rows
    screen.log(
        f"clients sent {seen.sent} requests: {seen.failed} failed, slowest {seen.slowest_ms:.0f} ms {seen.errors or ''}"
    )
    return rows


def table(rows: list[Row]) -> str:
    """Return the final table."""
    lines = [f"{'version':<9}{'outcome':<15}{'seconds':>8}{'requests':>10}{'failed':>8}"]
    for row in rows:
        note = "" if row.is_expected else f"   ← expected: {row.expected}, 0 failed"
        lines.append(f"{row.version:<9}{row.outcome:<15}{row.seconds:>8.1f}{row.requests:>10}{row.failed:>8}{note}")
    return "\n".join(lines)


def main() -> int:
    """Start the cluster, run the demo and print the results; stop the cluster unless KEEP=1."""
    screen, keep = Screen(), os.environ.get("KEEP") == "1"
    started = time.monotonic()
    try:
        cluster = start("demo", attached=not keep)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        screen.log("Kubernetes is ready; installing the operator: kubectl apply -f manifests/install.yaml")
        installed_operator.install(cluster)
        rows = run(cluster, ROOT / "out", screen)
        print(f"\n{table(rows)}\n\n$ kubectl get mlm\n{cluster.kubectl('-n', NAMESPACE, 'get', 'mlm')}")
        print(f"total time: {time.monotonic() - started:.0f} s")
        if keep:
            print(
                f"The cluster is still running. Try:\n  export KUBECONFIG={cluster.kubeconfig}\n"
                f"  kubectl -n {NAMESPACE} get mlm -w &\n"
                f"  kubectl -n {NAMESPACE} apply -f examples/quickstart/v3.yaml\n"
                f"  kubectl -n {NAMESPACE} describe mlm {NAME}\n"
                f"To stop it:\n  {sys.executable} -m hack.cluster down --name demo"
            )
        failed = [row.version for row in rows if not row.is_expected]
        if failed:
            print(f"The demo failed: unexpected outcome of {', '.join(failed)}, see the table.", file=sys.stderr)
        return 1 if failed else 0
    except (AssertionError, ClusterError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    finally:
        if not keep:
            cluster.down()


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m hack.demo", description=__doc__).parse_args()
    sys.exit(main())
