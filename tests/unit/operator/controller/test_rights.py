"""The operator has the rights that it uses, and no other: the calls of whole rollouts against the role."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlmodel_operator import manifests
from mlmodel_operator.controller import MODELS
from mlmodel_operator.process import children
from mlmodel_operator.runtime.resource import CONFIG_MAPS, CONTROLLER_REVISIONS
from mlmodel_operator.settings import Settings
from tests.unit.operator.controller.test_status_lost import orphaned, replace_model
from tests.unit.operator.controller.world import SETTINGS, World
from tests.unit.operator.runtime.support import asynchronous

pytestmark = pytest.mark.simulation

VERBS = {
    # A server-side apply is a patch, and creates what does not exist.
    "apply": ("create", "patch"),
    "dry run": ("create",),
    **{verb: (verb,) for verb in ("get", "list", "watch", "create", "patch", "update", "delete")},
}
SCALED = {"serving": {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}, "traffic": {"router": {"replicas": 2}}}


def granted(*, network_policies: bool) -> set[tuple[str, str]]:
    """Return (verb, kind) of the operator's rights on models and their children."""
    bodies = manifests.install(manifests.Options(namespaces=("bank",), network_policies=network_policies))
    (role,) = [body for body in bodies if body["kind"] == "Role" and body["metadata"]["namespace"] == "bank"]
    return {(verb, plural) for rule in role["rules"] for plural in rule["resources"] for verb in rule["verbs"]}


class Recorded(World):
    """A world that collects the calls of the operator, without those of Kubernetes and users."""

    def __init__(self, settings: Settings) -> None:
        self.called: set[tuple[str, str]] = set()
        self.hides_records = False
        super().__init__(settings)

    def watch(self) -> None:
        super().watch()
        if self.hides_records:
            self.store.replace(CONTROLLER_REVISIONS, [], str(self.api._version))

    async def reconcile(self) -> float | None:
        try:
            return await super().reconcile()
        finally:
            self.called |= {(verb, plural) for verb, plural, _ in self.api.calls}


async def live(world: Recorded) -> None:
    """Roll out versions, with an autoscaler and budgets that come and go, and let a new model adopt all children."""
    await world.serve("v1", **SCALED)
    await world.apply_model("v2")
    await world.run(world.is_ready, requests=300, limit=300)
    await world.create_config_map("fraud-v3", {"model.onnx": "x"})
    await world.apply_model("v3", model={"uri": "configmap://fraud-v3"})
    await world.run(world.is_ready, requests=300, limit=300)
    # Nothing but a deletion corrects what somebody has made immutable.
    await world.edit(CONFIG_MAPS, "fraud-routes", {"immutable": True})
    await world.reconcile()
    replace_model(world, orphaned)
    await world.run(world.is_ready, requests=300)
    # A new process that has not seen a record which exists: it creates it, and reads it after the conflict.
    world.restart()
    world.hides_records = True
    await world.reconcile()


@pytest.mark.parametrize("network_policies", [False, True])
@asynchronous
async def test_the_role_is_what_the_operator_uses(network_policies: bool) -> None:
    settings = replace(SETTINGS, network_policies=network_policies)
    world = Recorded(settings)
    await live(world)
    used = {
        (verb, f"{plural}/status" if (verb, plural) == ("update", MODELS.plural) else plural)
        for call, plural in world.called
        for verb in VERBS[call]
    }
    watched = {(verb, r.plural) for r in (MODELS, *children(settings)) for verb in ("list", "watch")}
    # The API server requires it for blockOwnerDeletion.
    implied = {("update", "mlmodels/finalizers")}
    assert used | watched | implied == granted(network_policies=network_policies)
