"""The real controller between an API server and pods that are both in memory.

What Kubernetes does by itself (addresses, pods for Deployments) happens in ``World.kubernetes``; what watches bring, in
``World.see``. The decisions, builders, Applier, Store and Scraper are the real ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from mlmodel_operator.controller import MODELS, Controller
from mlmodel_operator.names import (
    APPLIED_ANNOTATION,
    FIELD_MANAGER,
    MODEL_LABEL,
    OPERATOR,
    ROUTER_STATUS_PORT,
    SERVER_PORT,
    SERVICE_PORT,
)
from mlmodel_operator.process import CHILD_SELECTOR, CHILDREN
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.apply import Applier
from mlmodel_operator.runtime.clock import micro_time
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    PODS,
    SERVICES,
    Body,
    Resource,
    address,
)
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.scrape import Scraper
from mlmodel_operator.settings import Settings
from tests.unit.operator.runtime.support import FakeClock, MemoryApi

KEY = ("bank", "fraud")
SETTINGS = Settings("mlmodel-server:test", "haproxy:test", "mlmodel-system", "operator-1")
QUOTA = ApiError(403, "Forbidden", "exceeded quota: team")
GONE = ApiError(404, "NotFound", "not found")
STALE = ApiError(409, "Conflict", "the object has been modified")
DOWN = ApiError(0, "Unreachable", "connection refused")


class PodHttp(Scraper):
    """The pods' HTTP: what servers and routers answer, without a network."""

    def __init__(self, world: World) -> None:
        # No session is opened; the parent's methods need the ports only.
        self._server_port, self._router_port, self._service_port = SERVER_PORT, ROUTER_STATUS_PORT, SERVICE_PORT
        self._world = world
        self.requests: list[tuple[str, int]] = []

    async def _read(self, address: str, port: int, path: str, headers: Mapping[str, str] | None = None) -> bytes | None:
        self.requests.append((address, port))
        if port == self._server_port:
            answered = self._world.answered[address]
            return f'# TYPE mlmodel_requests_total counter\nmlmodel_requests_total{{code="200"}} {answered}\n'.encode()
        if port == self._router_port:
            slots = {
                slot: {"requests": self._world.routed[slot], "failed": 0, "fallbacks": 0}
                for slot in self._world.slots()
            }
            return json.dumps({"id": self._world.routes_id(), "slots": slots}).encode()
        return b"" if self._world.reachable else None


class World:
    """One MLModel ``bank/fraud``, its controller, and the cluster around them."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.clock = FakeClock()
        self.api = MemoryApi(self._admit)
        self.http = PodHttp(self)
        self.reachable = True
        """Whether the model's Service leads anywhere."""
        self.waiting: dict[str, Body] = {}
        """Deployments whose new pods do not become ready, with the status of such a pod."""
        self.answered: Counter[str] = Counter()  # by the pod's IP
        self.routed: Counter[str] = Counter()  # by slot
        self._addresses = count(10)
        self.restart()

    # ------------------------------------------------------------------------------------------------- the operator

    def restart(self) -> None:
        """A new operator process: it knows only what the cluster shows."""
        self.store = Store(MODEL_LABEL)
        applier = Applier(self.api, self.store, FIELD_MANAGER, APPLIED_ANNOTATION)
        events = Events(self.api, self.clock, OPERATOR, "operator-1")
        self.controller = Controller(self.api, self.store, applier, events, self.http, self.settings, self.clock)

    def see(self) -> None:
        """The watches bring what is in the cluster: all MLModels, and the children that carry the operator's label."""
        label, _, value = CHILD_SELECTOR.partition("=")
        for resource in (MODELS, *CHILDREN):
            bodies = [
                body
                for (kind, _, _), body in self.api.objects.items()
                if kind == resource and (kind == MODELS or (body["metadata"].get("labels") or {}).get(label) == value)
            ]
            self.store.replace(resource, bodies, str(self.api._version))

    async def reconcile(self) -> float | None:
        """One reconcile of what the cluster shows now; ``api.calls`` then lists the requests of this one."""
        self.see()
        self.api.calls.clear()
        self.http.requests.clear()
        return await self.controller.reconcile(KEY)

    async def tick(self, requests: int = 0) -> float | None:
        """A second passes: Kubernetes works, users send requests, the operator reconciles."""
        await self.clock.advance(1.0)
        await self.kubernetes()
        self._send(requests)
        return await self.reconcile()

    async def run(self, until: Callable[[], bool], *, requests: int = 0, limit: int = 60) -> None:
        """Tick until a condition holds."""
        for _ in range(limit):
            if until():
                return
            await self.tick(requests)
        raise AssertionError(f"not within {limit} ticks: {self.status}")

    # ------------------------------------------------------------------------------------------------------- people

    async def apply_model(self, version: str, **spec: Any) -> None:
        """``kubectl apply`` of a model whose version comes from the ConfigMap ``fraud-VERSION``."""
        model = {"uri": f"builtin://{version}", "version": version} | spec.pop("model", {})
        body = {
            "apiVersion": MODELS.api_version,
            "kind": MODELS.kind,
            "metadata": {"namespace": KEY[0], "name": KEY[1]},
            "spec": {"model": model, "rollout": {"bakeSeconds": 5}, **spec},
        }
        await self.api.apply(MODELS, body, "kubectl")

    async def edit(self, r: Resource, name: str, change: Body, subresource: str = "") -> None:
        """Somebody else patches an object."""
        await self.api.patch(r, KEY[0], name, change, subresource)

    async def serve(self, version: str = "v1", **spec: Any) -> None:
        """Bring a first version to the state in which it serves and nothing is left to do."""
        await self.apply_model(version, **spec)
        await self.run(self.is_ready)

    # --------------------------------------------------------------------------------------------------- what there is

    @property
    def status(self) -> Body:
        """The status of the model."""
        return self.api.objects[MODELS, *KEY].get("status") or {}

    def condition(self, kind: str) -> Body:
        """A condition of the model."""
        return next((found for found in self.status.get("conditions", []) if found["type"] == kind), {})

    def is_ready(self) -> bool:
        """Whether what the spec asks for now is what serves."""
        ready = self.condition("Ready")
        current = self.api.objects[MODELS, *KEY]["metadata"]["generation"]
        return ready.get("status") == "True" and ready.get("observedGeneration") == current

    def child(self, r: Resource, name: str) -> Body | None:
        """A child as the API server has it; ``name`` follows the model's."""
        return self.api.objects.get((r, KEY[0], f"{KEY[1]}{name}"))

    def reasons(self) -> list[str]:
        """The reasons of all events, oldest first."""
        return [body["reason"] for (kind, _, _), body in self.api.objects.items() if kind == EVENTS]

    def writes(self) -> list[tuple[str, str, str]]:
        """The writes of the last reconcile: (verb, plural, name)."""
        return [call for call in self.api.calls if call[0] not in ("get", "list", "watch")]

    def revision(self, role: str) -> str:
        """The revision of ``stable`` or ``candidate``, as a suffix of the names of its children."""
        return f"-{self.status[role]['revision']}"

    # ------------------------------------------------------------------------------------------------- the cluster

    def _admit(self, r: Resource, body: Body) -> None:
        if r == DEPLOYMENTS:
            body["spec"].setdefault("replicas", 1)
        elif r == SERVICES:
            body["spec"].setdefault("clusterIP", f"10.96.0.{next(self._addresses)}")
        body["metadata"].setdefault("creationTimestamp", micro_time(self.clock.now()))

    async def kubernetes(self) -> None:
        """Autoscalers keep their lower bound; each Deployment gets its pods, and no other pod stays."""
        for (kind, namespace, name), body in list(self.api.objects.items()):
            target = self.api.objects.get((DEPLOYMENTS, namespace, name))
            if kind == AUTOSCALERS and target and target["spec"]["replicas"] < body["spec"]["minReplicas"]:
                change = {"spec": {"replicas": body["spec"]["minReplicas"]}}
                await self.api.patch(DEPLOYMENTS, namespace, name, change)
        wanted: dict[str, Body] = {}
        for (kind, _, name), body in list(self.api.objects.items()):
            if kind == DEPLOYMENTS:
                wanted |= {f"{name}-pod-{number}": body for number in range(body["spec"]["replicas"])}
        for kind, namespace, name in list(self.api.objects):
            if kind == PODS and "-pod-" in name and name not in wanted:
                del self.api.objects[kind, namespace, name]
        for name, deployment in wanted.items():
            await self._start_pod(name, deployment)

    async def _start_pod(self, name: str, deployment: Body) -> None:
        namespace, owner = address(deployment)
        if (PODS, namespace, name) not in self.api.objects:
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            controller = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{owner}-6f9c", "uid": f"rs-{owner}"}
            meta = {
                "namespace": namespace,
                "name": name,
                "labels": {**labels, "pod-template-hash": "6f9c"},
                "ownerReferences": [{**controller, "controller": True}],
            }
            await self.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta})
        ready = {
            "phase": "Running",
            "podIP": f"10.0.0.{sum(kind == PODS for kind, _, _ in self.api.objects) + 10}",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "server", "restartCount": 0, "state": {"running": {}}}],
        }
        held = self.api.objects[PODS, namespace, name].get("status")
        status = self.waiting.get(owner) or (held if held and held["phase"] == "Running" else ready)
        if held != status:
            await self.api.patch(PODS, namespace, name, {"status": status}, "status")

    # ------------------------------------------------------------------------------------------- routers and requests

    def _routes(self) -> list[list[str]]:
        body = self.child(CONFIG_MAPS, "-routes")
        return [line.split(" ") for line in body["data"]["routes"].splitlines()] if body else []

    def routes_id(self) -> str:
        """What every router follows: the routes as they are in the cluster."""
        return next((line[1] for line in self._routes() if line[0] == "id"), "none")

    def slots(self) -> list[str]:
        """The slots that lead somewhere."""
        return [line[1] for line in self._routes() if line[0] == "slot"]

    def weight(self) -> int:
        """The candidate's share in the routes, in percent."""
        return next((int(line[2]) for line in self._routes() if line[0] == "candidate"), 0)

    def _send(self, requests: int) -> None:
        """Users send requests; all are answered, by a pod of the slot that the routes give them."""
        if not requests:
            return
        slots = {line[1]: line[2] for line in self._routes() if line[0] == "slot"}
        roles = {line[0]: line[1] for line in self._routes() if line[0] in ("stable", "candidate")}
        shares = {"candidate": requests * self.weight() // 100}
        shares["stable"] = requests - shares["candidate"]
        for role, slot in roles.items():
            self.routed[slot] += shares[role]
            (name,) = [
                key[2] for key, body in self.api.objects.items() if key[0] == SERVICES and _ip(body) == slots[slot]
            ]
            self.answered[self.api.objects[PODS, KEY[0], f"{name}-pod-0"]["status"]["podIP"]] += shares[role]


def _ip(service: Body) -> str:
    return str(service["spec"].get("clusterIP"))
