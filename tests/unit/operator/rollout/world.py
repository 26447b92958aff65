"""A cluster small enough to think about: carries plans out, ages pods, follows routes and answers requests.

It is not a mock of the API: decisions are pure, so a world is just numbers. Everything that happens is drawn from the
random generator given by the test.
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
from mlmodel_operator.rollout.plan import Notice, Plan
from mlmodel_operator.rollout.routes import Routes, routes_for

IMAGE = "mlmodel-server:test"
OWNER = Owner("fraud", "default", "uid-1")


def spec(version: str, *, rollout: Rollout | None = None, serving: Serving | None = None) -> Spec:
    """A spec that serves ``version``; quick baking unless said otherwise."""
    return Spec(
        ModelSource(f"configmap://fraud-{version}", version=version),
        serving or Serving(),
        rollout or Rollout(bake_seconds=5),
    )


def identity(version: str) -> str:
    """The revision of ``spec(version)``."""
    return desired_revision(spec(version), IMAGE).id


@dataclass
class Behaviour:
    """How the pods of one version behave."""

    seconds_to_ready: float = 2.0
    error_rate: float = 0.0
    client_error_rate: float = 0.0
    """Of the requests that are right, those that this version refuses."""
    never_ready: bool = False
    broken: dict[str, object] = field(default_factory=dict)
    """Fields of Pod that say so, as ``{"exit_code": 3}``."""


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
    wrong_rate: float = 0.0
    """Of the requests, those that no version can answer."""
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
    """Why the wanted revision may not be made."""
    served_by: dict[str, float] = field(default_factory=dict)
    """When each revision last got a request."""
    serial: int = 0
    check: Callable[[World, Plan], None] | None = None

    def behaviour(self, version: str) -> Behaviour:
        """How a version behaves; well, unless told."""
        return self.behaviours.setdefault(version, Behaviour())

    def change(self, new: Spec) -> None:
        """``kubectl apply``."""
        self.spec, self.generation = new, self.generation + 1

    def observed(self) -> Observed:
        """What the operator sees."""
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
                # As from the API server and the scraper: whole seconds, and counters only when they are asked for.
                read = counts if needs_pods(self.status) else None
                seen = Pod(pod, math.floor(created), ready=ready, counts=read)
                pods.append(replace(seen, **behaviour.broken))  # type: ignore[arg-type]
            states[name] = RevisionState(tuple(pods), _address(name), revision.replicas)
        if not needs_routers(self.status, Observed(states)):
            return Observed(states, (Router(self.router, 0.0),))
        router = Router(self.router, 0.0, self.followed.id() if self.followed else "none", dict(self.slots))
        return Observed(states, (router,))

    def decide(self) -> Plan:
        """One decision on what is there now, from the status as the API server would hand it back."""
        held = read_status(encode(self.status))
        observed = replace(self.observed(), denied=self.denied, reachable=self.reachable)
        return decide(MLModel(OWNER, self.generation, self.spec), observed, held, IMAGE, self.now)

    def reconcile(self, *, dies_after: int = 99) -> Plan:
        """One reconcile; the operator is killed after ``dies_after`` of its writes."""
        plan = self.decide()
        if self.check is not None:
            self.check(self, plan)
        writes: list[Callable[[], object]] = [partial(self._route, plan)]
        writes += [
            partial(self._scale, desired.revision.id, desired.revision.label, desired.replicas)
            for desired in plan.desired
        ]
        writes += [partial(self._write, plan)]
        writes += [partial(self.revisions.pop, name, None) for name in plan.deletes]
        for write in writes[:dies_after]:
            write()
        return plan

    def tick(self, seconds: float = 1.0, **how: int) -> Plan:
        """Time passes, the router follows, users ask, the operator looks."""
        self.now += seconds
        self.followed = self.routes
        self._requests(round(self.requests_per_second * seconds))
        return self.reconcile(**how)

    def run(self, until: Callable[[World], bool], limit: float = 2000.0) -> None:
        """Ticks until a condition holds; fails when it does not within ``limit`` seconds."""
        end = self.now + limit
        while not until(self):
            assert self.now < end, f"not within {limit} s: {self.status}"
            self.tick()

    def settled(self) -> bool:
        """Nothing moves any more."""
        return self.status.candidate is None and not self.status.draining and self.status.stable is not None

    def condition(self, kind: str) -> str:
        """The status of a condition."""
        return next((found.status for found in self.status.conditions if found.type == kind), "")

    def _route(self, plan: Plan) -> None:
        if plan.routes is not None:
            self.routes = plan.routes

    def _scale(self, name: str, version: str, pods: int) -> None:
        revision = self.revisions.setdefault(name, _Revision(version, pods))
        if self.spec.serving.autoscaling is not None:
            pods = max(pods, revision.replicas)  # the number is the autoscaler's, only its lower bound is ours
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
        """Users ask ``number`` times; what the candidate fails or refuses is asked of stable."""
        routes = self.followed
        if routes is None or routes.stable is None:
            return
        share = routes.weight if routes.candidate is not None else 0
        wrong = sum(self.rng.random() < self.wrong_rate for _ in range(number)) if self.wrong_rate else 0
        good = number - wrong
        asked = sum(self.rng.random() * 100 < share for _ in range(good))
        asked_wrong = sum(self.rng.random() * 100 < share for _ in range(wrong))
        missed = self._ask(routes, routes.candidate, asked, asked_wrong) if routes.candidate is not None else 0
        self._count(routes.candidate, asked + asked_wrong, missed)
        failed = self._ask(routes, routes.stable, good - asked, wrong - asked_wrong)
        self._count(routes.stable, number - asked - asked_wrong, failed)
        self.user_errors += failed + self._ask(routes, routes.stable, missed, asked_wrong)

    def _count(self, slot: Slot | None, asked: int, failed: int) -> None:
        if slot is not None:
            self.slots[slot] += Counts(asked, failed=failed)

    def _ask(self, routes: Routes, slot: Slot, number: int, wrong: int) -> int:
        """Asks one slot ``number`` times and returns how many it failed or refused; it also refuses ``wrong`` others,
        as every version does."""
        name = next((n for n in self.revisions if routes.addresses[slot] == _address(n)), None)
        if name is None or not number + wrong:
            return number
        revision = self.revisions[name]
        behaviour = self.behaviour(revision.version)
        ready = [pod.name for pod in self.observed_pods(name) if pod.ready]
        self.served_by[name] = self.now
        if not ready:
            return number
        failed = refused = 0
        for _ in range(number):
            roll = self.rng.random()
            failed += roll < behaviour.error_rate
            refused += behaviour.error_rate <= roll < behaviour.error_rate + behaviour.client_error_rate
        pod = self.rng.choice(ready)
        created, counts = revision.pods[pod]
        revision.pods[pod] = (created, counts + Counts(number + wrong, refused + wrong, failed))
        self.answered[revision.version] = self.answered.get(revision.version, 0) + number
        return failed + refused

    def observed_pods(self, name: str) -> tuple[Pod, ...]:
        """The pods of one revision as seen now."""
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
    """The ClusterIP of a revision's Service."""
    return ".".join(str(int(revision[at : at + 2], 16)) for at in (0, 2, 4, 6))


def serving(version: str = "v1", seed: int = 1, **how: object) -> World:
    """A world in which ``version`` serves."""
    world = World(random.Random(seed), spec(version), **how)  # type: ignore[arg-type]
    world.run(lambda w: w.settled() and w.condition("Ready") == "True", 60)
    return world


def steps(*weights: int, **more: int) -> tuple[Step, ...]:
    """Steps with these weights."""
    return tuple(Step(weight, **more) for weight in weights)


def resumed(body: Mapping[str, Any], **how: object) -> World:
    """The world in which a recorded MLModel continues: pods, counters and routes as its status remembers them."""
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
    for held, created in ((status.stable, 0.0), (status.candidate, status.candidate and status.candidate.started_at)):
        if held is not None:
            names = [name for name in state.pods if held.revision in name] or [f"{held.revision}-1"]
            pods = {name: (created or 0.0, state.pods.get(name, Counts())) for name in names}
            world.revisions[held.revision] = _Revision(held.version, held.replicas, pods)
    if state.routers and status.stable is not None and status.candidate is not None and status.candidate.slot:
        world.router, sides = next(iter(state.routers.items()))
        world.slots = {status.candidate.slot: sides.candidate, status.stable.slot: sides.stable}
    world.routes = world.followed = routes_for(status, world.observed())
    return world


def _times(status: Status) -> Iterator[float]:
    """All times in the past that a status names."""
    yield from (found.last_transition_time for found in status.conditions)
    yield from (entry.ended_at for entry in status.history)
    if status.candidate is not None:
        yield status.candidate.since
        if status.candidate.evidence is not None and status.candidate.evidence.at is not None:
            yield status.candidate.evidence.at
