"""One reconcile: read the store, decide, carry the plan out. No decision is taken here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from mlmodel_operator import observe, resources
from mlmodel_operator.api.codec import encode
from mlmodel_operator.api.evidence import Counts
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import FORMAT_VERSION, Status
from mlmodel_operator.api.types import GROUP, KIND, PLURAL, VERSION, MLModel
from mlmodel_operator.api.upgrade import newer_format, read_status
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.needs import needs_address, needs_pods, needs_routers
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.obstacles import needs_config_map
from mlmodel_operator.rollout.plan import DesiredRevision, Plan
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
    PODS,
    SERVICES,
    Body,
    Resource,
    address,
    controller_of,
    metadata,
    resource_version,
    uid,
)
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.scrape import RouterStatus, Scraper
from mlmodel_operator.settings import Settings

MODELS = Resource(GROUP, VERSION, PLURAL, KIND)
PER_REVISION = (AUTOSCALERS, DISRUPTION_BUDGETS, SERVICES, DEPLOYMENTS)
"""Kinds of which each revision has its own; removed with it, the Deployment last: by it a revision is found."""
ROUTES_ANNOTATION = "mlmodel.dev/routes"
MANAGER = "mlmodel-operator"

_log = logging.getLogger(__name__)


class Controller:
    """Brings one MLModel at a time to where its spec wants it."""

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
        self._scraper = scraper
        self._settings = settings
        self._clock = clock
        # What the API server last refused, by model: told in the conditions of the next decision.
        self._refusals: dict[tuple[str, str], str] = {}
        # Models whose status a newer release wrote, so that this is reported once.
        self._newer: set[tuple[str, str]] = set()

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Reconciles the MLModel ``key`` (namespace, name).

        Returns seconds after which to look again though nothing changes, or None. Raises ApiError for the queue to try
        again later; whatever could be done without the failed call has been done.
        """
        body = self._store.get(MODELS, *key)
        if body is None or observe.is_terminating(body):
            # The children belong to it: the garbage collector takes them, nothing is ours to do.
            self._refusals.pop(key, None)
            self._newer.discard(key)
            return None
        raw = body.get("status") or {}
        newer = newer_format(raw)
        if newer is not None:
            await self._report_newer_status(body, key, newer)
            return None
        model, status = observe.read_model(body), read_status(raw)
        observed = await self._look(model, status)
        plan = decide(model, observed, status, self._settings.server_image, self._clock.now())
        refusal: ApiError | None = None
        try:
            await self._carry_out(model, plan)
            self._refusals.pop(key, None)
        except ApiError as error:
            refusal = error
            if not error.retryable and not error.conflict:
                self._refusals[key] = f"the API server refused it: {error.message}"
        await self._write_status(body, plan)
        for revision in plan.deletes:
            await self._delete(model, revision)
        if refusal is not None:
            if plan.requeue_after is None or refusal.conflict:
                raise refusal
            # A rollout is watched on at its own pace, whatever else is refused.
            _log.warning("%s; the rollout goes on", refusal)
        return plan.requeue_after

    async def _report_newer_status(self, body: Body, key: tuple[str, str], newer: int) -> None:
        """Report, once per model and process, that only a newer release may work on it."""
        if key in self._newer:
            return
        self._newer.add(key)
        note = (
            f"a newer release of the operator wrote this status (format {newer}; this release knows up to"
            f" {FORMAT_VERSION}), so this one changes nothing: upgrade the operator"
        )
        _log.warning("%s/%s: %s", *key, note)
        transition = f"format {newer}"
        await self._events.post(body, transition=transition, reason=Reason.NEWER_STATUS, note=note, warning=True)

    # ------------------------------------------------------------------------------------------------------ looking

    async def _look(self, model: MLModel, status: Status) -> Observed:
        namespace, name = model.owner.namespace, model.owner.name

        def mine(resource: Resource) -> list[Body]:
            return [body for body in self._store.group(resource, namespace, name) if _belongs_to(body, model.owner.uid)]

        deployments, services = mine(DEPLOYMENTS), mine(SERVICES)
        pods = self._store.group(PODS, namespace, name)
        servers = [
            pod
            for pod in pods
            if observe.label(pod, observe.REVISION_LABEL)
            and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")
        ]
        routers = [pod for pod in pods if observe.label(pod, observe.COMPONENT_LABEL) == "router"]
        routers = [pod for pod in routers if observe.is_ready(pod) and not observe.is_terminating(pod)]

        counts: Mapping[str, Counts | None] = {}
        if needs_pods(status):
            counts = await self._scraper.pods(_addresses(servers))
        revisions = observe.read_revisions(
            deployments,
            services,
            [
                (observe.label(pod, observe.REVISION_LABEL), observe.read_pod(pod, counts.get(_name(pod))))
                for pod in servers
            ],
        )
        found: Mapping[str, RouterStatus | None] = {}
        bare = Observed(revisions)
        if needs_routers(status, bare):
            found = await self._scraper.routers(_addresses(routers))
        reachable = True
        if routers and needs_address(status, bare):
            reachable = await self._scraper.answers(_cluster_ip(services))
        refusal = self._refusals.get((namespace, name), "")
        config_map = needs_config_map(status, replace(bare, refusal=refusal))
        return Observed(
            revisions,
            tuple(observe.read_router(pod, found.get(_name(pod))) for pod in routers),
            refusal=refusal,
            config_map_missing=config_map is not None and await self._is_missing(namespace, config_map),
            reachable=reachable,
            denied=self._settings.denial(model.spec.model.trust),
        )

    async def _is_missing(self, namespace: str, config_map: str) -> bool:
        try:
            await self._api.get(CONFIG_MAPS, namespace, config_map)
        except ApiError as error:
            return error.not_found
        return False

    # -------------------------------------------------------------------------------------------------- carrying out

    async def _carry_out(self, model: MLModel, plan: Plan) -> None:
        """Routes first: taking a bad version off comes before everything else. One failure does not stop the rest."""
        refusals: list[ApiError] = []
        owner = model.owner

        async def apply(resource: Resource, body: Body) -> Body | None:
            try:
                return await self._applier.apply(resource, body, MANAGER)
            except ApiError as error:
                refusals.append(error)
                return None

        if plan.routes is not None:
            await apply(CONFIG_MAPS, resources.router_routes(owner, plan.routes))
            await self._announce(model, plan.routes)
        replicas = model.spec.traffic.router.replicas
        await apply(CONFIG_MAPS, resources.router_config(owner))
        await apply(SERVICES, resources.router_service(owner))
        await apply(
            DEPLOYMENTS,
            resources.router_deployment(owner, replicas, self._settings.router_image, resources.router_config_hash()),
        )
        if replicas > 1:
            await apply(DISRUPTION_BUDGETS, resources.router_disruption_budget(owner))
        else:
            await self._remove(DISRUPTION_BUDGETS, owner.namespace, f"{owner.name}-router", owner.uid)
        for desired in plan.desired:
            await self._apply_revision(model, desired, apply)
        if refusals:
            raise refusals[0]

    async def _apply_revision(self, model: MLModel, desired: DesiredRevision, apply: ApplyOne) -> None:
        owner, revision, replicas = model.owner, desired.revision, desired.replicas
        name = f"{owner.name}-{revision.id}"
        await apply(SERVICES, resources.service(owner, revision.id))
        intent = resources.deployment(
            owner,
            revision,
            signing_keys=self._settings.signing_keys,
            allow_unsafe=self._settings.allow_unsafe_models,
        )
        deployment = self._store.get(DEPLOYMENTS, owner.namespace, name)
        made_by = observe.annotation(deployment, resources.TEMPLATE_ANNOTATION) if deployment else ""
        if not made_by or made_by == observe.annotation(intent, resources.TEMPLATE_ANNOTATION):
            deployment = await apply(DEPLOYMENTS, intent)
        # Else another release of the operator made its pods: they stay as they are, until the next revision.
        autoscaling = model.spec.serving.autoscaling
        if autoscaling is not None:
            await apply(AUTOSCALERS, resources.autoscaler(owner, revision.id, autoscaling, replicas))
        else:
            await self._remove(AUTOSCALERS, owner.namespace, name, owner.uid)
            if deployment is not None and (deployment.get("spec") or {}).get("replicas") != replicas:
                # Not part of the applied intent: giving the field up to an autoscaler would reset it to one.
                patched = await self._api.patch(DEPLOYMENTS, owner.namespace, name, {"spec": {"replicas": replicas}})
                self._store.put(DEPLOYMENTS, patched)
        if replicas > 1:
            await apply(DISRUPTION_BUDGETS, resources.disruption_budget(owner, revision.id))
        else:
            await self._remove(DISRUPTION_BUDGETS, owner.namespace, name, owner.uid)

    async def _announce(self, model: MLModel, routes: Routes) -> None:
        """Makes kubelet refresh the routers' mounted file at once: a changed annotation of the pod does."""
        for pod in self._store.group(PODS, model.owner.namespace, model.owner.name):
            if observe.label(pod, observe.COMPONENT_LABEL) != "router" or observe.is_terminating(pod):
                continue
            if observe.annotation(pod, ROUTES_ANNOTATION) == routes.id():
                continue
            try:
                patch = {"metadata": {"uid": uid(pod), "annotations": {ROUTES_ANNOTATION: routes.id()}}}
                self._store.put(PODS, await self._api.patch(PODS, *address(pod), patch))
            except ApiError as error:
                # Only slower without it: kubelet refreshes mounts by itself within a minute or so.
                _log.info("pod %s was not told of new routes: %s", _name(pod), error.message)

    async def _write_status(self, body: Body, plan: Plan) -> None:
        """Status last, only when it differs, and only onto the very version that was decided on."""
        status = encode(plan.status)
        if status == body.get("status"):
            return
        written = await self._api.replace_status(MODELS, {**body, "status": status})
        self._store.put(MODELS, written)
        for notice in plan.notices:
            # The version decided on names the transition: one that is decided again after a crash is not told twice.
            await self._events.post(
                body,
                transition=resource_version(body),
                reason=notice.reason,
                note=notice.message,
                warning=notice.type == "Warning",
            )

    async def _delete(self, model: MLModel, revision: str) -> None:
        for resource in PER_REVISION:
            await self._remove(resource, model.owner.namespace, f"{model.owner.name}-{revision}", model.owner.uid)

    async def _remove(self, resource: Resource, namespace: str, name: str, owner: str) -> None:
        """Deletes a child if it is there and ours."""
        body = self._store.get(resource, namespace, name)
        if body is None or observe.is_terminating(body):
            return
        if not _belongs_to(body, owner):
            return
        # No resourceVersion: the name and the UID are what we mean, and status updates of a Deployment are frequent.
        await self._api.delete(resource, namespace, name, uid(body))
        self._store.remove(resource, body)


class ApplyOne(Protocol):
    """Applies one child; None when the API server refused."""

    async def __call__(self, resource: Resource, body: Body) -> Body | None: ...


def _belongs_to(body: Body, owner: str) -> bool:
    """Whether the object's controller is the one with this UID."""
    return (controller_of(body) or {}).get("uid") == owner


def _name(body: Body) -> str:
    return str(metadata(body).get("name", ""))


def _cluster_ip(services: list[Body]) -> str:
    """The IP of the Service in front of the routers, empty as long as there is none."""
    routers = (body for body in services if observe.label(body, observe.COMPONENT_LABEL) == "router")
    return next((str((body.get("spec") or {}).get("clusterIP") or "") for body in routers), "")


def _addresses(pods: list[Body]) -> dict[str, str]:
    return {_name(pod): found for pod in pods if (found := observe.pod_address(pod))}
