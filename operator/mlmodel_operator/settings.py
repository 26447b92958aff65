"""What the operator is told by its command line and its environment, checked once at start.

The environment says what it runs with; the command line gives rights, which stand out there when somebody reviews the
manifest.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlmodel_operator.api.types import Trust
from mlmodel_operator.names import OPERATOR

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

MAX_KEYS = 32 * 1024
"""Bytes; the keys are part of every pod that verifies signatures."""

_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----\s[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----")


class SettingsError(Exception):
    """A setting is missing or wrong; the message says what to set."""


@dataclass(frozen=True)
class Settings:
    """Images for the pods that the operator makes, who it is itself, and what models may be trusted with."""

    server_image: str
    router_image: str
    pod_namespace: str
    pod_name: str
    log_level: str = "INFO"
    allow_unsafe_models: bool = False
    signing_keys: str = ""
    """Public keys that signatures of models are verified with, PEM; empty: no model is trusted for its signature."""

    @classmethod
    def read(cls, argv: Sequence[str] = (), env: Mapping[str, str] = os.environ) -> Settings:
        """Read ``SERVER_IMAGE``, ``ROUTER_IMAGE``, ``POD_NAMESPACE``, ``POD_NAME`` and, optionally, ``LOG_LEVEL``; and
        the arguments ``--allow-unsafe-models`` and ``--signing-keys FILE``.

        Raises SettingsError with one sentence; unknown arguments end the process as argparse does.
        """

        def need(name: str, example: str) -> str:
            value = env.get(name, "").strip()
            if not value:
                raise SettingsError(f"the environment variable {name} is not set: set it to {example}")
            return value

        given = _arguments(argv)
        level = env.get("LOG_LEVEL", "").strip().upper() or "INFO"
        if level not in LOG_LEVELS:
            raise SettingsError(f"LOG_LEVEL is {level!r}: set it to one of {', '.join(LOG_LEVELS)}")
        return cls(
            server_image=need("SERVER_IMAGE", "the image of the model server, for example mlmodel-server:0.1.0"),
            router_image=need("ROUTER_IMAGE", "the image of the router, for example mlmodel-router:0.1.0"),
            pod_namespace=need("POD_NAMESPACE", "the operator's own namespace (fieldRef metadata.namespace)"),
            pod_name=need("POD_NAME", "the operator's own pod (fieldRef metadata.name)"),
            log_level=level,
            allow_unsafe_models=given.allow_unsafe_models,
            signing_keys=_keys(given.signing_keys) if given.signing_keys else "",
        )

    def denial(self, trust: Trust) -> str:
        """Why no model may be served with this trust, and what to change; empty if one may."""
        if trust == "unsafe" and not self.allow_unsafe_models:
            return (
                "spec.model.trust is unsafe, and this operator serves no such model: save the model as skops or ONNX"
                " and remove trust, or let an administrator start the operator with --allow-unsafe-models"
            )
        if trust == "signed" and not self.signing_keys:
            return (
                "spec.model.trust is signed, and this operator has no keys to verify signatures with: let an"
                " administrator start it with --signing-keys FILE (public keys, PEM), or remove trust"
            )
        return ""


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=OPERATOR, description="Serves MLModels and rolls them out.")
    parser.add_argument(
        "--allow-unsafe-models",
        action="store_true",
        help="serve models with spec.model.trust: unsafe, whose files may run any code in their pods",
    )
    parser.add_argument(
        "--signing-keys",
        type=Path,
        metavar="FILE",
        help="serve models with spec.model.trust: signed, if one of these public keys (PEM) has signed them",
    )
    return parser.parse_args(argv)


def _keys(path: Path) -> str:
    """The public keys of a file as PEM, without what is between them: they become part of a pod."""
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise SettingsError(
            f"the file of --signing-keys cannot be read ({error.strerror}): mount one with public keys, PEM"
        ) from None
    except UnicodeDecodeError:
        text = ""
    if "PRIVATE KEY" in text:
        raise SettingsError(
            "the file of --signing-keys holds a private key: give the public one, which `openssl pkey -pubout` prints"
        )
    found = _PUBLIC_KEY.findall(text)
    if not found or len(text) > MAX_KEYS:
        raise SettingsError(
            f"the file of --signing-keys must hold public keys as PEM, {MAX_KEYS // 1024} KiB at most: give what"
            " `openssl pkey -pubout` prints, one after the other"
        )
    return "\n".join(found) + "\n"
