"""Processes of a cluster, seen from its node: kill them with SIGKILL, and measure their memory."""

from __future__ import annotations

import json

from hack.cluster import Cluster
from hack.traffic import wait_for


def kill_container(cluster: Cluster, namespace: str, pod: str) -> None:
    """Kill all processes of the first container of a pod."""
    # The kernel ignores SIGKILL to PID 1 from inside its namespace, so it is sent from the node.
    cluster.run(["sh", "-c", _KILL_ALL, "sh", _container(cluster, namespace, pod)])


def kill_process(cluster: Cluster, namespace: str, pod: str, name: str) -> None:
    """Kill one process of this name (at most 15 characters) in the first container of a pod."""
    cluster.run(["sh", "-c", _KILL_ONE, "sh", _container(cluster, namespace, pod), name])


def kill_program(cluster: Cluster, name: str) -> None:
    """Kill a program of the node, such as ``etcd``, which starts it again, and wait until the API server answers."""
    cluster.run(["sh", "-c", _KILL_PROGRAM, "sh", name])
    wait_for(f"the API server answers after {name} was killed", 60, lambda: _is_ready(cluster))


def memory(cluster: Cluster, namespace: str, pod: str) -> int:
    """Return the memory of the first container of a pod in bytes; pages that its processes share count once."""
    return int(cluster.run(["sh", "-c", _MEMORY, "sh", _container(cluster, namespace, pod)])) * 1024


def _is_ready(cluster: Cluster) -> bool:
    try:
        return cluster.kubectl("get", "--raw", "/readyz", seconds=5) == "ok"
    except Exception:
        return False


def _container(cluster: Cluster, namespace: str, pod: str) -> str:
    status = json.loads(cluster.kubectl("get", "pod", "-n", namespace, pod, "-o", "json"))["status"]
    return str(status["containerStatuses"][0]["containerID"].split("//")[1])


_KILL_ALL = (
    'for file in /proc/[0-9]*/cgroup; do if grep -q "$1" "$file" 2>/dev/null; then'
    ' pid="${file#/proc/}"; kill -9 "${pid%/cgroup}"; fi; done'
)
_MEMORY = (
    'for file in /proc/[0-9]*/cgroup; do if grep -q "$1" "$file" 2>/dev/null; then'
    " cat \"${file%/cgroup}/smaps_rollup\"; fi; done | awk '/^Pss:/ { sum += $2 } END { print sum + 0 }'"
)
_KILL_ONE = (
    'for file in /proc/[0-9]*/cgroup; do pid="${file#/proc/}"; pid="${pid%/cgroup}";'
    ' if grep -q "$1" "$file" 2>/dev/null && [ "$(cat "/proc/$pid/comm")" = "$2" ]; then'
    ' kill -9 "$pid"; exit 0; fi; done; echo "no process $2" >&2; exit 1'
)
_KILL_PROGRAM = (
    'for file in /proc/[0-9]*/comm; do if [ "$(cat "$file" 2>/dev/null)" = "$1" ]; then'
    ' pid="${file#/proc/}"; kill -9 "${pid%/comm}"; exit 0; fi; done; echo "no program $1" >&2; exit 1'
)
