"""``mlmodel-server``: load one model, check it, serve it.

Exit codes: 0 drained after SIGTERM; 2 wrong arguments; 3 this model can never work; 4 its source is not reachable now.
The reason is one line on stderr and in the termination message of the pod.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import cpu
from .errors import EXIT_CODES, MLModelError

TERMINATION_LOG = Path("/dev/termination-log")
MAX_REASON = 1000

log = logging.getLogger("mlmodel")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    def label(text: str) -> str:
        if not re.fullmatch(r"[!-~]{0,128}", text):  # it becomes a header and part of a path
            raise argparse.ArgumentTypeError("use up to 128 visible ASCII characters without spaces")
        return text

    def digest(text: str) -> str:
        if not re.fullmatch(r"([0-9a-fA-F]{64})?", text):
            raise argparse.ArgumentTypeError("give the 64 hexadecimal digits of a SHA-256")
        return text.lower()

    parser = argparse.ArgumentParser(prog="mlmodel-server", description="Serve one model over the v2 protocol.")
    parser.add_argument("--name", required=True, type=label, help="model name, part of the address")
    parser.add_argument("--uri", required=True, help="builtin://, configmap://, pvc:// or https://")
    parser.add_argument("--path", type=Path, help="where a configmap:// or pvc:// is mounted")
    parser.add_argument("--model-version", default="", type=label, help="label of this version")
    parser.add_argument("--revision", default="", type=label, help="revision of the MLModel")
    parser.add_argument("--sha256", default="", type=digest, help="of the model file, or of a package's mlmodel.json")
    parser.add_argument("--format", default="auto", choices=("auto", "skops", "joblib"))
    parser.add_argument("--host", default="", help="address to listen on (all)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--workers", type=int, default=cpu.quota() or 1, help="processes (the CPU limit, 1 without one)"
    )
    parser.add_argument("--grpc-port", type=int, default=0, help="to answer gRPC on as well (0: not at all)")
    parser.add_argument("--feedback-key", type=Path, metavar="FILE", help="secret against forged prediction ids")
    parser.add_argument("--shadow", default="", metavar="URL", help="of another version that gets copies of requests")
    parser.add_argument("--shadow-percent", type=float, default=10.0, metavar="PERCENT", help="of the requests (10)")
    parser.add_argument("--payload-log", type=Path, metavar="DIR", help="to write a sample of requests and answers to")
    parser.add_argument("--payload-percent", type=float, default=1.0, metavar="PERCENT", help="of the requests (1)")
    parser.add_argument("--payload-format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--api-keys", type=Path, metavar="FILE", help="with a line 'NAME: SHA256' for each key")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM; read again on change")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument("--max-body", type=int, default=8 << 20, metavar="BYTES", help="of one request (8 MiB)")
    parser.add_argument("--max-rows", type=int, default=100_000, metavar="ROWS", help="of one request (100000)")
    parser.add_argument("--batch-rows", type=int, default=64, metavar="ROWS", help="predicted together, 1 is off (64)")
    parser.add_argument("--queue", type=int, default=256, metavar="REQUESTS", help="that may wait; more get 429 (256)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for a request (10)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code."""
    started = time.monotonic()
    arguments = _arguments(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    cpu.restrict()
    try:
        from . import workers
        from .assemble import assemble
        from .serve import listen, run

        serving = assemble(arguments)
        socket = listen(arguments.host, arguments.port)
        port = socket.getsockname()[1]

        def ready() -> None:
            seconds = time.monotonic() - started
            log.info("ready in %.1f s: %s %s on port %d", seconds, serving.name, serving.version, port)

        code = workers.run(arguments.workers, lambda slot: _coded(lambda: run(serving, socket, slot)), ready)
    except Exception as error:
        return _failed(error)
    except KeyboardInterrupt:  # while it was loading
        return 130
    if code == 0:
        log.info("drained")
    return code


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
    log.error("%s", line)
    chosen = os.environ.get("MLMODEL_TERMINATION_LOG")
    path = Path(chosen) if chosen else TERMINATION_LOG
    if chosen or path.exists():  # outside a pod there is none
        try:
            path.write_text(line, "utf-8")
        except OSError as error:
            log.warning("the termination message cannot be written (%s)", error.strerror)
    return code


if __name__ == "__main__":
    sys.exit(main())
