"""Accounts with real tokens on the API server: what each may write, and which policy rejects the rest."""

from __future__ import annotations

import base64
import json
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml

from hack.cluster import Cluster, ClusterError
from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime.resource import CONFIG_MAPS, CONTROLLER_REVISIONS, DEPLOYMENTS, PODS, SERVICES

Body = dict[str, Any]
KINDS = {r.kind.lower(): r for r in (CONFIG_MAPS, CONTROLLER_REVISIONS, DEPLOYMENTS, MODELS, PODS, SERVICES)}


class Account:
    """kubectl with the token of a service account, as who has stolen it would use it."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, folder: Path) -> None:
        self._cluster = cluster
        self._token = token = cluster.kubectl("-n", namespace, "create", "token", name).strip()
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        config["users"] = [{"name": "account", "user": {"token": token}}]
        config["contexts"][0]["context"]["user"] = "account"
        place = config["clusters"][0]["cluster"]
        self._server = place["server"]
        authority = base64.b64decode(place["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        self.config = folder / f"{namespace}-{name}.kubeconfig"
        self.config.write_text(yaml.safe_dump(config))

    def kubectl(self, *args: str, input: str | None = None) -> str:
        """Run kubectl; raise ClusterError."""
        return self._cluster.kubectl("--kubeconfig", str(self.config), *args, input=input)

    def apply(self, body: Body) -> str:
        """Server-side apply as a dry run, as the operator does it; return why it is rejected, empty if it is not."""
        options = ("--server-side", "--dry-run=server", "--force-conflicts", "--validate=false")
        return self._rejection("apply", *options, "--field-manager=mlmodel-operator", "-f", "-", input=json.dumps(body))

    def create(self, body: Body) -> str:
        """Create as a dry run."""
        return self._rejection("create", "--dry-run=server", "--validate=false", "-f", "-", input=json.dumps(body))

    def patch(self, namespace: str, target: str, change: Body, kind: str = "merge") -> str:
        """Patch as a dry run; ``target`` is KIND/NAME, ``kind`` that of the patch. kubectl would read the object first,
        which the operator may not do with pods."""
        plural, name = target.split("/")
        path = KINDS[plural].path(namespace, name) + "?dryRun=All"
        types = {"merge": "application/merge-patch+json", "strategic": "application/strategic-merge-patch+json"}
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": types[kind]}
        request = Request(self._server + path, json.dumps(change).encode(), headers, method="PATCH")
        try:
            urlopen(request, context=self._tls, timeout=30).close()  # the API server of the test
        except HTTPError as error:
            return str(json.loads(error.read())["message"])
        return ""

    def delete(self, namespace: str, target: str) -> str:
        """Delete as a dry run."""
        return self._rejection("-n", namespace, "delete", target, "--dry-run=server")

    def _rejection(self, *args: str, input: str | None = None) -> str:
        try:
            self.kubectl(*args, input=input)
        except ClusterError as error:
            return str(error)
        return ""


def policy_of(rejection: str) -> str:
    """Return the name of the policy that rejected a request; the whole text if none did."""
    found = re.search(r"ValidatingAdmissionPolicy '([a-z-]+)' with binding '\1' denied request", rejection)
    return found.group(1) if found else rejection or "not rejected"
