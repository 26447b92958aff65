"""Run programs and wait for conditions, with errors that contain the output of the program."""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hack.cluster.report import ClusterError, progress, tail


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return its output; `env` is added to the environment.

    With `log`, write the output there and return "".

    Raises:
        ClusterError: the program failed; with `what` it was run for and the end of its output.
    """
    command = [str(word) for word in argv]
    full_env = {**os.environ, **(env or {})}
    if log is None:
        done = subprocess.run(
            command, cwd=cwd, env=full_env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise ClusterError(f"{what} failed: `{' '.join(command)}` exited with {done.returncode}.\n{end}")
        return done.stdout
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        code = subprocess.run(command, cwd=cwd, env=full_env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    if code.returncode:
        raise ClusterError(f"{what} failed. The end of {log}:\n{tail(log, 25)}")
    return ""


def wait_for(what: str, condition: Callable[[], bool], *, seconds: float, log: Path | None = None) -> None:
    """Call `condition` ten times a second until it returns true.

    Raises:
        ClusterError: it did not within `seconds`; with the end of `log`, which has the reason.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            hint = f" The end of {log}:\n{tail(log)}" if log else ""
            raise ClusterError(f"{what}: timed out after {seconds:.0f} s.{hint}")
        time.sleep(0.1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock across processes, so that two of them do not build the same thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"Waiting for another process to release {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
