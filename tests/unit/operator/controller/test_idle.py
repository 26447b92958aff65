"""What many models cost that wait for something: reconciles, requests to the API server and to pods, in one minute.

The queue, its delays, the store with its slims and the controller are those of the operator; kubelet and scheduler
repeat what they report, in their own words and with their own times.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from mlmodel_operator.controller import MODELS, Controller
from mlmodel_operator.kept import VIEWS
from mlmodel_operator.names import APPLIED_ANNOTATION, FIELD_MANAGER, MODEL_LABEL, OPERATOR
from mlmodel_operator.process import CHILDREN
from mlmodel_operator.resources.exact import foreign_fields
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.apply import Applier
from mlmodel_operator.runtime.clock import micro_time
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.queue import WorkQueue
from mlmodel_operator.runtime.resource import DEPLOYMENTS, EVENTS, PODS, Body, Resource
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.workers import Key
from tests.unit.operator.controller.world import SETTINGS, World
from tests.unit.operator.runtime.support import asynchronous

pytestmark = pytest.mark.simulation

MODEL_COUNT = 200
PULL = "rpc error: failed to pull and unpack image: 429 Too Many Requests"


def waiting(reason: str, message: str = "") -> Body:
    """Return the status of a pod whose container waits."""
    container = {"name": "server", "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}
    return {"phase": "Pending", "containerStatuses": [container]}


def crashed(restarts: int, *, runs: bool) -> Body:
    """Return the status of a pod in a crash loop, while its container runs or waits."""
    back_off = {"reason": "CrashLoopBackOff", "message": f"back-off {10 * restarts}s restarting failed container"}
    state = {"running": {"startedAt": f"2027-01-15T08:00:{restarts:02d}Z"}} if runs else {"waiting": back_off}
    last = {"exitCode": 1, "reason": "Error", "finishedAt": f"2027-01-15T08:00:{restarts:02d}Z"}
    container = {"name": "server", "restartCount": restarts, "started": False, "state": state}
    return {"phase": "Running", "containerStatuses": [container | {"lastState": {"terminated": last}}]}


def unschedulable(nodes: int) -> Body:
    """Return the status of a pod for which no node has room."""
    message = f"0/{nodes} nodes are available: {nodes} Insufficient cpu"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition | {"lastProbeTime": None}]}


PENDING: dict[str, list[Body]] = {
    "ImageFailed": [
        waiting("ErrImagePull", PULL),
        waiting("ImagePullBackOff", 'Back-off pulling image "x"'),
        waiting("ErrImagePull", f"{PULL} (retry)"),
    ],
    "Unschedulable": [unschedulable(nodes) for nodes in (3, 4, 5)],
    "ConfigMapMissing": [waiting("ContainerCreating")],
    "CrashLoop": [crashed(n, runs=runs) for n in (2, 3, 4) for runs in (True, False)],
}
"""By the reason of the condition: what the pod of each model reports in turn."""


class Fleet(World):
    """Many models with one pod each that is not ready, and the queue of the operator around its controller."""

    def restart(self) -> None:
        """Start an operator whose reconciles are counted."""
        self.store = Store(MODEL_LABEL, VIEWS)
        self.queue: WorkQueue[Key] = WorkQueue(self.clock)
        self.store.on_change(lambda _, namespace, name: self.queue.add((namespace, name)))
        applier = Applier(self.api, self.store, FIELD_MANAGER, APPLIED_ANNOTATION, foreign_fields)
        events = Events(self.api, self.clock, OPERATOR, "operator-1")
        self.controller = Controller(self.api, self.store, applier, events, self.http, self.settings, self.clock)
        self.reconciles = 0
        self._seen: dict[tuple[Resource, str, str], str] = {}
        self._delivered = 0

    def _kinds(self) -> Iterator[tuple[tuple[Resource, str, str], Body]]:
        return ((key, body) for key, body in self.api.objects.items() if key[0] in (MODELS, *CHILDREN))

    def deliver(self) -> None:
        """Deliver the events of all changes."""
        if self._delivered == self.api._version:
            return
        self._delivered = self.api._version
        for key, body in list(self._kinds()):
            version = body["metadata"]["resourceVersion"]
            if self._seen.get(key) == version:
                continue
            self._seen[key] = version
            r, namespace, name = key
            is_new = self.store.get(r, namespace, name) is None
            if self.store.put(r, copy.deepcopy(body)) and r == MODELS and is_new:
                self.queue.add((namespace, name))

    async def work(self) -> None:
        """Reconcile all keys that are due, as the workers do."""
        while len(self.queue):
            key = await self.queue.get()
            self.reconciles += 1
            try:
                seconds = await self.controller.reconcile(key)
            except ApiError:
                self.queue.retry(key)
            else:
                self.queue.forget(key)
                if seconds is not None:
                    self.queue.add_after(key, seconds)
            self.queue.done(key)

    async def pass_time(self, seconds: int) -> None:
        """Let time pass in steps of half a second."""
        for _ in range(2 * seconds):
            await self.clock.advance(0.5)
            self.deliver()
            await self.work()

    async def create_models(self, number: int) -> None:
        """Create the models; their routers are ready."""
        for index in range(number):
            body = {
                "apiVersion": MODELS.api_version,
                "kind": MODELS.kind,
                "metadata": {"namespace": "bank", "name": f"m{index}"},
                "spec": {"model": {"uri": f"configmap://missing-{index}", "version": "v1", "sha256": "9f2c" * 16}},
            }
            await self.api.create(MODELS, body)

    async def report(self, turn: int) -> None:
        """Report the state of all pods and Deployments as kubelet, scheduler and controllers do, with other times."""
        causes = list(PENDING.values())
        for (kind, namespace, name), body in list(self.api.objects.items()):
            if kind == PODS and body["metadata"]["labels"]["mlmodel.dev/component"] == "server":
                states = causes[cause_of(body)]
                status = states[turn % len(states)]
                times = [{"type": "ContainersReady", "status": "False", "lastProbeTime": micro_time(turn)}]
                new = {**status, "conditions": [*status.get("conditions", []), *times]}
                await self.api.patch(PODS, namespace, name, {"status": new}, "status")
            if kind == DEPLOYMENTS:
                progress = {"type": "Progressing", "status": "True", "lastUpdateTime": micro_time(turn)}
                await self.api.patch(DEPLOYMENTS, namespace, name, {"status": {"conditions": [progress]}}, "status")


def cause_of(child: Body) -> int:
    """Return the number of the cause for which this model waits."""
    return int(child["metadata"]["labels"]["mlmodel.dev/model"].removeprefix("m")) % len(PENDING)


async def pending(number: int) -> Fleet:
    """Return a fleet whose servers have been created and are not ready."""
    fleet = Fleet(SETTINGS)
    await fleet.create_models(number)
    await fleet.pass_time(1)
    first = [states[0] for states in PENDING.values()]
    for (kind, _, name), body in fleet.api.objects.items():
        if kind == DEPLOYMENTS and not name.endswith("-router"):
            fleet.waiting[name] = first[cause_of(body)]
    await fleet.kubernetes()
    return fleet


def condition(fleet: Fleet, name: str, kind: str) -> Body:
    conditions = fleet.api.objects[MODELS, "bank", name]["status"]["conditions"]
    return dict(next(item for item in conditions if item["type"] == kind))


@asynchronous
async def test_pending_models_cost_nothing_until_something_changes() -> None:
    fleet = await pending(MODEL_COUNT)
    for turn in range(3):
        await fleet.report(turn)
        await fleet.pass_time(10)
    for number, reason in enumerate(PENDING):
        assert condition(fleet, f"m{number}", "Ready")["reason"] == reason
    fleet.reconciles = 0
    fleet.http.requests.clear()
    for turn in range(6):
        await fleet.report(turn)
        fleet.api.calls.clear()  # those of kubelet
        await fleet.pass_time(10)
    calls = len(fleet.api.calls)
    print(f"{MODEL_COUNT} pending models, 60 s: {fleet.reconciles} reconciles, {calls} API requests")
    assert fleet.reconciles <= 10
    assert calls == 0
    assert fleet.http.requests == []
    reasons = [body["reason"] for (kind, _, _), body in fleet.api.objects.items() if kind == EVENTS]
    assert {reason: reasons.count(reason) for reason in PENDING} == dict.fromkeys(PENDING, MODEL_COUNT // 4)


@asynchronous
async def test_a_change_is_still_seen_at_once() -> None:
    fleet = await pending(1)
    await fleet.report(0)
    await fleet.pass_time(20)
    assert condition(fleet, "m0", "Stalled")["reason"] == "ImageFailed"
    (name,) = [name for kind, _, name in fleet.api.objects if kind == PODS and not name.startswith("m0-router")]
    ready = {
        "phase": "Running",
        "podIP": "10.0.0.99",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "server", "restartCount": 0, "started": True, "state": {"running": {}}}],
    }
    await fleet.api.patch(PODS, "bank", name, {"status": ready}, "status")
    await fleet.pass_time(1)
    assert condition(fleet, "m0", "Stalled")["status"] == "False"
