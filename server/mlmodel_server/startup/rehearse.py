"""The process of the rehearsal, from the arguments of the server."""

from __future__ import annotations

import argparse
import socket as sockets
from collections.abc import Callable

from mlmodel_server.observe.figures import Figures
from mlmodel_server.observe.rollout import RolloutLabels
from mlmodel_server.rehearsal import process
from mlmodel_server.rehearsal.progress import Progress
from mlmodel_server.rehearsal.sample import Sample
from mlmodel_server.startup.assemble import revision_of
from mlmodel_server.startup.server import listen

SERVICE_PORT = 8080
"""Port of the Service of a revision, whose name is that of the model and the revision."""

_ALL = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # how this machine reaches itself


def process_of(
    arguments: argparse.Namespace,
    sample: Sample | None,
    labels: RolloutLabels,
    figures: Figures,
    sha256: str,
    socket: sockets.socket,
) -> Callable[[], int]:
    """Return what the process does. ``socket`` is that of the workers, ``sha256`` the digest of the model."""
    host = arguments.host.strip("[]")
    settings = process.Settings(
        revision=revision_of(arguments, sha256),
        own=(_ALL.get(host, host), socket.getsockname()[1]),
        timeout=arguments.timeout,
        file=arguments.rehearsal,
        api_keys=arguments.api_keys,
        sample=sample,
        labels=labels,
        figures=figures,
        candidate=lambda revision: (f"{arguments.name}-{revision}", SERVICE_PORT),
    )
    progress = Progress()

    def work() -> int:
        socket.close()  # else clients could connect to a port on which no worker listens any more
        return process.run(
            settings, progress, lambda: listen(arguments.host, arguments.rehearsal_port, "--rehearsal-port")
        )

    return work
