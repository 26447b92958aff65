"""What a process and all its descendants have cost so far, from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")


def tree(root: int) -> list[int]:
    """The process and all that descend from it, ``root`` first; empty if it is gone."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found = [root] if _stat(root) else []
    for pid in found:
        found += children[pid]  # the list grows while it is walked
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree, children that have ended and were waited for included."""
    ticks = sum(sum(map(int, fields[11:15])) for pid in tree(root) if (fields := _stat(pid)))
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_bytes(root: int) -> int:
    """Memory of the tree; a page that n processes share counts 1/n for each, so that the sum is the truth."""
    total = 0
    for pid in tree(root):
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
    return total


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on, for the second may hold blanks; empty if it is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
