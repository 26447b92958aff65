"""Compile in a child process, so that leaks and crashes of the converter stay there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from mlmodel_server.compile.verdict import Verdict
from mlmodel_server.compile.verify import compile_model
from mlmodel_server.formats.opened import Functions
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

LIMIT = 60.0
"""Maximum seconds for one model."""


class _Result(msgspec.Struct, frozen=True):
    verdict: Verdict
    onnx: bytes | None


def compile_in_child(
    estimator: Any,
    signature: Signature,
    table: Array,
    *,
    seconds: float = 0.3,
    functions: Functions | None = None,
    limit: float = LIMIT,
) -> tuple[Verdict, bytes | None]:
    """Run :func:`compile_model` in a forked process, which is killed after ``limit`` seconds; never raise.

    Call this before the process starts threads.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    options = {"seconds": seconds, "functions": functions}
    try:
        context = multiprocessing.get_context("fork")  # shares the estimator instead of sending it
        process = context.Process(target=_child, args=(sender, estimator, signature, table, options), daemon=True)
        process.start()
    except (OSError, ValueError) as error:  # no memory or process left, or a system that cannot fork
        return Verdict("original", f"compiling did not start ({type(error).__name__})"), None
    sender.close()
    try:
        if not receiver.poll(limit):
            return Verdict("original", f"compiling took longer than {limit:g} s"), None
        result = msgspec.msgpack.decode(receiver.recv_bytes(), type=_Result)
        return result.verdict, result.onnx
    except EOFError:
        process.join()
        return Verdict("original", f"compiling crashed ({_how(process.exitcode)})"), None
    finally:
        process.kill()
        process.join()
        process.close()
        receiver.close()


def _child(sender: Connection, estimator: Any, signature: Signature, table: Array, options: dict[str, Any]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # converters and native libraries print, even values of the model
    os.dup2(null, 2)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # without memory, the kernel kills this process and not the server
    with contextlib.suppress(ImportError):
        # OpenMP's threads are not in this process, and a call that wants them never returns. A server has one thread.
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(1)
    verdict, onnx = compile_model(estimator, signature, table, **options)
    sender.send_bytes(msgspec.msgpack.encode(_Result(verdict, onnx)))


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name
