"""Open a package with code as a server does, in a fresh process: this one has imported more than a server will.

A module that the package lacks, a class that was changed since the model was fitted, or an answer that depends on the
state of the session shows here, and not in the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings

import msgspec

import mlmodel_server
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import MLModelError, UsageError
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.texts import one_line

_REFUSED = 3
_MAX_REASON = 2_000


def check(files: dict[str, bytes]) -> None:
    """Raise :class:`UsageError` unless a server opens the package and answers its golden examples."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(mlmodel_server.__file__)))
    with tempfile.TemporaryDirectory(prefix="mlmodel-") as empty:
        finished = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=msgspec.msgpack.encode(files),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=empty,
            env={**os.environ, "PYTHONPATH": here},
            check=False,
        )
    if finished.returncode:
        lines = finished.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines and finished.returncode == _REFUSED else f"exit code {finished.returncode}"
        raise UsageError(f"a server would not open the package: {one_line(why, _MAX_REASON)}")


def open_as_a_server(files: dict[str, bytes], *, trusted: bool) -> None:
    """Open a package in this process, and run its self-test; code of the file may run only if it is ``trusted``.

    Raise :class:`RefusedModel` as a server does.
    """
    loaded = load(Memory(files), trust="unsafe" if trusted else "strict", allow_unsafe=trusted)
    assert loaded.manifest is not None, "a package has a description"
    selftest.run(model_of(loaded.opened, loaded.manifest), loaded.manifest.golden, loaded.manifest.libraries)


def main() -> int:
    """Open the package on stdin. Return 0 if it answers its golden examples, 3 with the reason on stderr if not."""
    warnings.simplefilter("ignore")
    files = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=dict[str, bytes])
    try:
        open_as_a_server(files, trusted=True)  # the author's own code, on the author's machine
    except MLModelError as error:
        sys.stderr.write(f"\n{error}\n")
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
