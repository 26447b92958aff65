"""From the store, the routers and the addresses of a model to the input of a decision.

What is read over the network is decided in rollout/needs.py: a model that waits for nothing costs no request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace

from mlmodel_operator import observe
from mlmodel_operator.api.status import Status
from mlmodel_operator.api.types import MLModel, Owner, Snapshot
from mlmodel_operator.config_maps import NOT_READ, ConfigMapRead, ConfigMaps
from mlmodel_operator.names import REVISION_LABEL, ROUTER, revision_name, router_name, routes_name
from mlmodel_operator.reach import Silences
from mlmodel_operator.resources.found import has_page, read_snapshot, rehearses
from mlmodel_operator.rollout.context import sides_for
from mlmodel_operator.rollout.evidence.labels import bin_for
from mlmodel_operator.rollout.needs import (
    answering_side,
    needs_address,
    needs_figures,
    needs_followed,
    needs_labels,
    needs_pages,
    needs_routers,
    needs_services,
)
from mlmodel_operator.rollout.observed import (
    MOST_REHEARSING,
    Labelled,
    Measured,
    Observed,
    Rehearsing,
    RevisionState,
    Router,
)
from mlmodel_operator.rollout.obstacles import needs_config_map
from mlmodel_operator.rollout.pinning import config_map_to_pin
from mlmodel_operator.rollout.routes import Routes, follows, read_routes, routes_for
from mlmodel_operator.rollout.session import nonce_of, shown
from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.resource import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Body,
    Resource,
    address,
    belongs_to,
    resource_version,
    uid,
)
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.scrape import RouterStatus, Scraper
from mlmodel_operator.settings import Settings

Key = tuple[str, str]


class Observer:
    """Belongs to the controller."""

    def __init__(self, api: Api, store: Store, scraper: Scraper, settings: Settings, clock: Clock) -> None:
        self._store, self._scraper, self._settings, self._clock = store, scraper, settings, clock
        self._api = api
        self._config_maps = ConfigMaps(api, clock)
        self._silences = Silences()
        # By model: UID and version of the ConfigMap with the routes, and what it contained.
        self._routes: dict[Key, tuple[str, Routes | None]] = {}

    def forget(self, key: Key) -> None:
        """Drop all that is stored about a model that no longer exists."""
        self._config_maps.forget(key)
        self._silences.forget(key)
        self._routes.pop(key, None)

    async def observe(self, model: MLModel, status: Status, refusal: str) -> Observed:
        """Return the input of a decision about ``status``; ``refusal`` is why the last write failed, or empty."""
        if needs_followed(status):
            await self.read_routes(model.owner)
        observed = self.stored(model, refusal)
        # At the same time, and later both kinds of addresses: each may take a second.
        statuses, rehearsing, labelled, measured = await asyncio.gather(
            self._read_routers(model, status, observed),
            self._read_pages(model, status, observed),
            self._read_labels(model, status, observed),
            self._read_figures(model.owner, status, observed),
        )
        if statuses or rehearsing or labelled or measured:
            # Pods after counts: a pod whose replacement began before the counts were read must be seen as replaced.
            observed = replace(self.stored(model, refusal), rehearsing=rehearsing, labelled=labelled, measured=measured)
        observed = await self._with_answers(model, status, observed, statuses)
        config_map = await self._read_config_map(_key(model.owner), status, observed)
        return replace(
            observed,
            missing_config_map=config_map.missing,
            config_map_error=config_map.error,
            files_sha256=config_map.files_sha256,
        )

    # ------------------------------------------------------------------------------------------------ from the store

    def of_revisions(self, resource: Resource, owner: Owner) -> list[Body]:
        """Return the objects of this kind that the model owns and that belong to a revision.

        Labels prove nothing, and neither does an owner: anyone who may create an object may write both. Each revision
        has one object of a kind, of which the name is known.
        """
        return [
            body
            for body in self._store.group(resource, owner.namespace, owner.name)
            if (revision := observe.label(body, REVISION_LABEL))
            and address(body)[1] == revision_name(owner.name, revision)
            and belongs_to(body, owner.uid)
        ]

    def router_pods(self, owner: Owner) -> list[Body]:
        """Return the pods of the router."""
        return self._pods_of(owner, self._router(owner))

    def rehearsing_pods(self, owner: Owner, revision: str) -> list[Body]:
        """Return the ready pods of a revision that take part in a rehearsal: at most ``MOST_REHEARSING``."""
        return self._pods_with(rehearses, owner, revision)

    def pods_with_file(self, owner: Owner) -> list[Body]:
        """Return all pods that may take part in a rehearsal: those of draining revisions too, which must stop."""
        deployments = [body for body in self.of_revisions(DEPLOYMENTS, owner) if rehearses(body)]
        return [pod for body in deployments for pod in self._pods_of(owner, body)]

    def paged_pods(self, owner: Owner, revision: str) -> list[Body]:
        """Return the ready pods of a revision that have pages with labels: at most ``MOST_REHEARSING``."""
        return self._pods_with(has_page, owner, revision)

    def _pods_with(self, feature: Callable[[Body], bool], owner: Owner, revision: str) -> list[Body]:
        """Return some ready pods of a revision, none if its Deployment does not have the feature."""
        deployment = self._store.get(DEPLOYMENTS, owner.namespace, revision_name(owner.name, revision))
        if deployment is None or not feature(deployment):
            return []
        return sorted(_ready(self._pods_of(owner, deployment)), key=_name)[:MOST_REHEARSING]

    def _revisions(self, owner: Owner) -> Mapping[str, RevisionState]:
        """Return the state of each revision."""
        deployments = self.of_revisions(DEPLOYMENTS, owner)
        servers = [
            (observe.label(deployment, REVISION_LABEL), observe.read_pod(pod))
            for deployment in deployments
            for pod in self._pods_of(owner, deployment)
        ]
        return observe.read_revisions(deployments, self.of_revisions(SERVICES, owner), servers)

    def stored(self, model: MLModel, refusal: str = "") -> Observed:
        """Return what the store shows; nothing has been asked over the network."""
        owner = model.owner
        pods = self.router_pods(owner)
        return Observed(
            self._revisions(owner),
            _routers(_ready(pods), {}, {}, {}),
            observe.read_workload(self._router(owner), [observe.read_pod(pod, ROUTER) for pod in pods]),
            self._followed(owner),
            refusal=refusal,
            denied=self._settings.denial(model.spec.model.trust),
        )

    async def read_routes(self, owner: Owner) -> None:
        """Read the routes in the cluster, unless they are known: the store has only the version of the ConfigMap."""
        version = self._routes_version(owner)
        if version and self._routes.get(_key(owner), ("", None))[0] != version:
            self._routes[_key(owner)] = (version, await self._get_routes(owner))

    def _routes_version(self, owner: Owner) -> str:
        """Return UID and version of the ConfigMap with the routes; empty if it does not exist or is not ours."""
        body = self._store.get(CONFIG_MAPS, owner.namespace, routes_name(owner.name))
        is_ours = body is not None and belongs_to(body, owner.uid)
        return f"{uid(body)}/{resource_version(body)}" if body is not None and is_ours else ""

    async def _get_routes(self, owner: Owner) -> Routes | None:
        try:
            body = await self._api.get(CONFIG_MAPS, owner.namespace, routes_name(owner.name))
        except ApiError as error:
            if error.not_found:
                return None
            if error.too_large:
                return Routes()  # not ours: the next decision writes them again
            raise
        return read_routes(str((body.get("data") or {}).get("routes", "")))

    def _followed(self, owner: Owner) -> Routes | None:
        """Return the routes in the cluster; None if there are none, or if they were not read since they changed."""
        version, routes = self._routes.get(_key(owner), ("", None))
        return routes if version and version == self._routes_version(owner) else None

    def _router(self, owner: Owner) -> Body | None:
        return self._store.get(DEPLOYMENTS, owner.namespace, router_name(owner.name))

    def _pods_of(self, owner: Owner, deployment: Body | None) -> list[Body]:
        """Return the pods of a Deployment; none if it does not exist or the model does not own it."""
        if deployment is None or not belongs_to(deployment, owner.uid):
            return []
        replica_sets = self._store.group(REPLICA_SETS, owner.namespace, owner.name)
        return observe.pods_of(deployment, replica_sets, self._store.group(PODS, owner.namespace, owner.name))

    # ---------------------------------------------------------------------------------------------- over the network

    async def snapshots(self, owner: Owner, known: Collection[str] = ()) -> Mapping[str, Snapshot]:
        """Return what the Deployments of the revisions that are not ``known`` were built from, where that is certain,
        with the image of new revisions. Raise ApiError."""
        found: dict[str, Snapshot] = {}
        for body in self.of_revisions(DEPLOYMENTS, owner):
            revision = observe.label(body, REVISION_LABEL)
            if revision not in known:
                whole = await self._api.get(DEPLOYMENTS, *address(body))
                snapshot = read_snapshot(whole, self._settings.server_image)
                found |= {} if snapshot is None else {revision: snapshot}
        return found

    async def _read_routers(
        self, model: MLModel, status: Status, observed: Observed
    ) -> Mapping[str, RouterStatus | None]:
        """Return what the ready routers report, if the next decision requires it."""
        if not needs_routers(model, status, observed):
            return {}
        return await self._scraper.routers(_addresses(_ready(self.router_pods(model.owner))))

    async def _with_answers(
        self,
        model: MLModel,
        status: Status,
        observed: Observed,
        statuses: Mapping[str, RouterStatus | None],
    ) -> Observed:
        """Return ``observed`` with the ``statuses`` of routers, and with the answers of Services that must be asked."""
        owner = model.owner
        key, now, pods = _key(owner), self._clock.now(), _ready(self.router_pods(owner))
        answered = {name: found is not None for name, found in statuses.items()}
        silent = self._silences.note(key, "routers", answered, now)
        routes = routes_for(status, observed, sides_for(model, status)) if statuses else None
        following = {name: follows(found.id, routes) for name, found in statuses.items() if routes and found}
        behind = self._silences.note(key, "routes", following, now)
        asked: dict[str, Awaitable[bool]] = {}
        if pods and needs_address(status, observed):
            side = answering_side(status, observed)
            service = self._store.get(SERVICES, owner.namespace, owner.name)
            asked[""] = self._scraper.answers(_cluster_ip(service, owner), side)
        for revision in needs_services(status, observed):
            if address := observed.revision(revision).address:
                asked[revision] = self._scraper.service_answers(address)
        services = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        reachable = {"address": services.pop("")} if "" in services else {}
        unreachable = self._silences.note(key, "address", reachable, now)
        return replace(
            observed,
            routers=_routers(pods, statuses, silent, behind),
            reachable=not unreachable,
            unreachable_since=unreachable.get("address"),
            silent_services=self._silences.note(key, "services", services, now),
        )

    async def _read_pages(self, model: MLModel, status: Status, observed: Observed) -> tuple[Rehearsing, ...]:
        """Return what the ready pods of stable counted in the rehearsal of the candidate."""
        owner, key = model.owner, _key(model.owner)
        if status.stable is None or not needs_pages(model, status, observed):
            self._silences.note(key, "pages", {}, self._clock.now())
            return ()
        revision = status.stable.revision
        addresses = {_name(pod): observe.pod_address(pod) for pod in self.rehearsing_pods(owner, revision)}
        pages = await self._scraper.pages(addresses)
        answered = {name: page is not None and page.revision == revision for name, page in pages.items()}
        silent = self._silences.note(key, "pages", answered, self._clock.now())
        session = shown(nonce_of(owner, status.candidate)) if status.candidate else ""
        return tuple(
            observe.read_rehearsing(name, revision, session, page, silent.get(name)) for name, page in pages.items()
        )

    def _paged_sides(self, owner: Owner, revisions: tuple[str, str]) -> dict[str, tuple[str, str]]:
        """Return revision and address of the pods of both sides that have pages, by name."""
        return {
            _name(pod): (revision, observe.pod_address(pod))
            for revision in revisions
            for pod in self.paged_pods(owner, revision)
        }

    async def _read_labels(self, model: MLModel, status: Status, observed: Observed) -> tuple[Labelled, ...]:
        """Return the labels of this rollout that were posted to the ready pods of either side."""
        stable, candidate, gate = status.stable, status.candidate, model.spec.rollout.gates.quality
        if stable is None or candidate is None or gate is None or not needs_labels(model, status, observed):
            return ()
        rollout, largest = (stable.revision, candidate.revision), bin_for(gate)
        sides = self._paged_sides(model.owner, rollout)
        pages = await self._scraper.label_pages({name: ip for name, (_, ip) in sides.items()}, largest)
        return tuple(
            observe.read_labelled(name, sides[name][0], rollout, page, largest) for name, page in pages.items()
        )

    async def _read_figures(self, owner: Owner, status: Status, observed: Observed) -> tuple[Measured, ...]:
        """Return the figures beside the gates of the ready pods of either side."""
        stable, candidate = status.stable, status.candidate
        if stable is None or candidate is None or not needs_figures(status, observed, self._clock.now()):
            return ()
        sides = self._paged_sides(owner, (stable.revision, candidate.revision))
        pages = await self._scraper.figures({name: ip for name, (_, ip) in sides.items()})
        found = (observe.read_measured(name, sides[name][0], page) for name, page in pages.items())
        return tuple(item for item in found if item is not None)

    async def _read_config_map(self, key: Key, status: Status, observed: Observed) -> ConfigMapRead:
        to_pin = config_map_to_pin(status, observed)
        if to_pin is not None:
            return await self._config_maps.read_to_pin(key, to_pin)
        needed = needs_config_map(status, observed, self._clock.now())
        if needed is not None:
            return await self._config_maps.read_for_pods(key, *needed)
        self._config_maps.forget(key)
        return NOT_READ


def _name(pod: Body) -> str:
    return address(pod)[1]


def _key(owner: Owner) -> Key:
    return owner.namespace, owner.name


def _ready(pods: list[Body]) -> list[Body]:
    return [pod for pod in pods if observe.is_ready(pod) and not observe.is_terminating(pod)]


def _addresses(pods: list[Body]) -> dict[str, tuple[str, int]]:
    return {name: (ip, port) for name, (ip, port) in observe.processes(pods).items() if ip}


def _routers(
    pods: list[Body],
    statuses: Mapping[str, RouterStatus | None],
    silent: Mapping[str, float],
    behind: Mapping[str, float],
) -> tuple[Router, ...]:
    """Return the processes of router pods with what they reported, or the time since which they do not answer."""
    return tuple(
        observe.read_router(name, port, statuses.get(name), silent.get(name), behind.get(name))
        for name, (_, port) in observe.processes(pods).items()
    )


def _cluster_ip(service: Body | None, owner: Owner) -> str:
    """Return the IP of the Service in front of the routers; empty until it has one, or if the model does not own it."""
    if service is None or not belongs_to(service, owner.uid):
        return ""
    return str((service.get("spec") or {}).get("clusterIP") or "")
