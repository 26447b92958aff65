"""Kubernetes Events: what ``kubectl describe`` shows a person about the latest transitions."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Literal

from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.clock import Clock, micro_time
from mlmodel_operator.runtime.resource import EVENTS, Body, address, resource_version, uid

logger = logging.getLogger(__name__)

_NOTE_LIMIT = 1024  # the API server's, in bytes


class Events:
    """Posts to events.k8s.io/v1 as ``component`` (the program) and ``instance`` (its pod)."""

    def __init__(self, api: Api, clock: Clock, component: str, instance: str) -> None:
        self._api = api
        self._clock = clock
        self._component = component
        self._instance = instance

    async def post(self, regarding: Body, type: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        """Tell of one transition of the object ``regarding``, as it was read before the transition was written down.

        ``reason`` is one CamelCase word, ``note`` a sentence. The event's name is made of all of these and of the
        object's resourceVersion, so the same news is posted once however often it is tried. Never raises: an event is
        news about the work, not part of it.
        """
        namespace, name = address(regarding)
        news = json.dumps([uid(regarding), resource_version(regarding), reason, note])
        digest = hashlib.sha256(news.encode()).hexdigest()[:16]
        body: Body = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": namespace, "name": f"{name}.{digest}"},
            "eventTime": micro_time(self._clock.now()),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": reason,
            "reason": reason,
            "type": type,
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
                logger.warning("The event %s was not posted: %s", reason, error)
