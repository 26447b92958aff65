"""``mlmodel-server``: load one model, check it, serve it.

Exit codes: 0 drained after SIGTERM; 2 wrong arguments; 3 the model can never work; 4 the source cannot be reached now.
The reason is the last line on stderr and the termination message of the pod.
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
"""Maximum number of characters of the reason."""

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM, and return the exit code."""
    start = time.monotonic()
    arguments = options.parse(argv)
    log.configure()
    limit = cpu.quota()
    arguments.workers = arguments.workers or limit or 1
    arguments.threads = cpu.restrict(arguments.workers, limit)
    try:
        code = _run(arguments, start)
    except Exception as error:
        return _fail(error)
    except KeyboardInterrupt:  # while the model was loading
        return 130
    if code == 0:
        logger.info("drained")
    return code


def _run(arguments: argparse.Namespace, start: float) -> int:
    """Load the model, fork the workers, and return their exit code. Import numpy only after :func:`cpu.restrict`."""
    from mlmodel_server.rest.app import Application
    from mlmodel_server.serving.pipeline import Pipeline
    from mlmodel_server.startup.assemble import assemble, can_be_shared, fetch
    from mlmodel_server.startup.server import listen, run

    loaded = fetch(arguments)
    shared = can_be_shared(loaded, arguments.threads)
    if not shared and arguments.workers > 1:
        logger.warning(
            "model cannot be shared, one worker serves", extra={"format": loaded.format, "threads": arguments.threads}
        )
        arguments.workers = 1

    def application() -> Application:
        return Application(Pipeline(assemble(arguments, loaded)))

    before_fork = application() if shared else None
    if shared:
        del loaded  # frees the files, which are not needed any more
    socket = listen(arguments.host, arguments.port)

    def serve(slot: int, ready: Callable[[], None]) -> int:
        return _exit_code(lambda: run(before_fork or application(), socket, slot, ready))

    def on_ready() -> None:
        seconds, port = time.monotonic() - start, socket.getsockname()[1]
        logger.info("ready", extra={"model": arguments.name, "port": port, "seconds": seconds})

    return workers.run(arguments.workers, serve, on_ready)


def _exit_code(serve: Callable[[], None]) -> int:
    """Run a worker, and return its exit code."""
    try:
        serve()
    except Exception as error:
        return _fail(error)
    return 0


def _fail(error: Exception) -> int:
    """Report the reason of an error, and return its exit code."""
    if isinstance(error, MLModelError):
        return _report(str(error), EXIT_CODES.get(type(error), 1))
    return _report(f"internal error: {type(error).__name__}", 1)  # a bug; a traceback could contain paths and data


def _report(reason: str, code: int) -> int:
    # It may quote the name of a file, or what a library says about its content, and ends up in terminals.
    line = log.printable(" ".join(reason.split()))[:MAX_REASON]
    variable = os.environ.get("MLMODEL_TERMINATION_LOG")
    path = Path(variable) if variable else TERMINATION_LOG
    if variable or path.exists():  # it exists only in a pod
        try:
            path.write_text(line, "utf-8")
        except OSError as error:
            logger.warning("termination message not written", extra={"error": error.strerror})
    logger.error("server failed", extra={"exit_code": code, "error": line})
    return code
