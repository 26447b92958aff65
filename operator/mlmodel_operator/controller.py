"""One reconcile: read the store, decide, carry out the plan. The decisions are in rollout/."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mlmodel_operator import observe, resources
from mlmodel_operator.adoption import Adopter
from mlmodel_operator.api.codec import encode
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Status
from mlmodel_operator.api.types import MLModel, Owner, Revision
from mlmodel_operator.kept import MODELS as MODELS
from mlmodel_operator.kept import OVERSIZED
from mlmodel_operator.names import (
    CONFIG_ANNOTATION,
    REHEARSAL_ANNOTATION,
    ROUTES_ANNOTATION,
    SIDES_ANNOTATION,
    TEMPLATE_ANNOTATION,
    WAKE_ANNOTATION,
    revision_name,
    router_config_name,
)
from mlmodel_operator.observer import Observer
from mlmodel_operator.recorder import Recorder
from mlmodel_operator.resources.records import deployment_record, restored
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.obstacles import BEHIND_SECONDS, routers_behind
from mlmodel_operator.rollout.plan import DesiredRevision, Plan
from mlmodel_operator.rollout.recovery import Recovery, decisions_of, recover
from mlmodel_operator.rollout.requeue import POLL_SECONDS
from mlmodel_operator.rollout.routes import Routes
from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.apply import Applier
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    Body,
    Resource,
    belongs_to,
    metadata,
    uid,
)
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.scrape import Scraper
from mlmodel_operator.settings import Settings
from mlmodel_operator.status_reader import StatusReader
from mlmodel_operator.status_writer import PRUNED_SECONDS, StatusWriter

PER_REVISION = (AUTOSCALERS, DISRUPTION_BUDGETS, SERVICES, DEPLOYMENTS)
"""Kinds of which each revision has one object. The Deployment is deleted last: it shows that the revision exists."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Controller:
    """Reconciles one MLModel at a time."""

    def __init__(
        self,
        api: Api,
        store: Store,
        applier: Applier,
        events: Events,
        scraper: Scraper,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._api = api
        self._store = store
        self._applier = applier
        self._events = events
        self._recorder = Recorder(api, store)
        self._adopter = Adopter(api, store, applier, self._recorder, events, settings.pod_namespace)
        self._writer = StatusWriter(api, store, events, clock, MODELS)
        self._observer = Observer(api, store, scraper, settings, clock)
        self._reader = StatusReader(self._recorder, self._observer, self._writer, events, settings.server_image)
        self._settings = settings
        self._clock = clock
        # Why the last write of a model failed, for the conditions of the next decision.
        self._refusals: dict[tuple[str, str], str] = {}
        # By model and name: UID, generation and template of the Deployments of other releases that equal their records.
        self._kept: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {}

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Reconcile the MLModel ``key`` (namespace, name).

        Return the seconds after which to requeue the model if nothing changes, or None. Raise ApiError, so that the
        queue retries with backoff; every write that does not depend on the failed one has been made.
        """
        body = self._store.get(MODELS, *key)
        if body is None or observe.is_terminating(body):
            # The garbage collector deletes its children.
            self._forget(key)
            return None
        if OVERSIZED in body:
            await self._reader.report_oversized(body, key)
            return None
        read = await self._reader.read(body, key)
        if read is None:
            return None
        model = observe.read_model(body)
        if self._adopter.is_needed(model.owner):
            if not await self._exists(model.owner):
                return None
            await self._adopter.adopt(model, body)
        status, why_lost = await self._reader.authorized(model, read)
        notices = read.notices
        if status is None:
            recovery = await self._recover(model, why_lost)
            notices = () if recovery.notice is None else (recovery.notice,)
            if recovery.status is None:
                await self._writer.report(body, notices)
                return None
            status = recovery.status
        is_pruned = self._writer.is_pruned(key)
        if is_pruned:
            # The next decision does not know this one: the weight must not rise.
            model = _paused(model)
        observed = await self._observer.observe(model, status, self._refusals.get(key, ""))
        plan = decide(model, observed, status, self._settings.server_image, self._clock.now())
        attempt = _Attempts()
        await self._write_children(model, plan, observed, attempt)
        recorded = await attempt(self._recorder.ensure_decisions(model.owner, decisions_of(plan.status)))
        self._remember(key, attempt.refusal)
        if recorded is None and attempt.refusal is not None:
            # A status that is ahead of the records would contradict them: the next reconcile decides the same again.
            await self._report_unrecorded(body, attempt.refusal)
            raise attempt.refusal
        if not await self._writer.write(body, encode(plan.status), (*notices, *plan.notices)):
            # The first time, the routes may have a weight that the rebuilt status does not know.
            return PRUNED_SECONDS if is_pruned else 1.0
        # After the record: without it, a lost status could not be rebuilt once these are deleted.
        for revision in plan.deletes:
            await attempt(self._delete_revision(model.owner, revision))
        if attempt.refusal is None:
            await attempt(self._prune(model.owner, plan.status, observed, {*attempt.records, recorded or ""}))
        if attempt.refusal is not None:
            is_polled = plan.requeue_after is not None and plan.requeue_after <= POLL_SECONDS
            if not is_polled or attempt.refusal.conflict:
                raise attempt.refusal
            # Backoff would delay the rollout, which must detect a failing candidate within seconds.
            logger.warning("write rejected, rollout continues", extra={"error": attempt.refusal})
        return plan.requeue_after

    async def _exists(self, owner: Owner) -> bool:
        """Whether the API server has this MLModel, and it is not being deleted.

        After `kubectl delete --cascade=orphan` the events of the children may come before that of the model. Adopted by
        a model that is gone, they would be deleted by the garbage collector.
        """
        try:
            body = await self._api.get(MODELS, owner.namespace, owner.name)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return uid(body) == owner.uid and not observe.is_terminating(body)

    def _forget(self, key: tuple[str, str]) -> None:
        """Drop all that is stored about a model that no longer exists."""
        self._refusals.pop(key, None)
        self._kept.pop(key, None)
        self._reader.forget(key)
        self._observer.forget(key)
        self._adopter.forget(key)
        self._writer.forget(key)

    def _remember(self, key: tuple[str, str], refusal: ApiError | None) -> None:
        """Store a refusal that a retry does not resolve; remove it when all writes have succeeded."""
        if refusal is None:
            self._refusals.pop(key, None)
        elif not refusal.retryable and not refusal.conflict:
            self._refusals[key] = f"the operator cannot write an object: {observe.clean(refusal.message)}"

    async def _report_unrecorded(self, body: Body, refusal: ApiError) -> None:
        """Post an Event about decisions that cannot be recorded, which a retry does not resolve."""
        if not refusal.retryable and not refusal.conflict:
            note = f"the rollout waits: its decision cannot be recorded: {observe.clean(refusal.message)}"
            await self._events.post(body, transition=note, reason=Reason.APPLY_REJECTED, note=note, warning=True)

    async def _recover(self, model: MLModel, how: str) -> Recovery:
        """Return the status that the records and the children of the model show; ``how`` says how it is lost."""
        owner, image = model.owner, self._settings.server_image
        known = (await self._recorder.load(owner)).known
        snapshots = await self._observer.snapshots(owner, known.snapshots)
        known = replace(known, snapshots={**snapshots, **known.snapshots})
        await self._observer.read_routes(owner)
        return recover(model, self._observer.stored(model), known, image, self._clock.now(), how)

    # ----------------------------------------------------------------------------------------------------- writing

    async def _write_children(self, model: MLModel, plan: Plan, observed: Observed, attempt: _Attempts) -> None:
        """Write the routes first: stopping requests to a failing candidate is the most urgent change."""
        owner, replicas = model.owner, model.spec.traffic.router.replicas
        if plan.routes is not None:
            await self._write_routes(model, plan.routes, plan.rehearsal, observed, attempt)
        if self._settings.network_policies:
            for policy in resources.network_policies(owner, self._settings.pod_namespace):
                await self._apply(NETWORK_POLICIES, policy, attempt)
        await self._apply(SERVICES, resources.router_service(owner, model.spec.traffic.tls), attempt)
        config = resources.router_config_hash()
        image = self._settings.router_image
        keys = resources.checked_keys(desired.revision for desired in plan.desired)
        router = resources.router_deployment(owner, model.spec.traffic, image, config, keys)
        await self._apply_recorded(router, deployment_record(owner, router), attempt)
        await self._write_budget(owner, replicas, resources.router_disruption_budget(owner), attempt)
        for desired in plan.desired:
            await self._write_revision(model, desired, attempt)
        if plan.routes is not None:
            await self._annotate(self._observer.pods_with_file(owner), {REHEARSAL_ANNOTATION: plan.rehearsal}, attempt)
        await attempt(self._delete_former_config(owner))

    async def _write_routes(
        self, model: MLModel, routes: Routes, rehearsal: str, observed: Observed, attempt: _Attempts
    ) -> None:
        """Write the routes for new router pods, and on those that run; wake the pods that do not follow them."""
        owner = model.owner
        await self._apply(CONFIG_MAPS, resources.router_routes(owner, routes, rehearsal), attempt)
        # A running router follows these; those of the release before only see that the ConfigMap has changed.
        assigned = {ROUTES_ANNOTATION: routes.text(), SIDES_ANNOTATION: routes.sides_text()}
        pods = self._observer.router_pods(owner)
        await self._annotate(pods, assigned, attempt)
        now = self._clock.now()
        behind = routers_behind(observed, now)
        # Kubelet may have missed the change: another one makes it write the files again. Not on more pods than the
        # router has, also while one is replaced: others may create pods that claim to be of the router.
        asleep = [pod for pod in pods if _name(pod) in behind][: model.spec.traffic.router.replicas + 1]
        await self._annotate(asleep, {WAKE_ANNOTATION: str(int(now // BEHIND_SECONDS))}, attempt)

    async def _write_revision(self, model: MLModel, desired: DesiredRevision, attempt: _Attempts) -> None:
        owner, revision, replicas = model.owner, desired.revision, desired.replicas
        await self._apply(SERVICES, resources.service(owner, revision.id), attempt)
        deployment = await self._write_deployment(model, revision, attempt)
        autoscaling = model.spec.serving.autoscaling
        if autoscaling is not None:
            autoscaler = resources.autoscaler(owner, revision.id, autoscaling, replicas)
            await self._apply(AUTOSCALERS, autoscaler, attempt)
        else:
            await attempt(self._delete(AUTOSCALERS, owner, revision_name(owner.name, revision.id)))
            if deployment is not None and (deployment.get("spec") or {}).get("replicas") != replicas:
                # Not part of the applied intent: if an autoscaler took over the field, apply would reset it to 1.
                await attempt(self._applier.patch(DEPLOYMENTS, deployment, {"spec": {"replicas": replicas}}))
        await self._write_budget(owner, replicas, resources.disruption_budget(owner, revision.id), attempt)

    async def _write_deployment(self, model: MLModel, revision: Revision, attempt: _Attempts) -> Body | None:
        """Return the Deployment after the write; None if the API server rejected it."""
        owner = model.owner
        intent = resources.deployment(
            owner,
            revision,
            signing_keys=self._settings.signing_keys,
            allow_unsafe=self._settings.allow_unsafe_models,
            timeout_seconds=model.spec.traffic.timeout_seconds,
            rehearsal_requests=model.spec.rollout.rehearsal.requests,
        )
        live = self._store.get(DEPLOYMENTS, owner.namespace, _name(intent))
        if live is not None and belongs_to(live, owner.uid):
            template = observe.annotation(live, TEMPLATE_ANNOTATION)
            if template and template != observe.annotation(intent, TEMPLATE_ANNOTATION):
                # Another release of the operator created the pods: they stay as they are until the next revision.
                if not self._recorder.has_revision(owner, revision.id):
                    record = deployment_record(owner, intent, revision, exact=False)
                    await attempt(self._recorder.ensure(record))
                return await attempt(self._keep(owner, live))
        return await self._apply_recorded(intent, deployment_record(owner, intent, revision), attempt)

    async def _keep(self, owner: Owner, live: Body) -> Body:
        """Return a Deployment that another release built, as that release recorded it: anyone who changes it, and the
        annotation too, must not choose what it runs. Without such a record it stays unchanged."""
        shown = (uid(live), metadata(live).get("generation"), observe.annotation(live, TEMPLATE_ANNOTATION))
        kept = self._kept.setdefault((owner.namespace, owner.name), {})
        if kept.get(_name(live)) == shown:
            return live
        recorded = (await self._recorder.load(owner)).deployments.get(_name(live), ())
        if recorded:
            same = (body for body in recorded if observe.annotation(body, TEMPLATE_ANNOTATION) == shown[-1])
            live = await self._applier.apply(DEPLOYMENTS, restored(owner, _name(live), next(same, recorded[-1])))
        kept[_name(live)] = (uid(live), metadata(live).get("generation"), observe.annotation(live, TEMPLATE_ANNOTATION))
        return live

    async def _apply_recorded(self, deployment: Body, record: Body, attempt: _Attempts) -> Body | None:
        """Apply a Deployment after its record, without which it could not be adopted."""
        name = await attempt(self._recorder.ensure(record))
        if name is None:
            return None
        attempt.records.add(name)
        return await self._apply(DEPLOYMENTS, deployment, attempt)

    async def _prune(self, owner: Owner, status: Status, observed: Observed, current: set[str]) -> None:
        sides = [side.revision for side in (status.stable, status.candidate) if side is not None]
        draining = [item.revision for item in status.draining]
        await self._recorder.prune(owner, current, {*sides, *draining, *observed.revisions})

    async def _write_budget(self, owner: Owner, pods: int, budget: Body, attempt: _Attempts) -> None:
        """Apply the disruption budget for two or more pods, else delete it: it would block the draining of a node."""
        if pods > 1:
            await self._apply(DISRUPTION_BUDGETS, budget, attempt)
        else:
            await attempt(self._delete(DISRUPTION_BUDGETS, owner, _name(budget)))

    async def _annotate(self, pods: list[Body], annotations: Mapping[str, str], attempt: _Attempts) -> None:
        """Write annotations on pods, and remove those that are empty: kubelet writes them to a file in the pod at once,
        and refreshes what else the pod mounts."""
        for pod in pods:
            change = {
                name: value or None for name, value in annotations.items() if observe.annotation(pod, name) != value
            }
            if not change or observe.is_terminating(pod):
                continue
            await attempt(self._annotate_pod(pod, {"metadata": {"annotations": change}}))

    async def _annotate_pod(self, pod: Body, change: Body) -> None:
        try:
            await self._applier.patch(PODS, pod, change)
        except ApiError as error:
            if not error.not_found:
                raise

    async def _delete_former_config(self, owner: Owner) -> None:
        """Delete the ConfigMap with the configuration of the routers of the release before, once none is left."""
        pods, current = self._observer.router_pods(owner), resources.router_config_hash()
        if pods and all(observe.annotation(pod, CONFIG_ANNOTATION) == current for pod in pods):
            await self._delete(CONFIG_MAPS, owner, router_config_name(owner.name))

    async def _delete_revision(self, owner: Owner, revision: str) -> None:
        """Delete the children of a revision in order; after a failure the rest, with the Deployment, stays."""
        for resource in PER_REVISION:
            await self._delete(resource, owner, revision_name(owner.name, revision))

    async def _apply(self, resource: Resource, body: Body, attempt: _Attempts) -> Body | None:
        return await attempt(self._applier.apply(resource, body))

    async def _delete(self, resource: Resource, owner: Owner, name: str) -> None:
        """Delete a child if it exists and the model owns it."""
        body = self._store.get(resource, owner.namespace, name)
        if body is None or observe.is_terminating(body) or not belongs_to(body, owner.uid):
            return
        # Without resourceVersion: name and UID identify the object, and the status of a Deployment changes often.
        await self._api.delete(resource, owner.namespace, name, uid(body))
        self._store.remove(resource, body)


class _Attempts:
    """Awaits writes one after the other; a failed one does not stop the next."""

    def __init__(self) -> None:
        self.refusal: ApiError | None = None
        """The first failure."""
        self.records: set[str] = set()
        """Names of the records of Deployments that this reconcile requires."""

    async def __call__(self, write: Awaitable[T]) -> T | None:
        """Return what ``write`` returns; None if it raises ApiError."""
        try:
            return await write
        except ApiError as error:
            self.refusal = self.refusal or error
            return None


def _paused(model: MLModel) -> MLModel:
    """Return the model with a paused rollout."""
    return replace(model, spec=replace(model.spec, rollout=replace(model.spec.rollout, paused=True)))


def _name(body: Body) -> str:
    return str(metadata(body).get("name", ""))
