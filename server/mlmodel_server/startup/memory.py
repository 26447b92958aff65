"""How much memory the requests of a worker may take: a share of what the container has left beside the model.

The kernel kills a container that exceeds its limit, with all requests in it. So the server sheds requests before.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

SHARE = 4
"""One part in this many of the memory that is left is for bodies, decoded requests and responses that wait. The rest is
for what a request takes while it is parsed and predicted, which no one knows before."""

MOST = 128 << 20
"""Maximum bytes for one worker, however much memory there is."""

LEAST = 4 << 20
"""Minimum bytes for one worker, however little is left: a server with a large model serves too."""

UNLIMITED = 1 << 60
"""cgroup v1 writes a number above this if there is no limit."""

CONNECTIONS = 2048
"""Maximum number of HTTP connections of one worker, if the limit of open files permits; each takes about 20 KB."""

FILES = 16384
"""Files that a worker may have open, if the hard limit permits."""


def limit(proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process and those in its cgroup may use: the lowest limit of the cgroup and of those
    around it, of cgroup v2 and v1; without one, the memory of the machine."""
    found = [_total(proc)]
    for directory, name in _cgroups(proc, mount):
        while True:
            found.append(_number(directory / name))
            if directory == mount or mount not in directory.parents:
                break
            directory = directory.parent
    return min(number for number in found if 0 < number < UNLIMITED)


def _cgroups(proc: Path, mount: Path) -> list[tuple[Path, str]]:
    """Return the directory of each cgroup of this process that may limit memory, and the name of the file.

    Within a container, the path that the kernel reports may be that of the host, which is not mounted: then the limit
    of the container is at the root of the mount.
    """
    found = [(mount, "memory.max"), (mount / "memory", "memory.limit_in_bytes")]
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found.append((mount / path.lstrip("/"), "memory.max"))
        elif "memory" in controllers.split(","):
            found.append((mount / "memory" / path.lstrip("/"), "memory.limit_in_bytes"))
    return found


def used(proc: Path = Path("/proc")) -> int:
    """Return the bytes of memory of this process, with the model that it has loaded."""
    fields = _text(proc / "self" / "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def budget(limit: int, used: int, workers: int, max_body: int) -> int:
    """Return the bytes that one worker may hold: its part of the share of what is left, at most :data:`MOST`; at least
    :data:`LEAST` and one body of ``max_body`` bytes if these are less than half of what is left."""
    left = max(0, limit - used)
    least = max(LEAST, min(max_body, left // 2 // workers))
    return max(least, min(MOST, left // SHARE // workers))


def connections() -> int:
    """Raise the limit of open files as far as it helps, and return how many HTTP connections a worker may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    wanted = FILES if hard == infinite else min(hard, FILES)
    if soft != infinite and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    # Half is for gRPC, model and log, and for connections that are accepted before others are closed.
    return CONNECTIONS if soft == infinite else max(16, min(CONNECTIONS, soft // 4))


def _total(proc: Path) -> int:
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number(file: Path) -> int:
    text = _text(file).strip()
    return int(text) if text.isdigit() else UNLIMITED


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
