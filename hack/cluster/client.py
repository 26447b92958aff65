"""Read objects of a cluster in this process: a test that polls would start kubectl several times a second."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Any

import yaml

from hack.cluster.report import ClusterError

_SECONDS = 30.0


class Client:
    """Reads with the client certificate in a kubeconfig, over one connection for each thread."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._host = cluster["server"].removeprefix("https://")
        self._context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
        with tempfile.NamedTemporaryFile("w") as pair:
            pair.write(_decoded(user["client-certificate-data"]) + "\n" + _decoded(user["client-key-data"]))
            pair.flush()
            self._context.load_cert_chain(pair.name)
        self._local = threading.local()

    def get(self, path: str) -> Any:
        """Return the object or list at a path of the API, as ``/api/v1/namespaces/NAME/pods``.

        Raises:
            ClusterError: the API server does not answer, or not with 200.
        """
        try:
            return self._get(path)
        except (OSError, http.client.HTTPException):
            self._connection().close()  # the API server closes idle connections; the next request opens it again
        try:
            return self._get(path)
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"GET {path}: {str(error) or type(error).__name__}") from error

    def _get(self, path: str) -> Any:
        connection = self._connection()
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise ClusterError(f"GET {path} answers {response.status}: {body[:400].decode(errors='replace')}")
        return json.loads(body)

    def _connection(self) -> http.client.HTTPSConnection:
        """Return the connection of this thread."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPSConnection(self._host, timeout=_SECONDS, context=self._context)
        connection: http.client.HTTPSConnection = self._local.connection
        return connection


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
