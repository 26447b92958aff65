"""A simulated cluster, which carries out plans, starts pods, follows routes and answers requests.

It does not imitate the API server: decisions are pure functions, so a world consists of numbers. All random events come
from the random generator of the test.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from mlmodel_operator.api.codec import decode, encode
from mlmodel_operator.api.evidence import Agreement, Counts, Dropped, Labels, LabelSides, Outcomes, Pairs, Sides
from mlmodel_operator.api.figures import Calls
from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import (
    MLModel,
    ModelSource,
    Owner,
    Rollout,
    Serving,
    Snapshot,
    Spec,
    Step,
)
from mlmodel_operator.api.upgrade import read_status
from mlmodel_operator.observe import read_rehearsing
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.evidence.labels import bin_for
from mlmodel_operator.rollout.needs import needs_figures, needs_labels, needs_pages, needs_routers, needs_services
from mlmodel_operator.rollout.observed import (
    MOST_REHEARSING,
    Labelled,
    Measured,
    Observed,
    Pod,
    Rehearsing,
    RevisionState,
    Router,
)
from mlmodel_operator.rollout.pinning import config_map_to_pin
from mlmodel_operator.rollout.plan import DesiredRevision, Notice, Plan
from mlmodel_operator.rollout.recovery import Known, decisions_of, is_lost, recover
from mlmodel_operator.rollout.routes import Routes, routes_for
from mlmodel_operator.rollout.session import nonce_of, shown
from mlmodel_operator.scrape import PairsPage

IMAGE = "mlmodel-server:test"

MOST_KEPT = 1000
"""Requests that one pod keeps."""
OWNER = Owner("fraud", "default", "uid-1")
SNAPSHOT = Snapshot(ModelSource("builtin://x"), IMAGE)


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
    unknown_rate: float = 0.0
    """Fraction of the requests without an outcome: this version answers 404, or hangs until their clients give up."""
    slow_rate: float = 0.0
    """Fraction of the requests that take longer than the limit of an attempt; users wait for stable."""
    slower: float = 1.0
    """Prediction time beside that of other versions."""
    agrees: float = 1.0
    """Fraction of the answers that are those of other versions."""
    accuracy: float = 0.9
    """Fraction of the predictions that are right."""
    cpu_us: int = 2000
    """CPU time of a prediction in microseconds."""
    never_ready: bool = False
    broken: dict[str, object] = field(default_factory=dict)
    """Fields of Pod of a failure, such as ``{"exit_code": 3}``."""


@dataclass
class _Revision:
    version: str
    replicas: int
    snapshot: Snapshot = SNAPSHOT
    pods: dict[str, float] = field(default_factory=dict)
    """Time of creation of each pod."""
    ghosts: dict[str, float] = field(default_factory=dict)
    """Pods that do not exist any more, with the time until which the Service sends requests to them."""
    restarts: int = 0
    """Restarts of each of its containers."""


@dataclass
class Sample:
    """What one pod keeps of its requests, and the pairs of its present rehearsal."""

    seen: int = 0
    kept: int = 0
    file: str = ""
    """The file that names the candidate, as the pod has read it."""
    boot: int = 0
    """Number of the process, and of the rehearsal."""
    left: int = 0
    pairs: Pairs = field(default_factory=Pairs)

    def offer(self, number: int, seconds: float, different: int = MOST_KEPT) -> None:
        """Keep requests: all until the sample is full, then about one a second, of so many different ones."""
        self.seen += number
        new = min(number, max(MOST_KEPT - self.kept, math.ceil(seconds)))
        new = new if different >= MOST_KEPT else min(new, max(different - self.kept, 0))
        self.kept, self.left = min(self.kept + new, MOST_KEPT), self.left + new

    def follow(self, file: str) -> None:
        """Read the file; another candidate or another nonce starts another rehearsal."""
        if file and file != self.file:
            self.boot, self.left, self.pairs = self.boot + 1, self.kept, Pairs()
        self.file = file


@dataclass
class Counted:
    """Labels that were posted to one pod, of the rollout of one candidate."""

    candidate: str = ""
    boot: int = 0
    newest: float = 0.0
    weights: dict[str, LabelSides] = field(default_factory=dict)

    def post(self, made: float, candidate: str, weight: int, sides: LabelSides) -> None:
        """Count labels of predictions that were ``made`` at some time."""
        if candidate != self.candidate:
            if made <= self.newest:
                return
            self.candidate, self.boot, self.weights = candidate, self.boot + 1, {}
        self.newest = max(self.newest, made)
        self.weights[str(weight)] = self.weights.get(str(weight), LabelSides()) + sides


@dataclass(frozen=True)
class _Sent:
    """Requests to one revision: those that some version accepts, those that the router counts as failed, and those that
    got no prediction."""

    valid: int
    failed: int
    lost: int


@dataclass
class World:
    """The children of one MLModel, and its users."""

    rng: random.Random
    spec: Spec
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests_per_second: float = 50
    invalid_rate: float = 0.0
    """Fraction of the requests that every version rejects."""
    poison_rate: float = 0.0
    """Fraction of the requests that every version fails."""
    stable_ms: int = 12
    """Average response time of stable that the router reports."""
    now: float = 1_800_000_000.7
    generation: int = 1
    status: Status = field(default_factory=Status)
    rehearses: bool = False
    """Whether the pods rehearse; those of an older release do not."""
    kept_before: int = 0
    """Requests that the pods of the first version keep when they are created, together."""
    samples: dict[str, Sample] = field(default_factory=dict)
    """By the name of the pod."""
    pairs_per_second: int = 20
    """Pairs that one pod of stable makes in a second."""
    silent_pages: dict[str, float] = field(default_factory=dict)
    """Pods whose page does not answer, with the time since which it does not."""
    names_sessions: bool = True
    """Whether the pages say of which rehearsal they are; those of an older release do not."""
    different: int = MOST_KEPT
    """Number of different requests: equal ones are kept once."""
    reads_file: bool = True
    """Whether the pods read the file that names the candidate; kubelet may refresh it late."""
    labelled: float = 0.0
    """Fraction of the predictions that get a label."""
    label_seconds: float = 0.0
    """Time from a prediction to its label."""
    harder: Callable[[float], float] = lambda _: 0.0
    """By how much the fraction of right predictions is lower at a time, for all versions."""
    posts: list[tuple[float, str, int, LabelSides]] = field(default_factory=list)
    """Labels that are to come: when they were predicted, in the rollout of which candidate, at which weight."""
    counted_labels: dict[str, Counted] = field(default_factory=dict)
    """By the name of the pod to which they were posted."""
    calls: dict[str, Calls] = field(default_factory=dict)
    """Predictions of each pod since it was ready, by its name."""
    no_page: set[str] = field(default_factory=set)
    """Versions whose pods count neither labels nor CPU time, as those of an older release."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Annotations of the MLModel."""
    file: str = ""
    """The file that names the candidate of a rehearsal."""
    due: float = 0.0
    """Part of a request that is due: with less than one a second, most seconds have none."""
    routes: Routes | None = None
    followed: Routes | None = None
    revisions: dict[str, _Revision] = field(default_factory=dict)
    router: str = "router-1"
    boot: str = f"{1:016x}"
    """Identity of the router's process."""
    counted: str = ""
    """Revision that ``weights`` is about."""
    weights: dict[int, Sides] = field(default_factory=dict)
    """Counts of the router by weight."""
    uncounted: dict[str, int] = field(default_factory=dict)
    """Predictions that cannot count, by kind."""
    draws: list[bool] = field(default_factory=list)
    """The rest of the router's present block of draws: whether the candidate gets the request."""
    drawn_at: int = 0
    """Weight of that block."""
    notices: list[Notice] = field(default_factory=list)
    status_writes: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    user_errors: int = 0
    reachable: bool = True
    """Whether the model's address answers."""
    silent: dict[str, float] = field(default_factory=dict)
    """Versions whose Service does not answer yet, with the time since which it does not."""
    unread: bool = False
    """Whether the router does not answer the operator."""
    more_pods: dict[str, tuple[Pod, ...]] = field(default_factory=dict)
    """Further pods by version."""
    denied: str = ""
    """Why the operator may not serve the desired revision."""
    files: dict[str, str] = field(default_factory=dict)
    """Digest of the files of each ConfigMap; empty: it does not exist. By default each exists."""
    image: str = IMAGE
    """Server image of the operator."""
    known: Known = field(default_factory=Known)
    """The records of the operator."""
    served_by: dict[str, float] = field(default_factory=dict)
    """Time of the last request of each revision."""
    serial: int = 0
    check: Callable[[World, Plan], None] | None = None
    _encoded: tuple[Status, Any] | None = None
    _decoded: tuple[Any, Status] | None = None

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
        status = self._read()
        if not is_lost(status, recorded_stable=self.known.decisions.stable):
            return status, ()
        observed = replace(self.observed(status), denied=self.denied)
        recovery = recover(self.model(), observed, self.known, self.image, self.now)
        assert recovery.status is not None, recovery.notice
        return recovery.status, () if recovery.notice is None else (recovery.notice,)

    def _wire(self) -> Any:
        """Return the status as on the wire; it is the same object until it changes.

        Most reconciles change nothing, and to compare two statuses takes a fraction of the time of encoding one.
        """
        if self._encoded is None or self._encoded[0] != self.status:
            self._encoded = self.status, encode(self.status)
        return self._encoded[1]

    def _read(self) -> Status:
        """Return the status as decoded from the wire, which is done again only if something was written."""
        wire = self._wire()
        if self._decoded is None or self._decoded[0] != wire:
            self._decoded = wire, read_status(wire)
        return self._decoded[1]

    def model(self) -> MLModel:
        """Return the MLModel."""
        return MLModel(OWNER, self.generation, self.spec, dict(self.annotations))

    def observed(self, status: Status | None = None) -> Observed:
        """Return what the operator observes; it reads the router only if ``status`` requires it."""
        status = self.status if status is None else status
        states = {
            name: RevisionState(
                self.observed_pods(name),
                _address(name),
                revision.replicas,
                True,
                revision.snapshot.files_sha256,
                rehearses=self.rehearses,
                has_page=revision.version not in self.no_page,
            )
            for name, revision in self.revisions.items()
        }
        config_map = config_map_to_pin(status, Observed(states))
        files = self.files.setdefault(config_map, _digest(config_map)) if config_map else ""
        router = Router(self.router)
        if not self.unread and needs_routers(self.model(), status, Observed(states)):
            routes = self.followed
            router = Router(
                self.router,
                routes.id() if routes else "none",
                self.boot,
                self._candidate(),
                self.stable_ms,
                dict(self.weights) if self._candidate() == self.counted else {},
                dict(self.uncounted),
            )
        missing = config_map if config_map and not files else ""
        observed = Observed(states, (router,), followed=self.routes, missing_config_map=missing, files_sha256=files)
        if needs_labels(self.model(), status, observed):
            observed = replace(observed, labelled=tuple(self._label_pages(status, observed)))
        if needs_figures(status, observed, self.now):
            observed = replace(observed, measured=tuple(self._figures_pages(status, observed)))
        stable = status.stable
        if stable is None or stable.revision not in states or not needs_pages(self.model(), status, observed):
            return observed
        pods = [pod.name for pod in states[stable.revision].pods if pod.ready and not pod.terminating]
        session = shown(nonce_of(OWNER, status.candidate)) if status.candidate else ""
        pages = tuple(self._page(name, stable.revision, session) for name in sorted(pods))
        return replace(observed, rehearsing=pages[:MOST_REHEARSING])

    def _page(self, pod: str, revision: str, session: str) -> Rehearsing:
        """Return what the page of a pod shows, if the rehearsal is this one."""
        sample, since = self.samples.get(pod, Sample()), self.silent_pages.get(pod)
        if since is not None:
            return Rehearsing(pod, silent_since=since)
        words = sample.file.split()
        candidate = words[1] if words and words[1] != revision else ""
        boot = hashlib.sha256(f"{pod}/{sample.boot}".encode()).hexdigest()[:16]
        pairs = replace(sample.pairs, seen=sample.seen, kept=sample.kept, left=sample.left if candidate else 0)
        shows = shown(words[2]) if words and self.names_sessions else ""
        return read_rehearsing(pod, revision, session, PairsPage(boot, revision, candidate, pairs, shows), None)

    def _label_pages(self, status: Status, observed: Observed) -> Iterator[Labelled]:
        """Yield what the pods of both sides show."""
        assert status.stable is not None
        assert status.candidate is not None
        gate = self.spec.rollout.gates.quality
        largest = bin_for(gate) if gate is not None else 0
        for revision in (status.stable.revision, status.candidate.revision):
            state = observed.revision(revision)
            for pod in state.pods if state.has_page else ():
                if pod.ready and not pod.terminating:
                    counted = self.counted_labels.get(pod.name, Counted())
                    boot = hashlib.sha256(f"{pod.name}/{counted.boot}".encode()).hexdigest()[:16]
                    weights = dict(counted.weights) if counted.candidate == status.candidate.revision else {}
                    yield Labelled(pod.name, boot, "classes" if counted.weights else "", largest, weights)

    def _figures_pages(self, status: Status, observed: Observed) -> Iterator[Measured]:
        """Yield the figures of the pods of both sides."""
        assert status.stable is not None
        assert status.candidate is not None
        for revision in (status.stable.revision, status.candidate.revision):
            state = observed.revision(revision)
            for pod in state.pods if state.has_page else ():
                if pod.ready and not pod.terminating:
                    boot = hashlib.sha256(pod.name.encode()).hexdigest()[:16]
                    yield Measured(pod.name, revision, boot, self.calls.get(pod.name, Calls()), 3500)

    def _count(self, name: str, *, requests: int = 0, copies: int = 0) -> None:
        """Let the first pod of a revision that is ready answer these."""
        cpu = self.behaviour(self.revisions[name].version).cpu_us
        pod = next((pod.name for pod in self.observed_pods(name) if pod.ready), None)
        if pod is not None and (requests or copies):
            more = Calls(requests, requests * cpu, copies, copies * cpu)
            self.calls[pod] = self.calls.get(pod, Calls()) + more

    def _candidate(self) -> str:
        """Return the revision of the candidate in the routes that the router follows; empty without one."""
        routes = self.followed
        if routes is None or routes.candidate is None:
            return ""
        return next((name for name in self.revisions if routes.addresses[routes.candidate] == _address(name)), "")

    def restart_router(self) -> None:
        """Start a new process in the router's pod, which counts from zero."""
        self.boot, self.weights, self.uncounted = f"{int(self.boot, 16) + 1:016x}", {}, {}

    def kill(self, version: str) -> None:
        """Delete all pods of a version by force: its Service sends requests to them for two more seconds."""
        revision = self.revisions[identity(version)]
        revision.ghosts |= dict.fromkeys(revision.pods, self.now + 2.0)
        revision.pods.clear()

    def decide(self) -> Plan:
        """Return the decision about the present state, with the status as the API server returns it."""
        status, notices = self.present()
        observed = self.observed(status)
        asked = needs_services(status, observed)
        silent = {name: since for version, since in self.silent.items() if (name := identity(version)) in asked}
        observed = replace(observed, denied=self.denied, reachable=self.reachable, silent_services=silent)
        plan = decide(self.model(), observed, status, self.image, self.now)
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
            writes += [partial(self._scale, revision.id, revision.label, desired.replicas, revision.snapshot)]
        writes += [partial(self._record, plan), partial(self._write, plan)]
        writes += [partial(self.revisions.pop, name, None) for name in plan.deletes]
        for write in writes[:dies_after]:
            write()
        return plan

    def tick(self, seconds: float = 1.0, **how: int) -> Plan:
        """Let time pass: the router follows the routes, users send requests, the operator reconciles."""
        self.now += seconds
        self.followed = self.routes
        self.due += self.requests_per_second * seconds
        number = round(self.due)
        self.due -= number
        self._requests(number, seconds)
        self._post_labels()
        if self.rehearses:
            self._rehearse(seconds)
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
            self.routes, self.file = plan.routes, plan.rehearsal

    def _record_revision(self, desired: DesiredRevision) -> None:
        snapshots = {**self.known.snapshots, desired.revision.id: desired.revision.snapshot}
        self.known = replace(self.known, snapshots=snapshots)

    def _record(self, plan: Plan) -> None:
        self.known = replace(self.known, decisions=decisions_of(plan.status))

    def _scale(self, name: str, version: str, pods: int, snapshot: Snapshot = SNAPSHOT) -> None:
        revision = self.revisions.setdefault(name, _Revision(version, pods, snapshot))
        if self.spec.serving.autoscaling is not None:
            pods = max(pods, revision.replicas)  # the autoscaler sets the number, the operator only the minimum
        revision.replicas = pods
        while len(revision.pods) < pods:
            self.serial += 1
            revision.pods[f"{name}-{self.serial}"] = self.now
            kept = self.kept_before // pods if len(self.revisions) == 1 else 0
            self.samples[f"{name}-{self.serial}"] = Sample(kept, kept)
        for extra in list(revision.pods)[pods:]:
            del revision.pods[extra]

    def _write(self, plan: Plan) -> None:
        before = self._wire()
        self.status = plan.status
        if self._wire() != before:
            self.status_writes += 1
            self.notices += plan.notices

    def _rehearse(self, seconds: float) -> None:
        """Let all pods read the file, and those of stable repeat what they keep."""
        for sample in self.samples.values():
            if self.reads_file:
                sample.follow(self.file)
        routes, words = self.followed, self.file.split()
        if routes is None or routes.stable is None or not words or words[1] not in self.revisions:
            return
        stable = next(name for name in self.revisions if routes.addresses[routes.stable] == _address(name))
        is_up = any(pod.ready for pod in self.observed_pods(words[1]))
        for pod in self.observed_pods(stable) if stable != words[1] else ():
            if pod.ready and pod.name in self.samples:
                self._repeat(self.samples[pod.name], stable, words[1], seconds, is_up=is_up)

    def _repeat(self, sample: Sample, stable: str, candidate: str, seconds: float, *, is_up: bool) -> None:
        """Repeat requests of one pod; ``is_up`` is whether the candidate has a ready pod."""
        number = min(sample.left, round(self.pairs_per_second * seconds))
        sample.left -= number if is_up else 0
        for name in (stable, candidate) if is_up else ():
            self._count(name, copies=number)
        sample.pairs += self._pairs(stable, candidate, number) if is_up else Pairs(dropped=Dropped(number))

    def _pairs(self, stable: str, candidate: str, number: int) -> Pairs:
        """Return the pairs of ``number`` requests."""
        own, other = (self.behaviour(self.revisions[name].version) for name in (stable, candidate))
        both = own_failed = failed = shared = same = 0
        for _ in range(number):
            poison = bool(self.poison_rate) and self.rng.random() < self.poison_rate
            fails = poison or self.rng.random() < own.error_rate
            candidate_fails = poison or self.rng.random() < other.error_rate + other.client_error_rate
            both += not fails and not candidate_fails
            own_failed += fails and not candidate_fails
            failed += candidate_fails and not fails
            shared += fails and candidate_fails
            same += not fails and not candidate_fails and self.rng.random() < other.agrees
        ratio = round(math.log(other.slower / own.slower) / math.log(1.05))
        return Pairs(
            asked=number,
            pairs=Outcomes(both, failed, own_failed, shared),
            agree=Agreement(both, same, candidate_mode=(both + 1) // 2, own_mode=(both + 1) // 2),
            ratios={str(ratio): both} if both else {},
            times={"80": both} if both else {},
            own_times={"80": both} if both else {},
        )

    def _requests(self, number: int, seconds: float = 1.0) -> None:
        """Send ``number`` requests; those that the candidate fails or rejects are retried on stable."""
        routes = self.followed
        if routes is None or routes.stable is None:
            return
        stable = next((name for name in self.revisions if routes.addresses[routes.stable] == _address(name)), "")
        candidate, weight = self._candidate(), routes.weight
        if candidate != self.counted:
            self.counted, self.weights = candidate, {}
        drawn = self._draw(weight, number) if candidate else 0
        own = self._send(candidate, drawn, is_candidate=True)
        others = self._send(stable, number - drawn)
        pods = [self.samples[name] for name in self.revisions[stable].pods if name in self.samples] if stable else []
        for index, sample in enumerate(pods):
            sample.offer(len(range(index, number - drawn, len(pods))), seconds, self.different)
        poison = self._poisoned(own.valid)
        failed = min(own.valid, poison + own.failed)
        retried = self._send(stable, failed - poison, is_retry=True)
        poison_of_stable = self._poisoned(others.valid)
        self.user_errors += poison + poison_of_stable + others.lost + retried.lost
        if candidate and weight:
            sides = Sides(
                Counts(own.valid, failed, poison + retried.failed),
                Counts(others.valid, min(others.valid, poison_of_stable + others.failed)),
            )
            self.weights[weight] = self.weights.get(weight, Sides()) + sides
            if self.labelled and weight < 100:
                labels = LabelSides(self._labels(candidate, own.valid - failed), self._labels(stable, others.valid))
                self.posts.append((self.now, candidate, weight, labels))

    def _labels(self, revision: str, number: int) -> Labels:
        """Return the labels of this many predictions of a revision."""
        right = self.behaviour(self.revisions[revision].version).accuracy - self.harder(self.now)
        known = sum(self.rng.random() < self.labelled for _ in range(number))
        return Labels(known, sum(self.rng.random() < right for _ in range(known)))

    def _post_labels(self) -> None:
        """Post labels that have become known, each second of them to one pod: to the version that gets what is not
        drawn."""
        routes = self.followed
        while routes is not None and self.posts and self.posts[0][0] + self.label_seconds <= self.now:
            made, candidate, weight, sides = self.posts.pop(0)
            slot = routes.candidate if routes.candidate and routes.weight == 100 else routes.stable
            to = next((name for name in self.revisions if slot and routes.addresses[slot] == _address(name)), "")
            pods = [pod.name for pod in self.observed_pods(to) if pod.ready and not pod.terminating] if to else []
            if pods:
                self.counted_labels.setdefault(self.rng.choice(pods), Counted()).post(made, candidate, weight, sides)

    def _draw(self, weight: int, number: int) -> int:
        """Return how many of ``number`` requests the candidate gets, in shuffled blocks of 100."""
        if weight != self.drawn_at:
            self.draws, self.drawn_at = [], weight
        while len(self.draws) < number:
            block = [True] * weight + [False] * (100 - weight)
            self.rng.shuffle(block)
            self.draws += block
        drawn, self.draws = self.draws[:number], self.draws[number:]
        return sum(drawn)

    def _poisoned(self, number: int) -> int:
        return sum(self.rng.random() < self.poison_rate for _ in range(number)) if self.poison_rate else 0

    def _send(self, name: str, number: int, *, is_candidate: bool = False, is_retry: bool = False) -> _Sent:
        """Send requests to one revision and return what became of them."""
        if self.invalid_rate and not is_retry:
            number -= sum(self.rng.random() < self.invalid_rate for _ in range(number))
        if not name or not number:
            return _Sent(number, number, number)
        revision = self.revisions[name]
        behaviour = self.behaviour(revision.version)
        self.served_by[name] = self.now
        ready = sum(pod.ready for pod in self.observed_pods(name))
        ghosts = sum(until >= self.now for until in revision.ghosts.values())
        if not ready:
            return _Sent(number, number, number)
        self.answered[revision.version] = self.answered.get(revision.version, 0) + number
        self._count(name, requests=number)
        if behaviour.unknown_rate and not is_retry:
            number -= sum(self.rng.random() < behaviour.unknown_rate for _ in range(number))
        bad = behaviour.error_rate + (behaviour.client_error_rate if is_candidate else 0.0)
        bad += ghosts / (ready + ghosts)
        lost = slow = 0
        if bad or behaviour.slow_rate:
            rolls = [self.rng.random() for _ in range(number)]
            lost = sum(roll < bad for roll in rolls)
            slow = sum(bad <= roll < bad + behaviour.slow_rate for roll in rolls)
        return _Sent(number, lost + slow, lost)

    def observed_pods(self, name: str) -> tuple[Pod, ...]:
        """Return the present pods of one revision, created at whole seconds, as from the API server."""
        revision, behaviour = self.revisions[name], self.behaviour(self.revisions[name].version)
        is_up = not behaviour.never_ready and not behaviour.broken
        pods = []
        for pod, created in revision.pods.items():
            ready = is_up and self.now >= created + behaviour.seconds_to_ready
            fields: dict[str, Any] = {"ready": ready, "restarts": revision.restarts, **behaviour.broken}
            pods.append(Pod(pod, math.floor(created), **fields))
        more = self.more_pods.get(revision.version, ())
        return (*pods, *(replace(pod, created=math.floor(pod.created)) for pod in more))


def _digest(config_map: str) -> str:
    """Return the digest of the files of a ConfigMap that was never changed."""
    return hashlib.sha256(config_map.encode()).hexdigest()


@cache
def _address(revision: str) -> str:
    """Return the ClusterIP of a revision's Service."""
    return ".".join(str(int(revision[at : at + 2], 16)) for at in (0, 2, 4, 6))


def serving(version: str = "v1", seed: int = 1, **how: object) -> World:
    """Return a world in which ``version`` serves."""
    world = World(random.Random(seed), spec(version), **how)  # type: ignore[arg-type]
    world.run(lambda w: w.settled() and w.condition("Ready") == "True", 60)
    return world


def candidate(world: World) -> Candidate:
    """Return the candidate, which there must be."""
    found = world.status.candidate
    assert found is not None
    return found


def steps(*weights: int, **more: Any) -> tuple[Step, ...]:
    """Return steps with these weights."""
    return tuple(Step(weight, **more) for weight in weights)


def resumed(body: Mapping[str, Any], **how: object) -> World:
    """Return the world of a recorded MLModel, with the pods and routes in its status."""
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
    for item in status.draining:
        world.revisions[item.revision] = _Revision(item.revision, 1, pods={f"{item.revision}-1": 0.0})
    for side, created in ((status.stable, 0.0), (status.candidate, status.candidate and status.candidate.started_at)):
        if side is not None:
            pods = {f"{side.revision}-{number}": created or 0.0 for number in range(max(side.ready_replicas, 1))}
            world.revisions[side.revision] = _Revision(side.version, side.replicas, side.snapshot, pods)
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
