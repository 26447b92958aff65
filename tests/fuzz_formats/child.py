"""Open and predict files from standard input, one after the other, as a server in ``strict`` does.

Each is a task (format, bytes) of :mod:`tests.fixtures.fuzzing`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import lightgbm
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import xgboost

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import trial
from mlmodel_server.formats.opened import CONTRIBUTIONS, Opened
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.tensors import DTYPES
from tests.fixtures.fuzzing import tasks

ROWS, WIDEST = 5, 1_000_000


def digest(*arrays: Any) -> str:
    """Return a digest of arrays; all NaN are the same."""
    content = hashlib.sha256()
    for array in map(np.asarray, arrays):
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), np.nan, array).astype(array.dtype)
        content.update(f"{array.dtype.kind}{array.shape}".encode())
        content.update(
            repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
        )
    return content.hexdigest()[:16]


def attempt(function: Any) -> str:
    """Return the digest of what ``function`` returns, or the type of what it raises."""
    try:
        return digest(*function())
    except Exception as error:
        return type(error).__name__


def table_of(opened: Opened) -> Any:
    """Return rows for a model: a table, or an array for each input; None if they were too large."""
    assert opened.signature is not None
    random, inputs = np.random.default_rng(3), opened.signature.inputs
    shapes = [[ROWS if size < 0 else size for size in spec.shape] for spec in inputs]
    if sum(map(prod, shapes)) > WIDEST or 0 in map(prod, shapes):  # a server rejects such requests
        return None
    if opened.signature.layout == "columns":
        return random.random((ROWS, len(inputs))) * 3
    arrays = [
        np.full(shape, "a", object)
        if spec.datatype == "BYTES"
        else (random.random(shape) * 3).astype(DTYPES[spec.datatype])
        for spec, shape in zip(inputs, shapes, strict=True)
    ]
    if opened.signature.layout == "matrix":
        return arrays[0]
    return {spec.name: array for spec, array in zip(inputs, arrays, strict=True)}


def served(opened: Opened, table: Any) -> list[str]:
    """Return what the server answers, and what its booster answers by the methods of :func:`library`."""
    assert opened.signature is not None
    names = [spec.name for spec in opened.signature.outputs]
    answers = [attempt(lambda: opened.functions(table, names))]
    explain = opened.explain
    if explain is not None:
        answers.append(attempt(lambda: explain(table, [CONTRIBUTIONS])))
    if opened.booster is not None:
        answers.append(attempt(lambda: raw(opened.booster.booster, table)))
    return answers


def raw(booster: Any, table: Any) -> list[Any]:
    """Return the raw scores of a booster."""
    if isinstance(booster, lightgbm.Booster):
        return [booster.predict(table, num_threads=1), booster.predict(table, raw_score=True, num_threads=1)]
    booster.set_param({"nthread": 1})
    return [booster.predict(xgboost.DMatrix(table, nthread=1), output_margin=True, validate_features=False)]


def library(format: str, data: bytes, opened: Opened, table: Any) -> str:
    """Return what the library answers on the file itself: to compare with the last answer of :func:`served`."""
    if format == "onnx":
        assert opened.signature is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feed = table if isinstance(table, dict) else {opened.signature.inputs[0].name: table}
        names = [spec.name for spec in opened.signature.outputs]

        def run() -> list[Any]:
            outputs = session.run(names, feed)
            return [
                np.array([list(row.values()) for row in output]) if isinstance(output, list) else output
                for output in outputs
            ]

        return attempt(run)
    booster: Any = (
        lightgbm.Booster(model_str=data.decode())
        if format == "lightgbm"
        else xgboost.Booster(model_file=bytearray(data))
    )
    return attempt(lambda: raw(booster, table))


def apart(function: Callable[[], str]) -> str:
    """Return what ``function`` returns in a forked process: the library may crash on a file that was not checked."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(5)
        try:
            os.write(send, function().encode())
        except Exception as error:
            os.write(send, f"not-opened-{type(error).__name__}".encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return answer or "crashed"


def say(*words: Any) -> None:
    """Write a line to the parent."""
    os.write(_REPORTS, (" ".join(map(str, words)) + "\n").encode())


def run(format: str, data: bytes) -> None:
    """Open and predict one file."""
    say("step", "open")
    try:
        opened = load(Memory({"model": data}, "model")).opened
    except RefusedModel as refused:
        say("refused", str(refused)[:200].replace("\n", " "))
        return
    table = table_of(opened)
    if table is None:
        say("wide")
        return
    say("step", "predict")
    answers = served(opened, table)
    say("step", "library", *answers)
    say("answered", *answers, apart(lambda: library(format, data, opened, table)))


def main() -> None:
    """Read files until the input ends."""
    warnings.simplefilter("ignore")
    xgboost.set_config(verbosity=0)
    trial.SECONDS = 6  # a server waits longer, for slow models; a fuzzer has more to do
    say("ready")
    for format, data in tasks():
        run(format, data)


if __name__ == "__main__":
    _REPORTS = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries write to it
    main()
