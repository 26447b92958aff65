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
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from . import cpu
from .errors import EXIT_CODES, MLModelError

if TYPE_CHECKING:
    from .serving import Serving

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
    parser.add_argument("--workers", type=int, default=0, help="processes (the CPU limit, 1 without one)")
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
        serving = prepare_serving(arguments)
        from . import workers
        from .serve import listen, run

        socket = listen(arguments.host, arguments.port)
        log.info("ready in %.1f s: %s %s on port %d", time.monotonic() - started, serving.name, serving.version,
                 socket.getsockname()[1])  # fmt: skip

        def serve(_slot: int) -> int:
            run(serving, socket)
            return 0

        code = workers.run(arguments.workers or cpu.quota() or 1, serve, lambda _slot: None)
    except MLModelError as error:
        return _fail(str(error), EXIT_CODES.get(type(error), 1))
    except Exception as error:  # a bug: still no traceback, which could hold paths and data
        return _fail(f"internal error while starting: {type(error).__name__}", 1)
    if code == 0:
        log.info("drained")
    return code


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


def prepare_serving(arguments: argparse.Namespace) -> Serving:
    """Load, prepare and self-test the model that the arguments name."""
    from .engine import selftest
    from .engine.cost import MEASURED_ROWS, Cost, measure
    from .engine.model import model_of, repeated
    from .loading.load import load
    from .loading.sources import locate
    from .observe.metrics import RequestMetrics
    from .protocol import v2
    from .serving import Limits, Serving

    loaded = load(locate(arguments.uri, arguments.path, arguments.sha256), arguments.sha256, arguments.format)
    warnings.simplefilter("ignore")  # one line per request of what nobody reads
    described = loaded.manifest
    model = model_of(loaded.opened, described)
    if described:
        selftest.run(model, described.golden)
        example = selftest.request_body(described.golden, rows=1)
    else:
        example = selftest.blank_body(model)
    row = model.table(v2.decode(example).inputs)
    rows = repeated(row, MEASURED_ROWS) if model.batchable else row
    wanted = model.wanted(None)
    cost = Cost(measure(lambda: model.predict(row, wanted)), measure(lambda: model.predict(rows, wanted)))
    version = (
        arguments.model_version
        or (described.version if described else "")
        or arguments.sha256[:7]
        or arguments.revision[:7]
        or loaded.sha256[:7]
    )
    return Serving(
        name=arguments.name,
        version=version,
        revision=arguments.revision or loaded.sha256[:8],
        model=model,
        platform=loaded.opened.platform,
        example=example,
        metrics=RequestMetrics(arguments.name, version, arguments.revision or loaded.sha256[:8]),
        cost=cost,
        limits=Limits(
            max_body=arguments.max_body,
            max_rows=arguments.max_rows,
            batch_rows=arguments.batch_rows,
            max_waiting=arguments.queue,
            timeout=arguments.timeout,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
