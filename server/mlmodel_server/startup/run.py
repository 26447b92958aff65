"""``mlmodel-server``: load one model, check it, serve it.

Exit codes: 0 drained after SIGTERM; 2 wrong arguments; 3 this model can never work; 4 its source is not reachable now.
The reason is one line on stderr and in the termination message of the pod.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from mlmodel_server.errors import EXIT_CODES, MLModelError
from mlmodel_server.startup import cpu, log, options, workers

TERMINATION_LOG = Path("/dev/termination-log")
MAX_REASON = 1000

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code."""
    began = time.monotonic()
    arguments = options.parse(argv)
    log.configure()
    limit = cpu.quota()
    arguments.workers = arguments.workers or limit or 1
    arguments.threads = cpu.restrict(arguments.workers, limit)
    try:
        code = _run(arguments, began)
    except Exception as error:
        return _failed(error)
    except KeyboardInterrupt:  # while it was loading
        return 130
    if code == 0:
        logger.info("drained")
    return code


def _run(arguments: argparse.Namespace, began: float) -> int:
    """Load the model, fork the workers, and return their exit code. Imports numpy and more: after the CPU is shared."""
    from mlmodel_server.rest.app import Application
    from mlmodel_server.serving.pipeline import Pipeline
    from mlmodel_server.startup.assemble import assemble, can_be_shared, fetch
    from mlmodel_server.startup.server import listen, run

    loaded = fetch(arguments)
    shared = can_be_shared(loaded, arguments.threads)
    if not shared and arguments.workers > 1:
        values = {"format": loaded.format, "threads": arguments.threads}
        logger.warning("the model cannot be shared between processes, one worker serves", extra=values)
        arguments.workers = 1

    def application() -> Application:
        return Application(Pipeline(assemble(arguments, loaded)))

    made = application() if shared else None
    if shared:
        del loaded  # its files, of which nothing is needed any more
    socket = listen(arguments.host, arguments.port)

    def serve(slot: int, ready: Callable[[], None]) -> int:
        return _coded(lambda: run(made or application(), socket, slot, ready))

    def started() -> None:
        seconds, port = time.monotonic() - began, socket.getsockname()[1]
        logger.info("ready", extra={"model": arguments.name, "port": port, "seconds": seconds})

    return workers.run(arguments.workers, serve, started)


def _coded(serve: Callable[[], None]) -> int:
    """What a worker does, as an exit code."""
    try:
        serve()
    except Exception as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """Tell the reason, and return the exit code for it."""
    if isinstance(error, MLModelError):
        return _fail(str(error), EXIT_CODES.get(type(error), 1))
    return _fail(f"internal error: {type(error).__name__}", 1)  # a bug; a traceback could hold paths and data


def _fail(reason: str, code: int) -> int:
    line = " ".join(reason.split())[:MAX_REASON]
    logger.error("%s", line)
    chosen = os.environ.get("MLMODEL_TERMINATION_LOG")
    path = Path(chosen) if chosen else TERMINATION_LOG
    if chosen or path.exists():  # outside a pod there is none
        try:
            path.write_text(line, "utf-8")
        except OSError as error:
            logger.warning("termination message not written", extra={"error": error.strerror})
    return code
