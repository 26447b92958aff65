"""Start and stop the processes of an embedded cluster, and read the state that its keeper wrote."""

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
    """Return a socket that listens on the loopback of this network namespace; port 0 is any free port."""
    return socket.create_server(("127.0.0.1", port), backlog=512)


def start(name: str, bin_dir: Path, *, with_node: bool, to_log: bool) -> subprocess.Popen[bytes]:
    """Write the files of a node and start its first process; return its parent process, `unshare`."""
    run_dir = paths.run_dir(name)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        run_dir.mkdir(mode=0o755)
    except FileExistsError:
        raise ClusterError(
            f"Another process is starting or stopping cluster '{name}': try again in a minute."
        ) from None
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
    # Only this process has the other end, so that the node exits with it.
    node_lifeline, keep_open = os.pipe()
    os.set_inheritable(keep_open, False)
    unshare = subprocess.Popen(
        [
            # The node is the child of `unshare` and is killed with it; as it is PID 1, so are all other processes.
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
    """Return the PID, on the host, of the node's first process."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")

    def forked() -> bool:
        if unshare.poll() is not None:
            raise ClusterError(
                f"`unshare` exited with {unshare.returncode}. Check that this machine may create namespaces."
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
    """Remove the cgroups and files of a cluster whose processes have exited."""
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
    """Return the state that a keeper wrote about its cluster, or None if no keeper of that name runs."""
    try:
        found: dict[str, object] = json.loads((paths.run_dir(name) / STATE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if found["keeper"] in keepers(name) else None


def keepers(name: str) -> list[int]:
    """Return the PIDs of the keepers of the cluster of that name: one, or none.

    They are found by command line and not by a PID in a file: the PID may have been reused, and a keeper that has just
    started has not written one yet.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # the process has just exited
        match words:
            case [_, b"-m", b"hack.cluster.keeper", owner, bin_dir, *_] if owner.decode() == name:
                if Path(os.fsdecode(bin_dir)).is_relative_to(paths.cache()):
                    found.append(int(process.name))
    return found


def stop(name: str) -> None:
    """Stop a cluster if it runs, and remove everything of it except the caches.

    Raises:
        ClusterError: its keeper did not exit.
    """
    for keeper in keepers(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)
    log = paths.run_dir(name) / "log" / "node.log"
    wait_for(f"Stop of cluster '{name}'", lambda: not keepers(name), seconds=180, log=log)
    if paths.run_dir(name).exists() or cgroups.leftovers(paths.cgroup_name(name)):
        remove(name)
