"""Keep credentials and foreign files out of the process that opens the model and answers requests.

A store is reached by a child that ends before the model is opened. The process that goes on is started anew with an
environment of listed variables, because a process can read the environment that it was started with at any time. It
works in an empty directory, so that no name in a model resolves to a file beside it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from mlmodel_server.errors import UsageError
from mlmodel_server.kernel import stop_with_parent

_CREDENTIALS = ("AWS_", "AZURE_", "GOOGLE_", "OCI_", "MLMODEL_STORAGE_CREDENTIALS")
"""Beginnings of the variables from which stores and registries read their credentials."""

_KEPT = frozenset((
    "HOME", "HOSTNAME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "MLMODEL_SIGNING_KEYS_PEM",
    "MLMODEL_TERMINATION_LOG", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ", "VIRTUAL_ENV",
))  # fmt: skip
_KEPT_BEGINNINGS = (
    "COVERAGE_", "CUDA_", "GOMP_", "KMP_", "LC_", "MALLOC_", "MKL_", "NUMEXPR_", "OMP_", "OPENBLAS_", "ORT_", "OTEL_",
    "PYTHON", "TF_", "TORCH_",
)  # fmt: skip


def has_credentials(environment: Mapping[str, str]) -> bool:
    """Whether a variable belongs to a store or registry."""
    return any(name.upper().startswith(_CREDENTIALS) for name in environment)


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a server needs: those of the system, of libraries that compute, and its own."""
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or (name.startswith(_KEPT_BEGINNINGS) and not name.upper().startswith(_CREDENTIALS))
    }


def start_again(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a server with these arguments and the variables of :func:`kept`."""
    command = [sys.executable, "-P", "-m", "mlmodel_server", *argv]
    os.execve(sys.executable, command, kept(os.environ))  # noqa: S606  # the interpreter that runs


def run_in_child(work: Callable[[], int]) -> int:
    """Run ``work`` in a forked process, and return its exit code; -N if signal N ended it.

    The child does not outlive this process. Call this before the process has threads.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            stop_with_parent(signal.SIGKILL)
            code = work()
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)  # never return into the parent's stack
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so no other process has this pid
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(status)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process inside the context, also the first process of a container, which ignores it."""

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def private_directory() -> str:
    """Return a new temporary directory that no other user can read or write. Raise :class:`UsageError` without one."""
    try:
        return tempfile.mkdtemp(prefix="mlmodel-")
    except OSError as error:
        raise UsageError(
            f"no temporary directory can be made ({error.strerror}): mount a volume at /tmp, or set TMPDIR"
        ) from None


def enter_empty_directory() -> None:
    """Work in an empty directory that no other user can read or write, and import nothing from the former one.

    This process removes the directory when it exits; its forks do not.
    """
    former, pid = os.getcwd(), os.getpid()
    directory = private_directory()
    os.chmod(directory, 0o500)
    os.chdir(directory)

    def remove() -> None:
        if os.getpid() == pid:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    explicit = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [path for path in sys.path if os.path.isabs(path) and (path != former or former in explicit)]


def forbid_imports_from(directory: str) -> None:
    """Import no module from the directory of the model: it was neither checked nor signed."""
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.realpath(directory)]
