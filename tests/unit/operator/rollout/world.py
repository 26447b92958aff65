"""A simulated cluster, which carries out plans, starts pods, follows routes and answers requests.

It does not imitate the API server: decisions are pure functions, so a world consists of numbers. All random events come
from the random generator of the test.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mlmodel_operator.api.codec import decode, encode
from mlmodel_operator.api.evidence import Counts, EvidenceState
from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.status import Slot, Status
from mlmodel_operator.api.types import MLModel, ModelSource, Owner, Rollout, Serving, Spec, Step
from mlmodel_operator.api.upgrade import read_status
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.needs import needs_pods, needs_routers
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState, Router
from mlmodel_operator.rollout.plan import DesiredRevision, Notice, Plan
from mlmodel_operator.rollout.recovery import Known, decisions_of, is_lost, recover
from mlmodel_operator.rollout.routes import Routes, routes_for

IMAGE = "mlmodel-server:test"
OWNER = Owner("fraud", "default", "uid-1")


def spec(version: str, *, rollout: Rollout | None = None, serving: Serving | None = None) -> Spec:
    """Return a spec that serves ``version``, by default with a short bake time."""
    return Spec(
        ModelSource(f"configmap://fraud-{version}", version=version),
        serving or Serving(),
        rollout or Rollout(bake_seconds=5),
    )


def identity(version: str) -> str:
    """Return the identity of the revision of ``spec(version)``."""
    return desired_revision(spec(version), IMAGE).id


@dataclass
class Behaviour:
    """How the pods of one version behave."""

    seconds_to_ready: float = 2.0
    error_rate: float = 0.0
    client_error_rate: float = 0.0
    """Fraction of the valid requests that this version rejects."""
    never_ready: bool = False
    broken: dict[str, object] = field(default_factory=dict)
    """Fields of Pod of a failure, such as ``{"exit_code": 3}``."""


@dataclass
class _Revision:
    version: str
    replicas: int
    pods: dict[str, tuple[float, Counts]] = field(default_factory=dict)


@dataclass
class World:
    """The children of one MLModel, and its users."""

    rng: random.Random
    spec: Spec
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests_per_second: int = 50
    invalid_rate: float = 0.0
    """Fraction of the requests that every version rejects."""
    now: float = 1_800_000_000.7
    generation: int = 1
    status: Status = field(default_factory=Status)
    routes: Routes | None = None
    followed: Routes | None = None
    revisions: dict[str, _Revision] = field(default_factory=dict)
    router: str = "router-1"
    slots: dict[Slot, Counts] = field(default_factory=lambda: {"a": Counts(), "b": Counts()})
    notices: list[Notice] = field(default_factory=list)
    status_writes: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    user_errors: int = 0
    reachable: bool = True
    """Whether the model's address answers."""
    denied: str = ""
    """Why the operator may not serve the desired revision."""
    known: Known = field(default_factory=Known)
    """The records of the operator."""
    served_by: dict[str, float] = field(default_factory=dict)
    """Time of the last request of each revision."""
    serial: int = 0
    check: Callable[[World, Plan], None] | None = None

    def behaviour(self, version: str) -> Behaviour:
        """Return the behaviour of a version, by default without failures."""
        return self.behaviours.setdefault(version, Behaviour())

    def change(self, new: Spec) -> None:
        """Change the spec, as ``kubectl apply`` does."""
        self.spec, self.generation = new, self.generation + 1

    def lose_status(self) -> None:
        """Empty the status, as a restore from a backup does."""
        self.status = Status()

    def present(self) -> tuple[Status, tuple[Notice, ...]]:
        """Return the status as the API server returns it, or as the operator rebuilds it if it is lost."""
        status = read_status(encode(self.status))
        if not is_lost(status, recorded_stable=self.known.decisions.stable):
            return status, ()
        observed = replace(self.observed(status), denied=self.denied)
        recovery = recover(self.model(), observed, self.known, IMAGE, self.now)
        assert recovery.status is not None, recovery.notice
        return recovery.status, () if recovery.notice is None else (recovery.notice,)

    def model(self) -> MLModel:
        """Return the MLModel."""
        return MLModel(OWNER, self.generation, self.spec)

    def observed(self, status: Status | None = None) -> Observed:
        """Return what the operator observes; it reads counters only if ``status`` requires them."""
        status = self.status if status is None else status
        states = {}
        for name, revision in self.revisions.items():
            pods = []
            behaviour = self.behaviour(revision.version)
            for pod, (created, counts) in revision.pods.items():
                ready = (
                    not behaviour.never_ready
                    and not behaviour.broken
                    and self.now >= created + behaviour.seconds_to_ready
                )
                # As from the API server and the scraper: whole seconds, and counters only if a decision requires them.
                read = counts if needs_pods(status) else None
                observed = Pod(pod, math.floor(created), ready=ready, counts=read)
                pods.append(replace(observed, **behaviour.broken))  # type: ignore[arg-type]
            states[name] = RevisionState(tuple(pods), _address(name), revision.replicas)
        if not needs_routers(status, Observed(states)):
            return Observed(states, (Router(self.router, 0.0),), self.routes)
        router = Router(self.router, 0.0, self.followed.id() if self.followed else "none", dict(self.slots))
        return Observed(states, (router,), self.routes)

    def decide(self) -> Plan:
        """Return the decision about the present state, with the status as the API server returns it."""
        status, notices = self.present()
        observed = replace(self.observed(status), denied=self.denied, reachable=self.reachable)
        plan = decide(self.model(), observed, status, IMAGE, self.now)
        return replace(plan, notices=(*notices, *plan.notices))

    def reconcile(self, *, dies_after: int = 99) -> Plan:
        """Reconcile once; the operator is killed after ``dies_after`` of its writes."""
        plan = self.decide()
        if self.check is not None:
            self.check(self, plan)
        writes: list[Callable[[], object]] = [partial(self._route, plan)]
        for desired in plan.desired:
            revision = desired.revision
            writes += [partial(self._record_revision, desired)]
            writes += [partial(self._scale, revision.id, revision.label, desired.replicas)]
        writes += [partial(self._record, plan), partial(self._write, plan)]
        writes += [partial(self.revisions.pop, name, None) for name in plan.deletes]
        for write in writes[:dies_after]:
            write()
        return plan

    def tick(self, seconds: float = 1.0, **how: int) -> Plan:
        """Let time pass: the router follows the routes, users send requests, the operator reconciles."""
        self.now += seconds
        self.followed = self.routes
        self._requests(round(self.requests_per_second * seconds))
        return self.reconcile(**how)

    def run(self, until: Callable[[World], bool], limit: float = 2000.0) -> None:
        """Tick until a condition holds; fail if it does not within ``limit`` seconds."""
        end = self.now + limit
        while not until(self):
            assert self.now < end, f"not within {limit} s: {self.status}"
            self.tick()

    def settled(self) -> bool:
        """Whether the rollout is finished."""
        return self.status.candidate is None and not self.status.draining and self.status.stable is not None

    def condition(self, kind: str) -> str:
        """Return the status of a condition."""
        return next((item.status for item in self.status.conditions if item.type == kind), "")

    def _route(self, plan: Plan) -> None:
        if plan.routes is not None:
            self.routes = plan.routes

    def _record_revision(self, desired: DesiredRevision) -> None:
        snapshots = {**self.known.snapshots, desired.revision.id: desired.revision.snapshot}
        self.known = replace(self.known, snapshots=snapshots)

    def _record(self, plan: Plan) -> None:
        self.known = replace(self.known, decisions=decisions_of(plan.status))

    def _scale(self, name: str, version: str, pods: int) -> None:
        revision = self.revisions.setdefault(name, _Revision(version, pods))
        if self.spec.serving.autoscaling is not None:
            pods = max(pods, revision.replicas)  # the autoscaler sets the number, the operator only the minimum
        revision.replicas = pods
        while len(revision.pods) < pods:
            self.serial += 1
            revision.pods[f"{name}-{self.serial}"] = (self.now, Counts())
        for extra in list(revision.pods)[pods:]:
            del revision.pods[extra]

    def _write(self, plan: Plan) -> None:
        if encode(plan.status) != encode(self.status):
            self.status_writes += 1
            self.notices += plan.notices
        self.status = plan.status

    def _requests(self, number: int) -> None:
        """Send ``number`` requests; those that the candidate fails or rejects are retried on stable."""
        routes = self.followed
        if routes is None or routes.stable is None:
            return
        weight = routes.weight if routes.candidate is not None else 0
        invalid = sum(self.rng.random() < self.invalid_rate for _ in range(number)) if self.invalid_rate else 0
        valid = number - invalid
        sent = sum(self.rng.random() * 100 < weight for _ in range(valid))
        sent_invalid = sum(self.rng.random() * 100 < weight for _ in range(invalid))
        retried = self._send(routes, routes.candidate, sent, sent_invalid) if routes.candidate is not None else 0
        self._count(routes.candidate, sent + sent_invalid, retried)
        failed = self._send(routes, routes.stable, valid - sent, invalid - sent_invalid)
        self._count(routes.stable, number - sent - sent_invalid, failed)
        self.user_errors += failed + self._send(routes, routes.stable, retried, sent_invalid)

    def _count(self, slot: Slot | None, sent: int, failed: int) -> None:
        if slot is not None:
            self.slots[slot] += Counts(sent, failed=failed)

    def _send(self, routes: Routes, slot: Slot, number: int, invalid: int) -> int:
        """Send ``number`` valid requests to one slot, and return how many it failed or rejected; ``invalid`` others,
        which every version rejects, are sent too."""
        name = next((n for n in self.revisions if routes.addresses[slot] == _address(n)), None)
        if name is None or not number + invalid:
            return number
        revision = self.revisions[name]
        behaviour = self.behaviour(revision.version)
        ready = [pod.name for pod in self.observed_pods(name) if pod.ready]
        self.served_by[name] = self.now
        if not ready:
            return number
        failed = rejected = 0
        for _ in range(number):
            roll = self.rng.random()
            failed += roll < behaviour.error_rate
            rejected += behaviour.error_rate <= roll < behaviour.error_rate + behaviour.client_error_rate
        pod = self.rng.choice(ready)
        created, counts = revision.pods[pod]
        revision.pods[pod] = (created, counts + Counts(number + invalid, rejected + invalid, failed))
        self.answered[revision.version] = self.answered.get(revision.version, 0) + number
        return failed + rejected

    def observed_pods(self, name: str) -> tuple[Pod, ...]:
        """Return the present pods of one revision."""
        revision, behaviour = self.revisions[name], self.behaviour(self.revisions[name].version)
        return tuple(
            Pod(
                pod,
                created,
                ready=not behaviour.never_ready
                and not behaviour.broken
                and self.now >= created + behaviour.seconds_to_ready,
            )
            for pod, (created, _) in revision.pods.items()
        )


def _address(revision: str) -> str:
    """Return the ClusterIP of a revision's Service."""
    return ".".join(str(int(revision[at : at + 2], 16)) for at in (0, 2, 4, 6))


def serving(version: str = "v1", seed: int = 1, **how: object) -> World:
    """Return a world in which ``version`` serves."""
    world = World(random.Random(seed), spec(version), **how)  # type: ignore[arg-type]
    world.run(lambda w: w.settled() and w.condition("Ready") == "True", 60)
    return world


def steps(*weights: int, **more: int) -> tuple[Step, ...]:
    """Return steps with these weights."""
    return tuple(Step(weight, **more) for weight in weights)


def resumed(body: Mapping[str, Any], **how: object) -> World:
    """Return the world of a recorded MLModel, with the pods, counters and routes in its status."""
    status = read_status(body["status"])
    world = World(
        random.Random(1),
        decode(Spec, body["spec"], "spec"),
        generation=body["metadata"]["generation"],
        status=status,
        now=max(_times(status)) + 1.0,
        serial=1000,
        **how,  # type: ignore[arg-type]
    )
    evidence = status.candidate.evidence if status.candidate else None
    state = evidence.state if evidence else EvidenceState()
    for item in status.draining:
        world.revisions[item.revision] = _Revision(item.revision, 1, {f"{item.revision}-1": (0.0, Counts())})
    for side, created in ((status.stable, 0.0), (status.candidate, status.candidate and status.candidate.started_at)):
        if side is not None:
            names = [name for name in state.pods if side.revision in name] or [f"{side.revision}-1"]
            pods = {name: (created or 0.0, state.pods.get(name, Counts())) for name in names}
            world.revisions[side.revision] = _Revision(side.version, side.replicas, pods)
    if state.routers and status.stable is not None and status.candidate is not None and status.candidate.slot:
        world.router, sides = next(iter(state.routers.items()))
        world.slots = {status.candidate.slot: sides.candidate, status.stable.slot: sides.stable}
    world.routes = world.followed = routes_for(status, world.observed())
    return world


def _times(status: Status) -> Iterator[float]:
    """Yield all times in the past that are in a status."""
    yield from (item.last_transition_time for item in status.conditions)
    yield from (entry.ended_at for entry in status.history)
    if status.candidate is not None:
        yield status.candidate.since
        if status.candidate.evidence is not None and status.candidate.evidence.at is not None:
            yield status.candidate.evidence.at
