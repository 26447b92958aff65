"""One reconcile: read the store, decide, carry the plan out. No decision is taken here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from . import observe, resources
from .api.codec import decode, encode
from .api.status import Status
from .api.types import GROUP, KIND, PLURAL, VERSION, MLModel
from .rollout.decide import decide, needs_address, needs_pods, needs_routers
from .rollout.observed import Observed
from .rollout.plan import Plan, Want
from .rollout.routes import Routes
from .runtime.api import Api, ApiError
from .runtime.apply import Applier
from .runtime.clock import Clock
from .runtime.events import Events
from .runtime.resource import (
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
from .runtime.store import Store
from .scrape import Counts, RouterStatus, Scraper
from .settings import Settings

MODELS = Resource(GROUP, VERSION, PLURAL, KIND)
PER_REVISION = (AUTOSCALERS, DISRUPTION_BUDGETS, SERVICES, DEPLOYMENTS)
"""Kinds of which each revision has its own; removed with it, the Deployment last: by it a revision is found."""
ROUTES_ANNOTATION = "mlmodel.dev/routes"
MOUNT_SECONDS = 15.0
"""What a pod mounts is normally there sooner."""
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

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Reconciles the MLModel ``key`` (namespace, name).

        Returns seconds after which to look again though nothing changes, or None. Raises ApiError for the queue to try
        again later; whatever could be done without the failed call has been done.
        """
        body = self._store.get(MODELS, *key)
        if body is None or observe.is_leaving(body):
            # The children belong to it: the garbage collector takes them, nothing is ours to do.
            self._refusals.pop(key, None)
            return None
        model = observe.read_model(body)
        status = decode(Status, body.get("status") or {}, "status")
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
            if plan.again is None or refusal.conflict:
                raise refusal
            # A rollout is watched on at its own pace, whatever else is refused.
            _log.warning("%s; the rollout goes on", refusal)
        return plan.again

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
        routers = [pod for pod in routers if observe.is_ready(pod) and not observe.is_leaving(pod)]

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
        return Observed(
            revisions,
            tuple(observe.read_router(pod, found.get(_name(pod))) for pod in routers),
            source_problem=await self._problem(model, status, bare, deployments),
            reachable=reachable,
            denied=self._settings.denial(model.spec.model.trust),
        )

    async def _problem(self, model: MLModel, status: Status, observed: Observed, deployments: list[Body]) -> str:
        """What keeps the candidate's pods from starting, where the pods themselves do not say."""
        refusal = self._refusals.get((model.owner.namespace, model.owner.name))
        if refusal:
            return refusal
        candidate = status.candidate
        if candidate is None or observed.revision(candidate.revision).ready:
            return ""
        for deployment in deployments:
            if observe.label(deployment, observe.REVISION_LABEL) == candidate.revision:
                failure = observe.replica_failure(deployment)
                if failure:
                    return failure
        scheme, _, source = candidate.snapshot.model.uri.partition("://")
        waiting = [pod for pod in observed.revision(candidate.revision).pods if pod.waiting == "ContainerCreating"]
        if scheme == "configmap" and waiting:
            try:
                await self._api.get(CONFIG_MAPS, model.owner.namespace, source)
            except ApiError as error:
                if error.not_found:
                    return (
                        f"ConfigMap {source} is not in namespace {model.owner.namespace}: apply it (`mlmodel package"
                        f" PACKAGE --configmap {source} | kubectl apply -f -`), or correct spec.model.uri"
                    )
        keys = candidate.snapshot.api_keys
        if keys and any(self._clock.now() - pod.created > MOUNT_SECONDS for pod in waiting):
            # Secrets are not ours to look at, so it is a question.
            return (
                f"the pods wait for what they mount: is there a Secret {keys.secret_name} with the key `keys` in"
                f" namespace {model.owner.namespace}, as spec.serving.apiKeys says?"
            )
        return ""

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
        for want in plan.wants:
            await self._want(model, want, apply)
        if refusals:
            raise refusals[0]

    async def _want(self, model: MLModel, want: Want, apply: ApplyOne) -> None:
        owner, revision = model.owner, want.revision
        name = f"{owner.name}-{revision.id}"
        await apply(SERVICES, resources.service(owner, revision.id))
        wanted = resources.deployment(
            owner,
            revision,
            signing_keys=self._settings.signing_keys,
            allow_unsafe=self._settings.allow_unsafe_models,
        )
        deployment = self._store.get(DEPLOYMENTS, owner.namespace, name)
        made_by = observe.annotation(deployment, resources.TEMPLATE_ANNOTATION) if deployment else ""
        if not made_by or made_by == observe.annotation(wanted, resources.TEMPLATE_ANNOTATION):
            deployment = await apply(DEPLOYMENTS, wanted)
        # Else another release of the operator made its pods: they stay as they are, until the next revision.
        autoscaling = model.spec.serving.autoscaling
        if autoscaling is not None:
            await apply(AUTOSCALERS, resources.autoscaler(owner, revision.id, autoscaling, want.pods))
        else:
            await self._remove(AUTOSCALERS, owner.namespace, name, owner.uid)
            if deployment is not None and (deployment.get("spec") or {}).get("replicas") != want.pods:
                # Not part of the applied intent: giving the field up to an autoscaler would reset it to one.
                patched = await self._api.patch(DEPLOYMENTS, owner.namespace, name, {"spec": {"replicas": want.pods}})
                self._store.put(DEPLOYMENTS, patched)
        if want.pods > 1:
            await apply(DISRUPTION_BUDGETS, resources.disruption_budget(owner, revision.id))
        else:
            await self._remove(DISRUPTION_BUDGETS, owner.namespace, name, owner.uid)

    async def _announce(self, model: MLModel, routes: Routes) -> None:
        """Makes kubelet refresh the routers' mounted file at once: a changed annotation of the pod does."""
        for pod in self._store.group(PODS, model.owner.namespace, model.owner.name):
            if observe.label(pod, observe.COMPONENT_LABEL) != "router" or observe.is_leaving(pod):
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
        wanted = encode(plan.status)
        if wanted == body.get("status"):
            return
        written = await self._api.replace_status(MODELS, {**body, "status": wanted})
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
        if body is None or observe.is_leaving(body):
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
