"""The controller between an API server and pods in memory.

``World.kubernetes`` does the work of Kubernetes (addresses, pods of Deployments), and ``World.watch`` that of the
watches. Decisions, builders, Applier, Store and Scraper are those of the operator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from mlmodel_operator.controller import MODELS, Controller
from mlmodel_operator.kept import VIEWS
from mlmodel_operator.names import (
    APPLIED_ANNOTATION,
    FIELD_MANAGER,
    MODEL_LABEL,
    OPERATOR,
    REHEARSAL_ANNOTATION,
    REHEARSAL_PORT,
    REVISION_LABEL,
    ROUTER_STATUS_PORTS,
    ROUTES_ANNOTATION,
    SERVER_PORT,
    SERVICE_PORT,
    WAKE_ANNOTATION,
)
from mlmodel_operator.process import CHILD_SELECTOR, children
from mlmodel_operator.resources.exact import foreign_fields
from mlmodel_operator.rollout.evidence.labels import hash_of, tag_of
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
    REPLICA_SETS,
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
    """The HTTP responses of servers and routers, without a network."""

    def __init__(self, world: World) -> None:
        # No session is opened: the methods of the parent class require only the ports.
        self._service_port, self._server_port, self._rehearsal_port = SERVICE_PORT, SERVER_PORT, REHEARSAL_PORT
        self._world = world
        self.requests: list[tuple[str, int]] = []

    async def _read(self, address: str, port: int, path: str, headers: Mapping[str, str] | None = None) -> bytes | None:
        self.requests.append((address, port))
        if address in self._world.silent:
            return None
        if port == self._server_port:
            return b""
        if port == REHEARSAL_PORT and path == "/figures":
            return self._world.figures_page(address)
        if port == REHEARSAL_PORT and path != "/":
            return json.dumps(self._world.labels_page(address, path)).encode() if self._world.labelled else None
        if port == REHEARSAL_PORT:
            return json.dumps(self._world.rehearsal_page(address)).encode()
        if port in ROUTER_STATUS_PORTS:
            page = self._world.page()
            if port != ROUTER_STATUS_PORTS[0]:  # the second process, which gets no request here
                page = {**page, "boot": f"{2:016x}", "weights": {}}
            return json.dumps(page).encode()
        return b"" if self._world.reachable else None


class World:
    """One MLModel ``bank/fraud``, its controller, and the cluster around them."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.clock = FakeClock()
        self.api = MemoryApi(self._admit)
        self.http = PodHttp(self)
        self.reachable = True
        """Whether the model's Service answers."""
        self.copy_us: tuple[int, int] | None = None
        """CPU time of a copy on stable and on the candidate; None: their pods do not have the page."""
        self.copies: dict[str, int] = {}
        """Copies that a pod has answered, by its IP."""
        self.lies: Body = {}
        """What pods say instead."""
        self.silent: set[str] = set()
        """IPs of router pods and of Services of revisions that do not answer the operator."""
        self.misses = False
        """Whether kubelet misses the next change of routes, until another annotation of the pod changes."""
        self.is_frozen = False
        """Whether the routers go on following the routes that they have."""
        self._followed = ""
        self._woken = ""
        self.waiting: dict[str, Body] = {}
        """Deployments whose new pods do not become ready, with the status of such a pod."""
        self.page_revision = ""
        """Revision on the pages of rehearsals; empty: that of the pod."""
        self.kept = 0
        """Requests that each pod keeps for a rehearsal; they are repeated at once."""
        self.labelled: list[list[int]] = []
        """Labels and right ones, of stable and of the candidate, once the candidate has a weight; empty: the pods count
        none."""
        self.routed: dict[int, Counter[str]] = {}  # by weight and side
        self._candidate = ""
        self._addresses = count(10)
        self.restart()

    # ------------------------------------------------------------------------------------------------- the operator

    def restart(self) -> None:
        """Start a new operator process, whose only state is the cluster."""
        self.store = Store(MODEL_LABEL, VIEWS)
        applier = Applier(self.api, self.store, FIELD_MANAGER, APPLIED_ANNOTATION, foreign_fields)
        events = Events(self.api, self.clock, OPERATOR, "operator-1")
        self.controller = Controller(self.api, self.store, applier, events, self.http, self.settings, self.clock)

    def watch(self) -> None:
        """Bring the store up to date: all MLModels, and the children with the operator's label."""
        label, _, value = CHILD_SELECTOR.partition("=")
        for resource in (MODELS, *children(self.settings)):
            bodies = [
                body
                for (kind, _, _), body in self.api.objects.items()
                if kind == resource and (kind == MODELS or (body["metadata"].get("labels") or {}).get(label) == value)
            ]
            self.store.replace(resource, bodies, str(self.api._version))

    async def reconcile(self) -> float | None:
        """Reconcile the present state of the cluster; ``api.calls`` then has the requests of this reconcile."""
        self.watch()
        self.api.calls.clear()
        self.http.requests.clear()
        return await self.controller.reconcile(KEY)

    async def tick(self, requests: int = 0) -> float | None:
        """Let a second pass: Kubernetes works, users send requests, the operator reconciles."""
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

    # -------------------------------------------------------------------------------------------------------- users

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

    async def create_config_map(self, name: str, files: Mapping[str, str]) -> None:
        """``kubectl apply`` of a ConfigMap with text files."""
        meta = {"namespace": KEY[0], "name": name}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": dict(files)}
        await self.api.create(CONFIG_MAPS, body)

    async def edit(self, r: Resource, name: str, change: Body, subresource: str = "") -> None:
        """Patch an object as another client."""
        await self.api.patch(r, KEY[0], name, change, subresource)

    async def serve(self, version: str = "v1", **spec: Any) -> None:
        """Run until a first version serves and the model is settled."""
        await self.apply_model(version, **spec)
        await self.run(self.is_ready)

    # ------------------------------------------------------------------------------------------------------- state

    @property
    def status(self) -> Body:
        """The status of the model."""
        return self.api.objects[MODELS, *KEY].get("status") or {}

    def condition(self, kind: str) -> Body:
        """A condition of the model."""
        return next((item for item in self.status.get("conditions", []) if item["type"] == kind), {})

    def is_ready(self) -> bool:
        """Whether the desired revision of the present spec serves."""
        ready = self.condition("Ready")
        current = self.api.objects[MODELS, *KEY]["metadata"]["generation"]
        return ready.get("status") == "True" and ready.get("observedGeneration") == current

    def child(self, r: Resource, name: str) -> Body | None:
        """Return a child in the API server; ``name`` is the part after the name of the model."""
        return self.api.objects.get((r, KEY[0], f"{KEY[1]}{name}"))

    def reasons(self) -> list[str]:
        """Return the reasons of all Events, oldest first."""
        return [body["reason"] for (kind, _, _), body in self.api.objects.items() if kind == EVENTS]

    def writes(self) -> list[tuple[str, str, str]]:
        """Return the writes of the last reconcile: (verb, plural, name)."""
        return [call for call in self.api.calls if call[0] not in ("get", "list", "watch", "dry run")]

    def revision(self, role: str) -> str:
        """Return the revision of ``stable`` or ``candidate``, as a suffix of the names of its children."""
        return f"-{self.status[role]['revision']}"

    # ------------------------------------------------------------------------------------------------- the cluster

    def _admit(self, r: Resource, body: Body) -> None:
        if r == DEPLOYMENTS:
            body["spec"].setdefault("replicas", 1)
        elif r == SERVICES:
            body["spec"].setdefault("clusterIP", f"10.96.0.{next(self._addresses)}")
        body["metadata"].setdefault("creationTimestamp", micro_time(self.clock.now()))

    async def kubernetes(self) -> None:
        """Give each autoscaler its minimum and each Deployment its pods; delete all other pods."""
        for (kind, namespace, name), body in list(self.api.objects.items()):
            target = self.api.objects.get((DEPLOYMENTS, namespace, name))
            if kind == AUTOSCALERS and target and target["spec"]["replicas"] < body["spec"]["minReplicas"]:
                change = {"spec": {"replicas": body["spec"]["minReplicas"]}}
                await self.api.patch(DEPLOYMENTS, namespace, name, change)
        desired: dict[str, Body] = {}
        for (kind, _, name), body in list(self.api.objects.items()):
            if kind == DEPLOYMENTS:
                desired |= {f"{name}-pod-{number}": body for number in range(body["spec"]["replicas"])}
        for kind, namespace, name in list(self.api.objects):
            if kind == PODS and "-pod-" in name and name not in desired:
                del self.api.objects[kind, namespace, name]
            if kind == REPLICA_SETS and (DEPLOYMENTS, namespace, name.removesuffix("-6f9c")) not in self.api.objects:
                del self.api.objects[kind, namespace, name]
        for name, deployment in desired.items():
            await self._start_pod(name, deployment)

    async def _start_pod(self, name: str, deployment: Body) -> None:
        namespace, owner = address(deployment)
        if (PODS, namespace, name) not in self.api.objects:
            template = deployment["spec"]["template"]["metadata"]
            controller = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{owner}-6f9c"}
            controller["uid"] = await self._replica_set(controller["name"], deployment)
            meta = {
                "namespace": namespace,
                "name": name,
                "labels": {**template["labels"], "pod-template-hash": "6f9c"},
                "annotations": dict(template.get("annotations") or {}),
                "ownerReferences": [{**controller, "controller": True}],
            }
            await self.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta})
        main = deployment["spec"]["template"]["spec"]["containers"][0]["name"]
        ready = {
            "phase": "Running",
            "podIP": f"10.0.0.{sum(kind == PODS for kind, _, _ in self.api.objects) + 10}",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": main, "restartCount": 0, "started": True, "state": {"running": {}}}],
        }
        before = self.api.objects[PODS, namespace, name].get("status")
        status = self.waiting.get(owner) or (before if before and before["phase"] == "Running" else ready)
        if before != status:
            await self.api.patch(PODS, namespace, name, {"status": status}, "status")

    async def _replica_set(self, name: str, deployment: Body) -> str:
        """Create the ReplicaSet of a Deployment if it does not exist, and return its UID."""
        namespace, owner = address(deployment)
        if (REPLICA_SETS, namespace, name) not in self.api.objects:
            labels = deployment["spec"]["template"]["metadata"]["labels"] | {"pod-template-hash": "6f9c"}
            reference = {"kind": "Deployment", "name": owner, "uid": deployment["metadata"]["uid"], "controller": True}
            meta = {"namespace": namespace, "name": name, "labels": labels, "ownerReferences": [reference]}
            await self.api.create(REPLICA_SETS, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta})
        return str(self.api.objects[REPLICA_SETS, namespace, name]["metadata"]["uid"])

    # ------------------------------------------------------------------------------------------- routers and requests

    def _routes(self) -> list[list[str]]:
        """Return the lines of the routes that the routers follow: what the operator wrote on their pod, else those of
        the ConfigMap. While kubelet ``misses`` changes, those of before, until the pod has another annotation to wake
        it."""
        pod = self.child(PODS, "-router-pod-0") or {"metadata": {}}
        annotations = pod["metadata"].get("annotations") or {}
        wake = annotations.get(WAKE_ANNOTATION, "")
        if not self.is_frozen and (not self.misses or wake != self._woken):
            self.misses, self._woken = False, wake
            self._followed = annotations.get(ROUTES_ANNOTATION) or self.routes_text()
        return [line.split(" ") for line in self._followed.splitlines()]

    def routes_id(self) -> str:
        """Return the identity of the routes that every router follows."""
        return next((line[1] for line in self._routes() if line[0] == "id"), "none")

    def routes_text(self) -> str:
        """Return the routes in the ConfigMap."""
        body = self.child(CONFIG_MAPS, "-routes")
        return str((body.get("data") or {}).get("routes", "")) if body else ""

    def page(self) -> Body:
        """Return the status page of the router."""
        candidate = self._follow()
        weights = {
            str(weight): {
                "candidate": {"requests": sides["candidate"], "failed": 0, "shared": 0},
                "stable": {"requests": sides["stable"], "failed": 0, "left": 0},
            }
            for weight, sides in self.routed.items()
        }
        return {
            "boot": f"{1:016x}",
            "id": self.routes_id(),
            "candidate": candidate,
            "stable_ms": 12,
            "weights": weights,
            "uncounted": {"large": 0, "chosen": 0, "crowd": 0, "other": 0},
        }

    def rehearsal_page(self, address: str) -> Body:
        """Return the page of the pod at this IP: it repeats all that it keeps as soon as the file names a candidate."""
        pod = next(b for (kind, _, _), b in self.api.objects.items() if kind == PODS and _pod_ip(b) == address)
        revision = pod["metadata"]["labels"][REVISION_LABEL]
        words = str((pod["metadata"].get("annotations") or {}).get(REHEARSAL_ANNOTATION, "")).split()
        candidate = words[1] if words and words[1] != revision else ""
        asked = self.kept if candidate else 0
        empty: Body = {name: {} for name in ("gaps", "gaps_again", "ratios", "ratios_again", "times", "own_times")}
        return {
            **empty,
            "boot": (words[2] if candidate else "0" * 64)[:16],
            "revision": self.page_revision or revision,
            "candidate": candidate,
            "seconds": 1,
            "seen": self.kept + 1,
            "kept": self.kept,
            "left": 0,
            "asked": asked,
            "dropped": {"candidate": 0, "own": 0},
            "pairs": {"both": asked, "candidate_failed": 0, "own_failed": 0, "both_failed": 0},
            "again": {"both": 0, "differ": 0},
            "agree": {"rows": 0, "same": 0, "outside": 0, "candidate_mode": 0, "own_mode": 0, "form": 0},
        }

    def figures_page(self, address: str) -> bytes | None:
        """Return the page with figures of the pod at this IP: it answers 50 copies between two readings."""
        if not self.copy_us:
            return None
        pod = next(b for (kind, _, _), b in self.api.objects.items() if kind == PODS and _pod_ip(b) == address)
        version = "candidate" if self.revision("candidate").endswith(pod["metadata"]["labels"][REVISION_LABEL]) else ""
        self.copies[address] = copies = self.copies.get(address, 0) + 50
        page = {
            "boot": f"{7:016x}",
            "revision": pod["metadata"]["labels"][REVISION_LABEL],
            "requests": 0,
            "requests_cpu_us": 0,
            "copies": copies,
            "copies_cpu_us": copies * self.copy_us[bool(version)],
            "milliwatts": 3500,
            "drift": {"feature": "", "feature_psi": None, "prediction_psi": None},
        }
        return json.dumps(page | self.lies).encode()

    def labels_page(self, address: str, path: str) -> Body:
        """Return the page with labels of the pod at this IP; all labels were posted to stable's pod."""
        assert path == "/labels/0"
        pod = next(b for (kind, _, _), b in self.api.objects.items() if kind == PODS and _pod_ip(b) == address)
        revision, candidate = pod["metadata"]["labels"][REVISION_LABEL], self.revision("candidate").removeprefix("-")
        is_stable = revision != candidate
        return {
            "boot": f"{int(self.weight() > 0):016x}",
            "revision": revision,
            "tag": tag_of(candidate),
            "other": hash_of(candidate) if is_stable else -1,
            "kind": "classes",
            "weights": {"5": self.labelled} if is_stable and self.weight() else {},
        }

    def _follow(self) -> str:
        """Return the revision of the candidate in the routes; counts of another one are reset."""
        slots = {line[1]: line[2] for line in self._routes() if line[0] == "slot"}
        slot = next((line[1] for line in self._routes() if line[0] == "candidate"), None)
        services = [body for key, body in self.api.objects.items() if key[0] == SERVICES]
        found = next((body for body in services if slot and _ip(body) == slots[slot]), None)
        candidate = str(found["metadata"]["labels"][REVISION_LABEL]) if found else ""
        if candidate != self._candidate:
            self._candidate, self.routed = candidate, {}
        return candidate

    def weight(self) -> int:
        """Return the weight of the candidate in the routes."""
        return next((int(line[2]) for line in self._routes() if line[0] == "candidate"), 0)

    def _send(self, requests: int) -> None:
        """Send requests: the router draws who answers each."""
        if not requests:
            return
        if self._follow() and self.weight():
            drawn = requests * self.weight() // 100
            self.routed.setdefault(self.weight(), Counter()).update(candidate=drawn, stable=requests - drawn)


def _pod_ip(pod: Body) -> str:
    return str((pod.get("status") or {}).get("podIP"))


def _ip(service: Body) -> str:
    return str(service["spec"].get("clusterIP"))
