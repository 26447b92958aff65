"""Processes of a cluster, seen from its node: kill them, take CPU from them, measure their memory, join a network."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hack.cluster import Cluster
from hack.traffic import wait_for

# The tree of the cpu controller on cgroup v1, or the only tree on v2.
_LIMIT_CPU = """
set -e
path=$(grep -E '^[0-9]+:[^:]*\\bcpu\\b[^:]*:' "/proc/$1/cgroup" | cut -d: -f3)
if [ -n "$path" ]; then
    echo 1000000 > "/sys/fs/cgroup/cpu$path/cpu.cfs_period_us"
    echo "$2" > "/sys/fs/cgroup/cpu$path/cpu.cfs_quota_us"
else
    path=$(cut -d: -f3 "/proc/$1/cgroup")
    [ "$2" = -1 ] && set -- "$1" max
    echo "$2 1000000" > "/sys/fs/cgroup$path/cpu.max"
fi
"""


def kill_container(cluster: Cluster, namespace: str, pod: str) -> None:
    """Kill all processes of the first container of a pod."""
    # The kernel ignores SIGKILL to PID 1 from inside its namespace, so it is sent from the node.
    _kill(cluster, _processes(cluster, namespace, pod))


def kill_process(cluster: Cluster, namespace: str, pod: str, name: str) -> None:
    """Kill one process of this name (at most 15 characters) in the first container of a pod."""
    named = set(_matching(cluster, f"^{name}$", "comm"))
    _kill(cluster, [pid for pid in _processes(cluster, namespace, pod) if pid in named][:1])


def limit_cpu(cluster: Cluster, namespace: str, pod: str, microseconds: int) -> None:
    """Limit the first container of a pod to ``microseconds`` of CPU time in each second; -1 ends the limit."""
    first = _processes(cluster, namespace, pod)[0]
    cluster.run(["sh", "-c", _LIMIT_CPU, "sh", first, str(microseconds)])


def kill_program(cluster: Cluster, name: str) -> None:
    """Kill a program of the node, such as ``etcd``, which starts it again, and wait until the API server answers."""
    _kill(cluster, _matching(cluster, f"^{name}$", "comm")[:1])
    wait_for(f"the API server answers after {name} was killed", 60, lambda: _is_ready(cluster))


def memory(cluster: Cluster, namespace: str, pod: str) -> int:
    """Return the memory of the first container of a pod in bytes; pages that its processes share count once."""
    files = [f"/proc/{pid}/smaps_rollup" for pid in _processes(cluster, namespace, pod)]
    lines = cluster.run(["cat", *files]).splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def in_network_of(cluster: Cluster, namespace: str, pod: str, argv: Sequence[str]) -> str:
    """Run a program of this machine with the network of a pod, as its first container has it; return its output."""
    first = _processes(cluster, namespace, pod)[0]
    return cluster.run(["nsenter", f"--net=/proc/{first}/ns/net", *argv])


def _is_ready(cluster: Cluster) -> bool:
    try:
        return cluster.kubectl("get", "--raw", "/readyz", seconds=5) == "ok"
    except Exception:
        return False


def _processes(cluster: Cluster, namespace: str, pod: str) -> list[str]:
    """Return the PIDs of the first container of a pod, as the node sees them."""
    status = json.loads(cluster.kubectl("get", "pod", "-n", namespace, pod, "-o", "json"))["status"]
    return _matching(cluster, str(status["containerStatuses"][0]["containerID"].split("//")[1]), "cgroup")


def _matching(cluster: Cluster, pattern: str, file: str) -> list[str]:
    """Return the PIDs whose ``file`` in /proc matches."""
    # A process may exit meanwhile; grep then reports an error beside what it has found.
    found = cluster.run(["sh", "-c", f'grep -l "$1" /proc/[0-9]*/{file} 2>/dev/null || true', "sh", pattern])
    return [path.split("/")[2] for path in found.split()]


def _kill(cluster: Cluster, pids: list[str]) -> None:
    assert pids, "no such process"
    # The kernel ends the processes of a container with its first one, so the others may be gone.
    cluster.run(["sh", "-c", 'kill -9 "$@" 2>/dev/null || true', "sh", *pids])
