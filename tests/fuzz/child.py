"""Open and predict artefacts from standard input, one after the other, as a server in ``strict`` does.

Each is a task (format, bytes, rows) of :mod:`tests.fixtures.fuzzing`.
"""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from typing import Any

import joblib
import numpy as np
from skops import io as skops

from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.trust import open_artefact
from tests.fixtures.fuzzing import tasks

METHODS = ("predict", "predict_proba", "decision_function", "transform", "score_samples", "kneighbors")


def _digest(output: Any) -> bytes:
    if isinstance(output, (list, tuple)):
        return b"".join(map(_digest, output))
    if hasattr(output, "toarray"):
        output = output.toarray()
    array = np.asarray(output)
    content = repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
    return f"{array.dtype}{array.shape}".encode() + content


def answers(model: Any, rows: Any) -> str:
    """Return a digest of everything that the model answers; an error counts as an answer."""
    digest, words = hashlib.sha256(), []
    for method in METHODS:
        try:
            function = getattr(model, method)
        except AttributeError:
            continue
        try:
            answer = _digest(function(rows))
            words.append("+")
        except Exception as error:
            answer = type(error).__name__.encode()
            words.append("M" if isinstance(error, MemoryError) else "-")
        digest.update(method.encode() + answer)
    return f"{''.join(words)}:{digest.hexdigest()[:16]}"


def say(*words: Any) -> None:
    """Write a line to the parent."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def run(kind: str, data: bytes, rows: Any) -> None:
    """Open one artefact, and compare its answers with the library's."""
    if kind == "skops":
        say("make")
        try:
            with np.errstate(all="ignore"):
                data = skops.dumps(joblib.load(io.BytesIO(data)))
        except Exception:
            say("skipped")
            return
    say("open")
    try:
        model = open_artefact(data, f"model.{kind}")
    except RefusedModel as refused:
        say("refused", str(refused)[:160].replace("\n", " "))
        return
    say("predict")
    own = answers(model, rows)
    say("library")
    try:
        if kind == "skops":
            library = answers(skops.loads(data, trusted=skops.get_untrusted_types(data=data)), rows)
        else:
            library = answers(joblib.load(io.BytesIO(data)), rows)
    except Exception as error:
        library = type(error).__name__
    say("answered", own, library)


def main() -> None:
    """Read artefacts until the input ends."""
    warnings.simplefilter("ignore")
    say("ready")
    for kind, data, rows in tasks():
        run(kind, data, rows)


if __name__ == "__main__":
    main()
