"""Settings from the environment and the command line, checked once at start.

The environment has the images and the identity of the operator; the command line grants rights, which are easy to see
there in a review of the manifest.
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
"""Maximum size in bytes: the keys are part of every pod that verifies signatures."""

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----\s[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----")


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and says what to set."""


@dataclass(frozen=True)
class Settings:
    """Images of the pods that the operator creates, its own identity, and its rights."""

    server_image: str
    router_image: str
    pod_namespace: str
    pod_name: str
    log_level: str = "INFO"
    allow_unsafe_models: bool = False
    signing_keys: str = ""
    """Public keys to verify signatures of models, as PEM; empty: the operator may not serve signed models."""
    namespaces: tuple[str, ...] = ()
    """The namespaces in which it works; empty: all."""
    network_policies: bool = False
    """Whether each model gets NetworkPolicies."""

    @classmethod
    def read(cls, argv: Sequence[str] = (), env: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings of ``SERVER_IMAGE``, ``ROUTER_IMAGE``, ``POD_NAMESPACE``, ``POD_NAME`` and, optionally,
        ``LOG_LEVEL``, ``WATCH_NAMESPACES`` and ``NETWORK_POLICIES``, and of the arguments ``--allow-unsafe-models`` and
        ``--signing-keys FILE``.

        Raise SettingsError with one sentence; an unknown argument exits with code 2, as argparse does.
        """

        def require(name: str, example: str) -> str:
            value = env.get(name, "").strip()
            if not value:
                raise SettingsError(f"the environment variable {name} is not set: set it to {example}")
            return value

        arguments = _arguments(argv)
        level = env.get("LOG_LEVEL", "").strip().upper() or "INFO"
        if level not in LOG_LEVELS:
            raise SettingsError(f"LOG_LEVEL is {level!r}: set it to one of {', '.join(LOG_LEVELS)}")
        return cls(
            server_image=require("SERVER_IMAGE", "the image of the model server, for example mlmodel-server:0.1.0"),
            router_image=require("ROUTER_IMAGE", "the image of the router, for example mlmodel-router:0.1.0"),
            pod_namespace=require("POD_NAMESPACE", "the namespace of this pod (fieldRef metadata.namespace)"),
            pod_name=require("POD_NAME", "the name of this pod (fieldRef metadata.name)"),
            log_level=level,
            allow_unsafe_models=arguments.allow_unsafe_models,
            signing_keys=_keys(arguments.signing_keys) if arguments.signing_keys else "",
            namespaces=namespaces_of(env.get("WATCH_NAMESPACES", "")),
            network_policies=_switch(env, "NETWORK_POLICIES"),
        )

    def denial(self, trust: Trust) -> str:
        """Return why the operator may not serve models with this trust, and what to change; empty if it may."""
        if trust == "unsafe" and not self.allow_unsafe_models:
            return (
                "spec.model.trust is unsafe, and this operator may not serve unsafe models: save the model as skops or"
                " ONNX and remove spec.model.trust, or ask an administrator to start the operator with"
                " --allow-unsafe-models"
            )
        if trust == "signed" and not self.signing_keys:
            return (
                "spec.model.trust is signed, and this operator has no keys to verify signatures: ask an administrator"
                " to start the operator with --signing-keys FILE (public keys as PEM), or remove spec.model.trust"
            )
        return ""


def namespaces_of(text: str, name: str = "WATCH_NAMESPACES") -> tuple[str, ...]:
    """Return the namespaces of a list with commas, each once; ``name`` is that of the setting, for messages.

    Raise SettingsError. A list without a name is an error: it could mean all namespaces or none.
    """
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    wrong = [word for word in names if not _NAMESPACE.fullmatch(word)]
    if wrong or (text.strip() and not names):
        raise SettingsError(
            f"{name} has {wrong[0] if wrong else text!r}: set it to names of namespaces with commas between them, for"
            " example shop,bank; without it the operator works in all namespaces"
        )
    return names


def _switch(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name, "").strip().lower() or "false"
    if value not in ("true", "false"):
        raise SettingsError(f"{name} is {value!r}: set it to true or false")
    return value == "true"


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=OPERATOR, description="Kubernetes operator that serves MLModels and rolls out their versions."
    )
    parser.add_argument(
        "--allow-unsafe-models",
        action="store_true",
        help="permit spec.model.trust: unsafe, which lets a model file run any code in its pod (default: off)",
    )
    parser.add_argument(
        "--signing-keys",
        type=Path,
        metavar="FILE",
        help="permit spec.model.trust: signed, for models that a public key in FILE has signed; keys as PEM, at most"
        f" {MAX_KEYS // 1024} KiB (default: off)",
    )
    return parser.parse_args(argv)


def _keys(path: Path) -> str:
    """Return the public keys of a file as PEM, without the text between them: they become part of a pod."""
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise SettingsError(
            f"--signing-keys: the file cannot be read ({error.strerror}): give a file with public keys as PEM"
        ) from None
    except UnicodeDecodeError:
        text = ""
    if "PRIVATE KEY" in text:
        raise SettingsError(
            "--signing-keys: the file contains a private key: give the public key, which `openssl pkey -pubout` prints"
        )
    keys = _PUBLIC_KEY.findall(text)
    if not keys or len(text) > MAX_KEYS:
        raise SettingsError(
            f"--signing-keys: the file must contain public keys as PEM, at most {MAX_KEYS // 1024} KiB: give what"
            " `openssl pkey -pubout` prints, one key after the other"
        )
    return "\n".join(keys) + "\n"
