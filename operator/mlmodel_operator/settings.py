"""What the operator is told by its environment, checked once at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(Exception):
    """The environment is incomplete; the message says what to set."""


@dataclass(frozen=True)
class Settings:
    """Images for the pods that the operator makes, and who it is itself."""

    server_image: str
    router_image: str
    pod_namespace: str
    pod_name: str
    log_level: str = "INFO"

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read ``SERVER_IMAGE``, ``ROUTER_IMAGE``, ``POD_NAMESPACE``, ``POD_NAME`` and, optionally, ``LOG_LEVEL``.

        Raises SettingsError with one sentence.
        """

        def need(name: str, example: str) -> str:
            value = env.get(name, "").strip()
            if not value:
                raise SettingsError(f"the environment variable {name} is not set: set it to {example}")
            return value

        level = env.get("LOG_LEVEL", "").strip().upper() or "INFO"
        if level not in LOG_LEVELS:
            raise SettingsError(f"LOG_LEVEL is {level!r}: set it to one of {', '.join(LOG_LEVELS)}")
        return cls(
            server_image=need("SERVER_IMAGE", "the image of the model server, for example mlmodel-server:0.1.0"),
            router_image=need("ROUTER_IMAGE", "the image of the router, for example mlmodel-router:0.1.0"),
            pod_namespace=need("POD_NAMESPACE", "the operator's own namespace (fieldRef metadata.namespace)"),
            pod_name=need("POD_NAME", "the operator's own pod (fieldRef metadata.name)"),
            log_level=level,
        )
