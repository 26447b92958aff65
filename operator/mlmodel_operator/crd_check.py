"""Wait, before the first reconcile, for a CustomResourceDefinition that this operator can work with.

The API server drops the fields of a status that its CustomResourceDefinition does not know: with an older one the
operator would lose its own decisions. The two are upgraded at different times, so the operator waits and does not exit.
This replica is not ready meanwhile, so that of the release before keeps running.
"""

from __future__ import annotations

import logging

from mlmodel_operator.api.crd import crd_problem
from mlmodel_operator.names import CRD
from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.resource import CRDS

logger = logging.getLogger(__name__)

RETRY_SECONDS = 3.0


class CrdCheck:
    """``problem`` says what is wrong and what to type, for the readiness probe; empty once ``wait`` has returned.

    ``is_optional``: without the right to read it, which an operator for some namespaces does not have, only warn.
    """

    def __init__(self, api: Api, clock: Clock, *, is_optional: bool = False) -> None:
        self._api = api
        self._clock = clock
        self._is_optional = is_optional
        self.problem = f"the CustomResourceDefinition {CRD} has not been read yet"

    async def wait(self) -> None:
        """Return when the CustomResourceDefinition in the cluster fits; until then log each new problem once."""
        while True:
            problem = await self._find_problem()
            if problem and problem != self.problem:
                logger.warning("waiting for the CustomResourceDefinition", extra={"reason": problem})
            self.problem = problem
            if not problem:
                return
            await self._clock.sleep(RETRY_SECONDS)

    async def _find_problem(self) -> str:
        try:
            return crd_problem(await self._api.get(CRDS, "", CRD))
        except ApiError as error:
            if error.not_found:
                return f"the cluster has no CustomResourceDefinition {CRD}: type `kubectl apply -f crds/mlmodels.yaml`"
            if error.forbidden and self._is_optional:
                logger.warning(
                    "CustomResourceDefinition not checked",
                    extra={
                        "reason": f"an operator with WATCH_NAMESPACES has no right to read {CRD}: after an upgrade, an"
                        " administrator must type `kubectl apply -f crds/mlmodels.yaml`"
                    },
                )
                return ""
            if error.forbidden:
                return (
                    f"the operator may not read the CustomResourceDefinition {CRD}: type `kubectl apply -f"
                    " manifests/install.yaml`, which contains the roles of this release"
                )
            return f"the CustomResourceDefinition {CRD} cannot be read ({error})"
