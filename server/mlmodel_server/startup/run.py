"""``mlmodel-server``: load one model, check it, serve it.

A model in a store is fetched by another process, which ends first: an init container in the cluster (``--fetch-to``),
else a child. The process that opens the model and serves has no credentials.

Exit codes: 0 drained after SIGTERM; 2 wrong arguments; 3 the model can never work; 4 the source cannot be reached now.
The reason is the last line on stderr and the termination message of the pod.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from mlmodel_server.errors import EXIT_CODES, MLModelError, UsageError
from mlmodel_server.loading.uris import is_fetched, without_token
from mlmodel_server.startup import cpu, isolate, log, options, workers
from mlmodel_server.texts import one_line

TERMINATION_LOG = Path("/dev/termination-log")
MAX_REASON = 1000
"""Maximum number of characters of the reason."""

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM, and return the exit code."""
    start = time.monotonic()
    given = sys.argv[1:] if argv is None else argv
    arguments = options.parse(given)
    log.configure()
    try:
        if arguments.fetch_to:
            with isolate.ended_by_sigterm():
                return _fetch(arguments, arguments.fetch_to)
        if is_fetched(arguments.uri, mounted=arguments.path is not None) and not arguments.fetched:
            return _fetch_and_start_again(arguments, given)
        if isolate.has_credentials(os.environ):
            isolate.start_again(given)
        code = _serve(arguments, start)
    except Exception as error:
        return _fail(error)
    except KeyboardInterrupt:  # while the model was loading
        return 130
    if code == 0:
        logger.info("drained")
    return code


def _fetch(arguments: argparse.Namespace, directory: Path) -> int:
    """Fetch the model into ``directory``, and return the exit code. No other function uses credentials."""
    from mlmodel_server.loading.sources import fetch, remote

    started = time.monotonic()
    try:
        if not is_fetched(arguments.uri, mounted=False):
            raise UsageError("--fetch-to requires a --uri with https://, s3://, gs://, az:// or oci://")
        source = remote(arguments.uri, arguments.sha256)
        size = fetch(source, arguments.sha256, directory, everything=arguments.trust == "signed")
    except Exception as error:
        return _fail(error)
    logger.info("fetched", extra={"entry": source.entry, "bytes": size, "seconds": time.monotonic() - started})
    return 0


def _fetch_and_start_again(arguments: argparse.Namespace, given: Sequence[str]) -> int:
    """Fetch the model in a child, then serve it in a process without credentials; return the exit code of a failure."""
    directory = Path(isolate.private_directory())
    uri = without_token(arguments.uri)
    argv = [word.replace(arguments.uri, uri) for word in given]
    try:
        with isolate.ended_by_sigterm():
            code = isolate.run_in_child(lambda: _fetch(arguments, directory))
        if code == 0:
            isolate.start_again([*argv, "--fetched", str(directory), "--remove-fetched"])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if code < 0:
        return _report(f"the process that fetches the model was killed ({signal.Signals(-code).name})", 1)
    return code


def _serve(arguments: argparse.Namespace, start: float) -> int:
    """Serve in an empty directory, with the threads that the CPU limit permits."""
    if "://" not in arguments.uri and os.path.exists(arguments.uri):
        arguments.uri = os.path.abspath(arguments.uri)
    isolate.enter_empty_directory()
    place = unquote(arguments.uri.removeprefix("file://"))
    for directory in filter(os.path.isabs, (place, os.path.dirname(place), str(arguments.path))):
        isolate.forbid_imports_from(directory)
    limit = cpu.quota()
    arguments.workers = arguments.workers or limit or 1
    arguments.threads = cpu.restrict(arguments.workers, limit)
    return _run(arguments, start)


def _run(arguments: argparse.Namespace, start: float) -> int:
    """Load the model, fork the workers, and return their exit code. Import numpy only after :func:`cpu.restrict`."""
    from mlmodel_server.rest.app import Application
    from mlmodel_server.serving.pipeline import Pipeline
    from mlmodel_server.startup.assemble import (
        assemble,
        can_be_shared,
        copy_of_call,
        figures_of,
        labels_of,
        read,
        sample_of,
    )
    from mlmodel_server.startup.rehearse import process_of
    from mlmodel_server.startup.server import listen, run

    try:
        loaded = read(arguments)
    finally:
        if arguments.remove_fetched:  # all that is opened is in memory
            shutil.rmtree(arguments.fetched, ignore_errors=True)
    shared = can_be_shared(loaded, arguments.threads)
    if not shared and arguments.workers > 1:
        logger.warning(
            "model cannot be shared, one worker serves", extra={"format": loaded.format, "threads": arguments.threads}
        )
        arguments.workers = 1

    sha256 = loaded.sha256
    sample, labels = sample_of(arguments), labels_of(arguments, sha256)
    figures = figures_of(arguments, sha256)

    def application() -> Application:
        serving = assemble(arguments, loaded, sample, labels, figures if arguments.rehearsal else None)
        return Application(Pipeline(serving), copy_of_call(serving))

    before_fork = application() if shared else None
    if shared:
        del loaded  # frees the files, which are not needed any more
    socket = listen(arguments.host, arguments.port)

    def serve(slot: int, ready: Callable[[], None]) -> int:
        return _exit_code(lambda: run(before_fork or application(), socket, slot, ready))

    def on_ready() -> None:
        seconds, port = time.monotonic() - start, socket.getsockname()[1]
        url = _url(arguments.host, port, bool(arguments.tls_cert))
        logger.info("ready", extra={"model": arguments.name, "port": port, "seconds": seconds, "url": url})

    beside = process_of(arguments, sample, labels, figures, sha256, socket) if arguments.rehearsal else None
    return workers.run(arguments.workers, serve, on_ready, beside)


def _url(host: str, port: int, secure: bool) -> str:
    """Return the address of the page, as a browser on this machine opens it."""
    name = host.strip("[]")
    if name in ("", "0.0.0.0", "::"):  # noqa: S104  # all addresses of this machine
        name = "localhost"
    return f"{'https' if secure else 'http'}://{f'[{name}]' if ':' in name else name}:{port}/"


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
    # It may have the name of a file, and ends up in terminals.
    line = one_line(reason, MAX_REASON)
    variable = os.environ.get("MLMODEL_TERMINATION_LOG")
    path = Path(variable) if variable else TERMINATION_LOG
    if variable or path.exists():  # it exists only in a pod
        try:
            path.write_text(line, "utf-8")
        except OSError as error:
            logger.warning("termination message not written", extra={"error": error.strerror})
    logger.error("server failed", extra={"exit_code": code, "error": line})
    return code
