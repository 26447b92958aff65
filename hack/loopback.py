"""A server on this machine that rehearses: it reaches the revisions on ports of loopback, and not at their Services."""

from __future__ import annotations

import json
from collections.abc import Mapping

PROGRAM = """
import json, sys
from dataclasses import replace
from mlmodel_server.rehearsal import process
from mlmodel_server.startup import isolate, run, workers
ports = json.loads(sys.argv.pop(1))
isolate.has_credentials = lambda _: False  # else it would start as another program
workers.HELPER_SECONDS = 0.2
original = process.run
def on_loopback(settings, memory, listen):
    return original(replace(settings, candidate=lambda revision: ("127.0.0.1", ports[revision])), memory, listen)
process.run = on_loopback
sys.exit(run.main(sys.argv[1:]))
"""


def program(ports: Mapping[str, int]) -> tuple[str, str, str]:
    """Return the arguments of Python that start the server, before its own arguments; ``ports`` are by revision."""
    return "-c", PROGRAM, json.dumps(ports)


def candidate_line(revision: str, nonce: str) -> str:
    """Return the file that names the candidate of a rehearsal; ``nonce`` is one hexadecimal digit."""
    return f"candidate {revision} {nonce * 64} -\n"
