"""CPU time and memory of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")


def tree(root: int) -> list[int]:
    """Return the PIDs of a process and its descendants, ``root`` first; empty if it has exited."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found = [root] if _stat(root) else []
    for pid in found:
        found += children[pid]  # the list grows while it is walked
    return found


def cpu_seconds(root: int) -> float:
    """Return user and system time of the tree, including children that exited and were waited for."""
    ticks = sum(sum(map(int, fields[11:15])) for pid in tree(root) if (fields := _stat(pid)))
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_bytes(root: int) -> int:
    """Return the memory of the tree; each of n processes that share a page counts 1/n of it, so the sum is exact."""
    total = 0
    for pid in tree(root):
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has exited in the meantime
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
    return total


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the second, which may contain blanks; empty if the process exited."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
