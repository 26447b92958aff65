"""Make a cluster and remove it again: what its keeper does, and what others need to know of a running one."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from hack import ROOT
from hack.cluster import cgroups, config, paths, pki, store
from hack.cluster.report import ClusterError
from hack.cluster.shell import wait_for

STATE = "state.json"


def listen(port: int = 0) -> socket.socket:
    """Return a socket that listens on the loopback of this network namespace; port 0 takes a free one."""
    return socket.create_server(("127.0.0.1", port), backlog=512)


def make(name: str, bin_dir: Path, *, with_node: bool, to_log: bool) -> subprocess.Popen[bytes]:
    """Write everything that a node needs and start its first process; return the `unshare` that is its parent."""
    run_dir = paths.run_dir(name)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        run_dir.mkdir(mode=0o755)
    except FileExistsError:
        raise ClusterError(f"Cluster '{name}' is being started or stopped by another process.") from None
    (run_dir / "log").mkdir()
    log = (run_dir / "log" / "node.log").open("ab")
    if to_log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    listener = listen()
    port = listener.getsockname()[1]
    write_files(name, run_dir, port)
    if with_node:
        store.clone(run_dir / "containerd")
        cgroups.create(paths.cgroup_name(name))
    plan = {
        "run_dir": str(run_dir),
        "bin_dir": str(bin_dir),
        "node": with_node,
        "listener": listener.fileno(),
        "port": port,
    }
    # Only this process has the other end, so that the node ends with it.
    node_lifeline, keep_open = os.pipe()
    os.set_inheritable(keep_open, False)
    unshare = subprocess.Popen(
        [
            # The node is the child of `unshare` and dies with it, and with it, being a first process, all the others.
            *("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--net", "--uts", "--ipc"),
            *(sys.executable, "-m", "hack.cluster.node"),
            json.dumps(plan),
        ],
        cwd=ROOT,
        stdin=node_lifeline,
        pass_fds=[listener.fileno()],
    )
    os.close(node_lifeline)
    listener.close()
    state = {
        "keeper": os.getpid(),
        "node": first_process(unshare),
        "port": port,
        "bin_dir": str(bin_dir),
        "with_node": with_node,
        "started": time.time(),
    }
    partial = run_dir / f"{STATE}.new"
    partial.write_text(json.dumps(state))
    partial.rename(run_dir / STATE)
    return unshare


def first_process(unshare: subprocess.Popen[bytes]) -> int:
    """Return the number, on the host, of the node's first process."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")

    def forked() -> bool:
        if unshare.poll() is not None:
            raise ClusterError(
                f"`unshare` ended with {unshare.returncode}: is this machine allowed to make namespaces?"
            )
        return bool(children.read_text().split())

    wait_for("Start of the node's first process", forked, seconds=10)
    return int(children.read_text().split()[0])


def write_files(name: str, run_dir: Path, port: int) -> None:
    """Write keys, certificates and configuration of a cluster whose API server the host reaches at `port`."""
    folder = run_dir / "pki"
    folder.mkdir(mode=0o700)
    authority = pki.Authority.create(folder, "ca")
    service_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    authority.issue(
        "kube-apiserver",
        "kube-apiserver",
        hosts=["localhost", *service_names, "127.0.0.1", config.API_SERVICE_ADDRESS, config.NODE_ADDRESS],
    )
    authority.issue("kubelet-server", config.NODE, hosts=[config.NODE, config.NODE_ADDRESS])
    authority.issue(
        "metrics-server-serving", "metrics-server", hosts=["metrics-server.kube-system.svc", config.NODE_ADDRESS]
    )
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client", groups=["system:masters"])
    pki.Authority.create(folder, "front-proxy-ca").issue("front-proxy-client", "front-proxy-client")
    pki.write_signing_key(folder)
    for client, (user, groups) in config.CLIENTS.items():
        authority.issue(client, user, groups)
        parts = [(folder / file).read_bytes() for file in ("ca.crt", f"{client}.crt", f"{client}.key")]
        (run_dir / f"{client}.kubeconfig").write_text(
            config.kubeconfig(f"https://127.0.0.1:{port}", parts[0], parts[1], parts[2])
        )
    for file, text in config.files(cgroup=paths.cgroup_name(name)).items():
        path = run_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def remove(name: str) -> None:
    """Remove what a cluster, whose processes are dead, has left: its cgroups and its files."""
    cgroups.remove(paths.cgroup_name(name))
    shutil.rmtree(paths.run_dir(name), ignore_errors=True)
    _remove_user_files(name)


def _remove_user_files(name: str) -> None:
    folder = paths.user_dir(name)
    (folder / "kubeconfig").unlink(missing_ok=True)
    (folder / "bin" / "kubectl").unlink(missing_ok=True)
    shutil.rmtree(folder / "kubectl-cache", ignore_errors=True)
    for empty in (folder / "bin", folder, paths.user_dir(paths.DEFAULT)):
        with contextlib.suppress(OSError):
            empty.rmdir()


def state(name: str) -> dict[str, object] | None:
    """Return what a keeper wrote down about its cluster, or None if no keeper is alive for that name."""
    try:
        found: dict[str, object] = json.loads((paths.run_dir(name) / STATE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if found["keeper"] in keepers(name) else None


def keepers(name: str) -> list[int]:
    """Return the processes that are keeper of the cluster of that name: one, or none.

    By their command lines and not by what is written in a file: a number may belong to another process by now, and a
    keeper that has just begun has written nothing yet.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended just now
        match words:
            case [_, b"-m", b"hack.cluster.keeper", owner, bin_dir, *_] if owner.decode() == name:
                if Path(os.fsdecode(bin_dir)).is_relative_to(paths.cache()):
                    found.append(int(process.name))
    return found


def end(name: str) -> None:
    """End a cluster, alive or dead, and remove everything of it.

    Raises:
        ClusterError: it didn't go.
    """
    for keeper in keepers(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)
    log = paths.run_dir(name) / "log" / "node.log"
    wait_for(f"End of cluster '{name}'", lambda: not keepers(name), seconds=30, log=log)
    if paths.run_dir(name).exists() or cgroups.leftovers(paths.cgroup_name(name)):
        remove(name)
