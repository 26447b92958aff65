"""`make demo`: four versions of a model on a real Kubernetes, live, under constant traffic.

Everything shown is what a user of the cluster sees: the MLModel's status, and what came back to the users' requests.
Ends with a table, and with an error if anything was not as expected. ``out/demo.jsonl`` has what was shown, for
``make picture``.
"""

from __future__ import annotations

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
from hack.traffic import Second, Traffic

RATE = 100.0
NAMESPACE = "demo"
RECORDING = "demo.jsonl"


@dataclass
class Row:
    """One line of the closing table."""

    version: str
    outcome: str
    expected: str
    seconds: float
    requests: int
    failed: int

    @property
    def as_expected(self) -> bool:
        """Whether it went as expected, without a failed request."""
        return self.outcome == self.expected and self.failed == 0


class Screen:
    """A line that is redrawn on a terminal; plain lines, one per change, elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._last = ""
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(f"{time.monotonic() - self._began:6.1f}s  {text}", flush=True)

    def show(self, state: str, figures: str) -> None:
        """The present state; ``figures`` change all the time and make no new plain line."""
        if self._live:
            self._clear()
            print(f"{time.monotonic() - self._began:6.1f}s  {state}  {figures}"[: _columns()], end="\r", flush=True)
        elif state != self._last:
            print(f"{time.monotonic() - self._began:6.1f}s  {state}  {figures}", flush=True)
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
    """The story; each chapter applies one version and reports how it went."""

    def __init__(self, model: Model, users: Traffic, screen: Screen, recorder: Recorder) -> None:
        self.model, self.users, self.screen, self.recorder = model, users, screen, recorder
        self.rows: list[Row] = []

    def chapter(
        self, version: str, headline: str, expected: str, until: Callable[[dict[str, Any]], str], seconds: float
    ) -> dict[str, Any]:
        """Apply ``version`` and watch until ``until`` names an outcome; "timeout" after ``seconds``."""
        self.screen.say(headline)
        before, began = self.users.now, time.monotonic()
        self.model.apply(version)
        self.recorder.mark(f"{version} applied")
        outcome, status = self.watch(until, seconds)
        self.recorder.mark(f"{version} {outcome}")
        took = time.monotonic() - began
        # What was on its way at that moment belongs to this chapter too.
        seen = self.users.more(round(RATE))
        self.rows.append(Row(version, outcome, expected, took, seen.sent - before.sent, seen.failed - before.failed))
        self.screen.say(f"→ {version} {outcome} after {took:.1f} s. {message(status)}")
        return status

    def watch(self, until: Callable[[dict[str, Any]], str], seconds: float) -> tuple[str, dict[str, Any]]:
        """Show and record until ``until`` names an outcome; return it with the last status, "timeout" after
        ``seconds``."""
        began = time.monotonic()
        while True:
            status = self.model.status()
            self.screen.show(*_picture(status, self.users.now))
            self.recorder.sample(status, self.users.now)
            if status and (outcome := until(status)):
                return outcome, status
            if time.monotonic() - began > seconds:
                return "timeout", status
            time.sleep(0.25)

    def settle(self) -> None:
        """Watch until the old version's pods are gone."""
        outcome, status = self.watch(lambda status: "gone" if status["phase"] == "Stable" else "", 60)
        if outcome != "gone":
            raise AssertionError(f"the old version's pods are not gone after 60 s: {status}")


def _picture(status: dict[str, Any], seen: Second) -> tuple[str, str]:
    candidate, stable = status.get("candidate") or {}, status.get("stable") or {}
    weight = candidate.get("weight", 0) if candidate else 0
    bar = "█" * round((100 - weight) / 5) + "▒" * round(weight / 5)
    names = f"{stable.get('version', '-')}" + (f" | {candidate['version']} {weight} %" if candidate else "")
    requests = f"{seen.sent} requests, {seen.failed} failed, {seen.fallbacks} rescued, p99 {seen.p99_ms:.0f} ms"
    return f"{status.get('phase', '…'):<11} {bar} {names:<14}", requests


def _is(version: str, word: str) -> Callable[[dict[str, Any]], str]:
    def outcome(status: dict[str, Any]) -> str:
        if condition(status, "RolledBack") == "True":
            return "rolled back" if status["rejected"][0].get("weight") else "rejected"
        if condition(status, "Ready") == "True" and status["stable"]["version"] == version:
            return word
        return ""

    return outcome


def story(cluster: Cluster, out: Path, screen: Screen) -> list[Row]:
    """Play all chapters on a cluster with the operator in it."""
    bodies = train(out)
    screen.say(f"trained v1 to v4 of {NAME} from a table, as packages in ConfigMaps")
    cluster.kubectl("create", "namespace", NAMESPACE)
    model = Model(cluster.kubectl, NAMESPACE, out)
    rows: list[Row] = []

    screen.say("v1 is applied: the first version serves as soon as it is ready")
    began = time.monotonic()
    model.apply("v1")
    model.wait_ready(120, "v1")
    rows.append(Row("v1", "serving", "serving", time.monotonic() - began, 0, 0))
    screen.say(f"→ v1 serving after {rows[0].seconds:.1f} s, at {model.url}")

    recorder = Recorder(out / RECORDING)
    traffic = Traffic(
        cluster.kubectl,
        cluster.kubectl_command,
        NAMESPACE,
        model.url,
        bodies,
        image=installed_operator.image("server"),
        rate=RATE,
    )
    with recorder, traffic as users:
        screen.say(f"users ask {RATE:g} times per second, over kept and fresh connections")
        demo = Demo(model, users, screen, recorder)
        demo.chapter("v2", "v2 is better: canary 5, 25, 50 %, then everything", "promoted", _is("v2", "promoted"), 240)
        demo.settle()
        demo.chapter("v3", "v3 fails some requests", "rolled back", _is("v3", "promoted"), 120)
        demo.chapter("v4", "v4 cannot be loaded", "rejected", _is("v4", "promoted"), 60)
        demo.chapter(
            "v2", "the spec goes back to v2, as a reverted commit does", "ready at once", _is("v2", "ready at once"), 30
        )
        seen = users.stop()
    rows += demo.rows
    screen.say(
        f"users: {seen.sent} requests, {seen.failed} failed, slowest {seen.slowest_ms:.0f} ms {seen.errors or ''}"
    )
    return rows


def table(rows: list[Row]) -> str:
    """The closing table."""
    lines = [f"{'version':<9}{'outcome':<15}{'seconds':>8}{'requests':>10}{'failed':>8}"]
    for row in rows:
        note = "" if row.as_expected else f"   ← expected: {row.expected}, 0 failed"
        lines.append(f"{row.version:<9}{row.outcome:<15}{row.seconds:>8.1f}{row.requests:>10}{row.failed:>8}{note}")
    return "\n".join(lines)


def main() -> int:
    """Set everything up, play, report, and take everything down unless KEEP=1."""
    screen, keep = Screen(), os.environ.get("KEEP") == "1"
    began = time.monotonic()
    try:
        cluster = start("demo", attached=not keep)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        screen.say("a Kubernetes is up; installing the operator: kubectl apply -f manifests/install.yaml")
        installed_operator.install(cluster)
        rows = story(cluster, ROOT / "out", screen)
        print(f"\n{table(rows)}\n\n$ kubectl get mlm\n{cluster.kubectl('-n', NAMESPACE, 'get', 'mlm')}")
        print(f"{time.monotonic() - began:.0f} s in all")
        if keep:
            print(
                f"It is still running. Try:\n  export KUBECONFIG={cluster.kubeconfig}\n"
                f"  kubectl -n {NAMESPACE} get mlm -w &\n"
                f"  kubectl -n {NAMESPACE} apply -f examples/quickstart/v3.yaml\n"
                f"  kubectl -n {NAMESPACE} describe mlm {NAME}\n"
                f"and `{sys.executable} -m hack.cluster down --name demo` when you are done."
            )
        failed = [row for row in rows if not row.as_expected]
        if failed:
            print(f"Not as expected: {', '.join(row.version for row in failed)}", file=sys.stderr)
        return 1 if failed else 0
    except (AssertionError, ClusterError) as error:
        print(f"Not as expected: {error}", file=sys.stderr)
        return 1
    finally:
        if not keep:
            cluster.down()


if __name__ == "__main__":
    sys.exit(main())
