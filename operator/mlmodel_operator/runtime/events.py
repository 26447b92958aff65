"""Kubernetes Events: what ``kubectl describe`` shows about the latest transitions."""

from __future__ import annotations

import hashlib
import logging

from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.clock import Clock, micro_time
from mlmodel_operator.runtime.resource import EVENTS, Body, address, uid

logger = logging.getLogger(__name__)

_NOTE_LIMIT = 1024  # the API server's, in bytes


class Events:
    """Posts Events of events.k8s.io/v1 as ``component`` (the program) and ``instance`` (its pod)."""

    def __init__(self, api: Api, clock: Clock, component: str, instance: str) -> None:
        self._api = api
        self._clock = clock
        self._component = component
        self._instance = instance

    async def post(self, regarding: Body, *, transition: str, reason: str, note: str, warning: bool = False) -> bool:
        """Post one transition of the object ``regarding``.

        ``transition`` identifies it among all transitions of that object (for example the resourceVersion of the
        decision). The name of the Event derives from it, so a transition that is repeated after a crash is posted once.
        ``reason`` is one CamelCase word, ``note`` a sentence. Return whether the Event exists; never raise, because an
        Event only reports.
        """
        namespace, name = address(regarding)
        digest = hashlib.sha256(f"{uid(regarding)}/{transition}/{reason}/{note}".encode()).hexdigest()[:16]
        body: Body = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": namespace, "name": f"{name}.{digest}"},
            "eventTime": micro_time(self._clock.now()),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": reason,
            "reason": reason,
            "type": "Warning" if warning else "Normal",
            "note": note.encode()[:_NOTE_LIMIT].decode(errors="ignore"),
            "regarding": {
                "apiVersion": regarding.get("apiVersion"),
                "kind": regarding.get("kind"),
                "namespace": namespace,
                "name": name,
                "uid": uid(regarding),
            },
        }
        try:
            await self._api.create(EVENTS, body)
        except ApiError as error:
            if not error.conflict:
                logger.warning("event not posted", extra={"reason": reason, "error": error})
                return False
        return True
