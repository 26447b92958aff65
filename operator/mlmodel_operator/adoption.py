"""Take over the children of a model that was deleted without them (`--cascade=orphan`), or restored with another UID.

Such a child has no controller, or one of the model's name and kind that no longer exists. It is adopted if records of
a former model prove that the operator ran it, and if it is what the operator built: the API server returns that with
all its defaults from a dry run of a change. Anything else stays unchanged, because anyone may create an object with our
names and labels.
Only ``ownerReferences`` change, so no pod restarts and no address changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mlmodel_operator import observe, resources
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import Autoscaling, MLModel, Owner, Tls
from mlmodel_operator.names import (
    ADOPTED_LABEL,
    GROUP,
    KIND,
    NAMESPACE,
    REVISION_LABEL,
    revision_name,
    router_config_name,
    router_name,
    routes_name,
)
from mlmodel_operator.recorder import Recorder
from mlmodel_operator.resources.common import owner_references
from mlmodel_operator.resources.equality import difference
from mlmodel_operator.resources.exact import foreign_fields
from mlmodel_operator.resources.records import Recorded, is_record, read_records
from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.apply import Applier, correction, delete_command
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    SERVICES,
    Body,
    Resource,
    address,
    belongs_to,
    controller_of,
    metadata,
    resource_version,
    uid,
)
from mlmodel_operator.runtime.store import Store

logger = logging.getLogger(__name__)

KINDS = (
    CONTROLLER_REVISIONS,
    SERVICES,
    DEPLOYMENTS,
    CONFIG_MAPS,
    AUTOSCALERS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
)
"""In the order of adoption: records first, because they prove the rest."""


def is_orphan(body: Body, owner: Owner) -> bool:
    """Whether the object has no controller, or a former model of the same name."""
    controller = controller_of(body)
    if controller is None:
        return True
    group = str(controller.get("apiVersion", "")).partition("/")[0] or GROUP
    kind_and_name = (group, controller.get("kind"), controller.get("name"))
    return kind_and_name == (GROUP, KIND, owner.name) and controller.get("uid") != owner.uid


class Adopter:
    """Adopts orphans, and reports those that it leaves alone."""

    def __init__(
        self,
        api: Api,
        store: Store,
        applier: Applier,
        recorder: Recorder,
        events: Events,
        operator_namespace: str = NAMESPACE,
    ) -> None:
        self._api = api
        self._store = store
        self._applier = applier
        self._recorder = recorder
        self._events = events
        self._operator_namespace = operator_namespace
        # resourceVersion of an orphan that is not ours, and the name of the model: it is compared again when changed.
        self._foreign: dict[tuple[Resource, str, str], tuple[str, str]] = {}

    def is_needed(self, owner: Owner) -> bool:
        """Whether the store has orphans, and a record of a former model that could prove whose they are."""
        kinds = {r for r, _ in self._orphans(owner)}
        return CONTROLLER_REVISIONS in kinds or (bool(kinds) and self._recorder.has_adopted(owner))

    async def adopt(self, model: MLModel, body: Body) -> None:
        """Adopt the orphans in the store; without one, or without a record of a former model, this costs no request.

        ``body`` is the MLModel, for Events. Raise ApiError if a request must be retried.
        """
        owner = model.owner
        if not self.is_needed(owner):
            return
        orphans = list(self._orphans(owner))
        recorded = await self._adopt_records(owner)
        for r, orphan in orphans:
            if r == CONTROLLER_REVISIONS or recorded == Recorded():
                continue
            whole = await self._read(r, orphan)
            why = await self._why_foreign(owner, r, whole, recorded) if whole else "it is larger than any of ours"
            if whole and not why:
                await self._take(owner, r, whole)
                continue
            self._foreign[r, *address(orphan)] = (resource_version(orphan), owner.name)
            logger.warning("orphan not adopted", extra={"kind": r.kind, "object": address(orphan)[1], "reason": why})
            note = (
                f"{r.kind} {'/'.join(address(orphan))} is not adopted: {why}. Delete it"
                f" (`{delete_command(r, orphan)}`), or restore what the operator built"
            )
            await self._events.post(body, transition=uid(orphan), reason=Reason.NOT_ADOPTED, note=note, warning=True)

    async def _read(self, r: Resource, orphan: Body) -> Body | None:
        """Return all fields of an orphan; None if it is too large. Raise ApiError, also if it was deleted."""
        try:
            return await self._api.get(r, *address(orphan))
        except ApiError as error:
            if error.too_large:
                return None
            raise

    def forget(self, model: tuple[str, str]) -> None:
        """Drop what is known of the orphans of a model (namespace, name) that was deleted."""
        for key in [key for key, (_, owner) in self._foreign.items() if (key[1], owner) == model]:
            del self._foreign[key]

    def _orphans(self, owner: Owner) -> Iterator[tuple[Resource, Body]]:
        """Yield the orphans that were not compared yet, in the order of adoption."""
        for r in KINDS:
            for body in self._store.group(r, owner.namespace, owner.name):
                is_known = self._foreign.get((r, *address(body))) == (resource_version(body), owner.name)
                if is_orphan(body, owner) and not observe.is_terminating(body) and not is_known:
                    yield r, body

    async def _adopt_records(self, owner: Owner) -> Recorded:
        """Adopt the orphaned records, and return the content of all."""
        found = []
        for body in await self._recorder.read(owner):
            is_ours = belongs_to(body, owner.uid)
            if not is_record(body) or not (is_ours or is_orphan(body, owner)) or observe.is_terminating(body):
                if is_orphan(body, owner):
                    self._foreign[CONTROLLER_REVISIONS, *address(body)] = (resource_version(body), owner.name)
                continue
            if not is_ours:
                await self._take(owner, CONTROLLER_REVISIONS, body)
            found.append(body)
        return read_records(found)

    async def _take(self, owner: Owner, r: Resource, body: Body) -> None:
        """Make the model the controller of this version of the object. Raise ApiError, a conflict if it has changed."""
        change = self._owned(owner, body)
        if r == CONTROLLER_REVISIONS:
            # Adoption goes on after a crash, or when the other children appear later.
            change["labels"] = {ADOPTED_LABEL: "true"}
        await self._applier.patch(r, body, {"metadata": change})
        logger.info("orphan adopted", extra={"kind": r.kind, "object": address(body)[1]})

    # ---------------------------------------------------------------------------------------------------- comparing

    async def _why_foreign(self, owner: Owner, r: Resource, orphan: Body, recorded: Recorded) -> str:
        """Return why an orphan is not adopted, as a clause; empty if it is what the operator would build."""
        if r == CONFIG_MAPS:
            return _why_foreign_config_map(owner, orphan)
        intents = _intents(owner, r, orphan, recorded, self._operator_namespace)
        if not intents:
            return "no record of the operator describes it"
        found = ""
        for intent in intents:
            try:
                expected = await self._dry_run(owner, r, orphan, intent)
            except ApiError as error:
                if error.retryable:
                    raise
                found = f"the API server rejects what it is compared with ({error.message})"
                continue
            found = difference(orphan, expected)
            if not found:
                return ""
            found = f"it differs from what the operator built in {found}"
        return found

    async def _dry_run(self, owner: Owner, r: Resource, orphan: Body, intent: Body) -> Body:
        """Return the orphan as the API server would store it with the content of the intent.

        A change of the orphan and not a new object: admission policies let pods be as they are that a release built
        which they do not know, but create none.
        """
        content = {"kind": r.kind, "spec": intent["spec"]}
        change = correction(content, foreign_fields(orphan, content))
        change["metadata"] = self._owned(owner, orphan) | {
            key: value for key, value in metadata(intent).items() if key in ("labels", "annotations")
        }
        return {"kind": r.kind, **await self._api.patch(r, *address(orphan), change, dry_run=True)}

    @staticmethod
    def _owned(owner: Owner, body: Body) -> Body:
        """Return the metadata that makes the model the controller of this version of the object."""
        others = [item for item in metadata(body).get("ownerReferences") or [] if not item.get("controller")]
        return {
            "uid": uid(body),
            "resourceVersion": resource_version(body),
            "ownerReferences": [*others, *owner_references(owner)],
        }


def _intents(owner: Owner, r: Resource, orphan: Body, recorded: Recorded, operator_namespace: str) -> list[Body]:
    """Return what the operator may have built under the name of the orphan."""
    name = address(orphan)[1]
    if r == DEPLOYMENTS:
        return list(recorded.deployments.get(name, ()))
    if r == NETWORK_POLICIES:
        policies = resources.network_policies(owner, operator_namespace)
        return [body for body in policies if address(body)[1] == name]
    revision = observe.label(orphan, REVISION_LABEL)
    if revision in recorded.known.snapshots and name == revision_name(owner.name, revision):
        return [_of_revision(owner, r, revision, orphan)]
    if r == SERVICES and name == owner.name:
        # With and without TLS: the field may have changed since.
        return [resources.router_service(owner), resources.router_service(owner, Tls(""))]
    if r == DISRUPTION_BUDGETS and name == router_name(owner.name):
        return [resources.router_disruption_budget(owner)]
    return []


def _of_revision(owner: Owner, r: Resource, revision: str, orphan: Body) -> Body:
    if r == SERVICES:
        return resources.service(owner, revision)
    if r == DISRUPTION_BUDGETS:
        return resources.disruption_budget(owner, revision)
    # The percentage may be that of an earlier spec; the operator applies the present one after the adoption.
    metrics = (orphan.get("spec") or {}).get("metrics") or [{}]
    percent = ((metrics[0].get("resource") or {}).get("target") or {}).get("averageUtilization")
    autoscaling = Autoscaling(max_replicas=1, cpu_percent=percent if isinstance(percent, int) else 1)
    return resources.autoscaler(owner, revision, autoscaling, 1)


def _why_foreign_config_map(owner: Owner, orphan: Body) -> str:
    """Compare only the keys: the operator replaces the content in the same reconcile, after it has read the slots. That
    of the configuration of the release before is adopted to be deleted."""
    # The keys that it must have, and those that it may have.
    expected = {
        routes_name(owner.name): ({"routes"}, set(resources.ROUTES_FILES)),
        router_config_name(owner.name): (set(), set(resources.CONFIG_FILES)),
    }.get(address(orphan)[1])
    if expected is None:
        return "no ConfigMap of the operator has this name"
    required, allowed = expected
    if not required <= set(orphan.get("data") or {}) <= allowed or orphan.get("binaryData") or orphan.get("immutable"):
        return f"its keys are not {', '.join(sorted(allowed))}"
    return ""
