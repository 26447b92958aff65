"""Run code on a file in a process with limits, before this process does: a file that takes too much memory or time, or
ends the process, is rejected."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection

from mlmodel_server.errors import OR_SIGN, RefusedModel, Unreadable

MEMORY, MEMORY_PER_BYTE = 512 << 20, 8
"""Maximum memory that opening a file may take, and answering its example: so much, and for each byte of the file."""

SECONDS, BYTES_PER_SECOND = 120, 25 << 20
"""Maximum CPU time, and for how many bytes of the file a second is added: a few predictions of a model that takes tens
of seconds for one, which is served too. A file that never ends delays only the start of its pods."""

_WALL = 6
"""Maximum seconds of real time for one of CPU time: a pod may have a fraction of a CPU."""

_DONE, _SAME, _REFUSED, _MEMORY, _UNREADABLE = b"d", b"s", b"r", b"m", b"u"


class TooMuchMemory(MemoryError):
    """A library reports that it got no memory, in its own words."""


def tried(work: Callable[[], bytes], name: str, data: bytes) -> bytes:
    """Return the result of ``work`` on ``data``, the content of the file ``name``, run in a forked process.

    Raise :class:`RefusedModel` if it does, if it takes too much memory or time, or ends its process; Unreadable if it
    does, and ValueError if it raises anything else.
    """
    memory, seconds = MEMORY + MEMORY_PER_BYTE * len(data), SECONDS + len(data) // BYTES_PER_SECOND
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(sender, work, data, memory, seconds), daemon=True
    )
    process.start()
    sender.close()
    try:
        if not receiver.poll(_WALL * seconds):
            raise _too_much(name, f"{seconds:,} s of CPU time")
        head, result = receiver.recv_bytes(), receiver.recv_bytes()
    except EOFError:
        process.join()
        if process.exitcode in (-24, -9):  # SIGXCPU at the soft limit, SIGKILL at the hard one
            raise _too_much(name, f"{seconds:,} s of CPU time") from None
        raise RefusedModel(
            f"refused {name}: its library crashes when it opens it or predicts one of a few simple rows; export the "
            "model again"
        ) from None
    finally:
        process.kill()
        process.join()
        process.close()
        receiver.close()
    if head == _MEMORY:
        raise _too_much(name, f"{memory >> 20:,} MiB of memory")
    if head == _REFUSED:
        raise RefusedModel(result.decode())
    if head == _UNREADABLE:
        raise Unreadable(result.decode())
    if head not in (_DONE, _SAME):
        raise ValueError(result.decode())
    return result if head == _DONE else data


def _too_much(name: str, what: str) -> RefusedModel:
    return RefusedModel(
        f"refused {name}: to open it and predict a few simple rows takes more than {what}; "
        f"export a smaller model, {OR_SIGN}"
    )


def _child(sender: Connection, work: Callable[[], bytes], data: bytes, memory: int, seconds: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # native libraries print, even values of the model
    os.dup2(null, 2)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # without memory, the kernel kills this process and not the server
    _limit(memory, seconds)
    try:
        head, result = _DONE, work()
        if result == data:  # not sent: of a large file that takes longer than all checks
            head, result = _SAME, b""
    except MemoryError:
        head, result = _MEMORY, b""
    except RefusedModel as error:
        head, result = _REFUSED, str(error).encode()
    except Unreadable as error:
        head, result = _UNREADABLE, str(error).encode()
    except Exception as error:
        head, result = b"e", str(error).partition("\n")[0].encode()
    sender.send_bytes(head)
    sender.send_bytes(result)
    sender.close()
    os._exit(0)  # nothing of this process is to be cleaned up, and a damaged heap could crash it


def _limit(memory: int, seconds: int) -> None:
    with contextlib.suppress(OSError):  # a system without /proc has no limit of memory
        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + memory)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, seconds)


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
