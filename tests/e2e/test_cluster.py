"""The throwaway cluster: it does what the other tests need, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hack import ROOT
from hack.cluster import Cluster, ClusterError, cgroups, open_cluster, paths
from hack.cluster.lifecycle import state
from tests.fixtures.cluster import Kubectl

pytestmark = pytest.mark.cluster

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: web
          image: mlmodel-server:VERSION
          command: [sh, -c, "echo serving; exec python3 -m http.server"]
          securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
          resources: {requests: {cpu: 50m}, limits: {memory: 128Mi}}
          readinessProbe: {httpGet: {path: /, port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
"""


def traces(name: str) -> list[str]:
    """Return the traces of a cluster on the host: processes, mounts, cgroups and files."""
    run_dir = str(paths.run_dir(name))
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            cgroup = (process / "cgroup").read_text()
        except OSError:
            continue  # the process has just exited
        if run_dir in command or paths.cgroup_name(name) in cgroup or f"hack.cluster.keeper {name} " in command:
            found.append(f"process {process.name}: {command}")
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if run_dir in line]
    found += [f"cgroup {folder}" for folder in cgroups.leftovers(paths.cgroup_name(name))]
    found += [f"file {path}" for path in (paths.run_dir(name), paths.user_dir(name)) if path.exists()]
    return found


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def wait_until_gone(name: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while left := traces(name):
        assert time.monotonic() < deadline, "\n".join(left)
        time.sleep(0.1)


PARENT = """
import sys
from hack.cluster import start
start(sys.argv[1], attached=True, node=sys.argv[2] == "node")
print("ready", flush=True)
sys.stdin.read()
"""


def start_parent(name: str, kind: str) -> "subprocess.Popen[str]":
    """Start a cluster from a new parent process, and return that process when the cluster is ready."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, name, kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    return parent


def test_a_pod_serves_through_its_service_by_name(cluster: Cluster, kubectl: Kubectl, namespace: str) -> None:
    kubectl("apply", "-f", "-", input=WEB.replace("VERSION", cluster.images[1].rpartition(":")[2]))
    kubectl("rollout", "status", "deployment/web", "--timeout=60s", seconds=70)
    url = f"http://web.{namespace}.svc"
    code = f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=5).status)"

    # From the host, inside the cluster's network, and from a pod; kube-proxy may need a few seconds.
    cluster.wait("The Service", lambda: cluster.run([sys.executable, "-c", code]).strip() == "200", seconds=60)
    assert kubectl("exec", "deployment/web", "--", "python3", "-c", code).strip() == "200"
    assert kubectl("logs", "deployment/web").startswith("serving")
    status = kubectl("exec", "deployment/web", "--", "cat", "/proc/self/status")
    assert "Seccomp:\t2" in status
    assert "Uid:\t65532" in status


def test_an_object_is_read_as_kubectl_reads_it(cluster: Cluster) -> None:
    read, printed = cluster.read("/api/v1/namespaces/kube-system"), cluster.get("namespace", "kube-system")
    assert read["metadata"].pop("managedFields"), "which kubectl hides"
    assert read == printed
    with pytest.raises(ClusterError, match="GET /api/v1/namespaces/nowhere answers 404"):
        cluster.read("/api/v1/namespaces/nowhere")


def test_metrics_of_pods_are_served(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", input=WEB.replace("VERSION", cluster.images[1].rpartition(":")[2]))
    kubectl("rollout", "status", "deployment/web", "--timeout=60s", seconds=70)

    def measured() -> bool:
        return len(kubectl("top", "pods", "--no-headers").splitlines()) == 2

    cluster.wait("Metrics of both pods", measured, seconds=60)


def test_audit_log_has_writes_and_no_reads(cluster: Cluster, kubectl: Kubectl, namespace: str) -> None:
    since = time.time()
    kubectl("create", "configmap", "written", "--from-literal=key=value")
    kubectl("get", "configmap", "written")

    mine = [event for event in cluster.audit_events(since) if event["objectRef"].get("namespace") == namespace]
    assert [(e["verb"], e["objectRef"]["name"]) for e in mine if e["user"]["username"] == "admin"] == [
        ("create", "written")
    ]


def test_an_unknown_name_is_not_resolved_and_fails_at_once(cluster: Cluster) -> None:
    code = """
import socket, time
started = time.monotonic()
try: socket.getaddrinfo("nowhere.example.org", 80)
except OSError as error: print(error, int(time.monotonic() - started), sep=";")
"""
    reason, _, seconds = cluster.run([sys.executable, "-c", code]).strip().partition(";")
    assert "not known" in reason
    assert int(seconds) < 9, "a resolver that waits for an answer takes 10 s"


def test_a_second_cluster_starts_and_stops_beside_the_first(cluster: Cluster) -> None:
    before = interfaces()
    name = f"second-{os.getpid()}"
    command = [sys.executable, "-m", "hack.cluster"]
    up = subprocess.run([*command, "up", "--name", name], cwd=ROOT, capture_output=True, text=True)
    try:
        assert up.returncode == 0, up.stderr
        assert "Importing" not in up.stderr  # the first one has imported all images
        second = open_cluster(name)
        assert second is not None
        assert second.get("namespaces")["items"]
        assert second.get("node")["items"][0]["metadata"]["uid"] != cluster.get("node")["items"][0]["metadata"]["uid"]
        assert traces(name)  # otherwise their absence below would prove nothing
    finally:
        subprocess.run([*command, "down", "--name", name], cwd=ROOT, check=True)
    assert traces(name) == []
    assert interfaces() == before
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


@pytest.mark.parametrize("kind", ["node", "api"])
def test_a_cluster_is_removed_when_its_parent_is_killed(kind: str) -> None:
    before = interfaces()
    name = f"orphan-{kind}-{os.getpid()}"
    parent = start_parent(name, kind)
    assert traces(name)
    parent.kill()
    parent.communicate()
    wait_until_gone(name)
    assert interfaces() == before


def test_a_killed_keeper_leaves_no_process_and_down_removes_the_rest() -> None:
    name = f"keeperless-{os.getpid()}"
    parent = start_parent(name, "api")
    found = state(name)
    assert found is not None
    node = int(str(found["node"]))
    os.kill(int(str(found["keeper"])), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{node}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    subprocess.run([sys.executable, "-m", "hack.cluster", "down", "--name", name], cwd=ROOT, check=True)
    assert traces(name) == []
    parent.communicate()


def test_ctrl_c_during_the_start_leaves_nothing_behind() -> None:
    name = f"interrupted-{os.getpid()}"
    up = subprocess.Popen(
        # A shell starts background programs, such as these tests, with SIGINT ignored, and children inherit that.
        ["env", "--default-signal=INT", sys.executable, "-m", "hack.cluster", "up", "--name", name],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert up.stderr is not None
    while f"Starting cluster '{name}'" not in up.stderr.readline():
        assert up.poll() is None
    deadline = time.monotonic() + 30
    while state(name) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    up.send_signal(signal.SIGINT)
    _, errors = up.communicate(timeout=60)
    assert up.returncode == 130
    assert "Traceback" not in errors
    assert traces(name) == []


def test_a_copy_of_the_kubeconfig_works(cluster: Cluster, tmp_path: Path) -> None:
    copy = tmp_path / "kubeconfig"
    copy.write_text(cluster.kubeconfig.read_text())
    nodes = subprocess.run(
        [str(cluster.backend.kubectl), "--kubeconfig", str(copy), "get", "nodes", "-o", "json"],
        capture_output=True,
        check=True,
    )
    assert len(json.loads(nodes.stdout)["items"]) == 1


def test_a_program_of_the_node_that_exits_is_restarted(cluster: Cluster) -> None:
    found = state(cluster.name)
    if found is None:
        pytest.skip("kind restarts its programs with systemd")

    def resolver() -> int | None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == str(found["node"]) and b"/coredns\0" in (process / "cmdline").read_bytes():
                    return int(process.name)
            except OSError:
                continue
        return None

    first = resolver()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    lookup = ["getent", "hosts", "kubernetes.default.svc.cluster.local"]
    cluster.wait("Another process", lambda: resolver() not in (None, first), seconds=60)
    cluster.wait("Cluster DNS", lambda: "10.96.0.1" in cluster.run(lookup), seconds=60)
    assert "exited with -9" in cluster.node_log("coredns")
