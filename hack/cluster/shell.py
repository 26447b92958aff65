"""Run programs, and wait for conditions, with errors that show what the program said."""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hack.cluster.report import ClusterError, say, tail


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return what it printed; `env` is added to the environment.

    With `log`, the program's output goes there instead, and "" is returned.

    Raises:
        ClusterError: the program failed; with `what` was being done and the end of its output.
    """
    command = [str(word) for word in argv]
    full_env = {**os.environ, **(env or {})}
    if log is None:
        done = subprocess.run(
            command, cwd=cwd, env=full_env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise ClusterError(f"{what} failed: `{' '.join(command)}` ended with {done.returncode}.\n{end}")
        return done.stdout
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        code = subprocess.run(command, cwd=cwd, env=full_env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    if code.returncode:
        raise ClusterError(f"{what} failed; the whole log is {log}. It ends:\n{tail(log, 25)}")
    return ""


def wait_for(what: str, condition: Callable[[], bool], *, seconds: float, log: Path | None = None) -> None:
    """Call `condition` until it is true, ten times a second.

    Raises:
        ClusterError: it wasn't in time; with the end of `log`, which tells why.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            hint = f" {log} ends:\n{tail(log)}" if log else ""
            raise ClusterError(f"{what}: not within {seconds:.0f} s.{hint}")
        time.sleep(0.1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock across processes, so that two that start side by side don't build the same thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another process that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
