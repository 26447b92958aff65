"""Start a cluster, or open a running one, and work with it."""

import atexit
import contextlib
import datetime
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hack import ROOT
from hack.cluster import binaries, config, doctor, images, kind, lifecycle, paths, store
from hack.cluster.client import Client
from hack.cluster.report import ClusterError, progress, tail
from hack.cluster.shell import wait_for

READY_SECONDS = 120.0


class Backend(Protocol):
    """The operations that differ between the embedded cluster and kind."""

    name: str
    kubectl: Path
    kubeconfig: Path

    def exec_args(self, argv: Sequence[str]) -> list[str]: ...

    def audit_log(self) -> Path: ...

    def node_log(self, service: str) -> str: ...

    def load_images(self) -> int: ...

    def stop(self) -> None: ...


@dataclass
class Embedded:
    """A cluster in its own namespaces on this machine."""

    name: str
    bin_dir: Path
    node_pid: int
    port: int
    kubectl: Path = field(init=False)
    kubeconfig: Path = field(init=False)

    def __post_init__(self) -> None:
        self.kubectl = self.bin_dir / "kubectl"
        self.kubeconfig = paths.user_dir(self.name) / "kubeconfig"
        self.run_dir = paths.run_dir(self.name)

    def exec_args(self, argv: Sequence[str]) -> list[str]:
        """Return a command line with the network of the node, the files of the host, and the DNS of the cluster."""
        files = self.run_dir / "exec"
        # In a mount namespace, so that the host keeps its own DNS.
        mount_dns = " && ".join(
            f"mount --no-mtab --bind {files}/{file} /etc/{file}" for file in ("resolv.conf", "nsswitch.conf")
        )
        return [
            *("nsenter", f"--net=/proc/{self.node_pid}/ns/net"),
            *("unshare", "--mount", "sh", "-c", f'{mount_dns} && exec "$@"', "sh", *argv),
        ]

    def audit_log(self) -> Path:
        return self.run_dir / "log" / "audit.log"

    def node_log(self, service: str) -> str:
        return tail(self.run_dir / "log" / f"{service}.log", 200)

    def load_images(self) -> int:
        built = images.build()
        store.fill(built, self.bin_dir)
        return store.load(built, self.bin_dir, self.run_dir, self.node_pid)

    def stop(self) -> None:
        self.remove(self.name)

    @staticmethod
    def remove(name: str) -> None:
        """Stop the cluster of this name if it runs, and remove everything of it except the caches."""
        lifecycle.stop(name)


@dataclass
class Cluster:
    """A running cluster. If you started it attached, use it as a context manager or call `down`."""

    name: str
    backend: Backend
    images: tuple[str, ...] = ()
    """Names of the project's images in the cluster, for manifests."""
    _lifeline: subprocess.Popen[str] | None = None

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig for `kubectl` and other clients on the host."""
        return self.backend.kubeconfig

    @property
    def kubectl_command(self) -> list[str]:
        """The start of a kubectl command line for this cluster."""
        return [str(self.backend.kubectl), "--kubeconfig", str(self.kubeconfig)]

    def kubectl(self, *args: str, input: str | None = None, seconds: float = 60) -> str:
        """Run kubectl and return what it printed.

        Raises:
            ClusterError: it failed; with its output.
        """
        argv = [*self.kubectl_command, *args]
        # In the home directory, the cache of kubectl would outlive this cluster.
        environment = {**os.environ, "KUBECACHEDIR": str(self.kubeconfig.parent / "kubectl-cache")}
        try:
            done = subprocess.run(
                argv, input=input or "", capture_output=True, text=True, timeout=seconds, env=environment
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"`kubectl {' '.join(args)}` took longer than {seconds:.0f} s.") from None
        if done.returncode:
            raise ClusterError(f"`kubectl {' '.join(args)}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, *args: str) -> Any:
        """Return what `kubectl get ARGS` finds, as parsed JSON."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def read(self, path: str) -> Any:
        """Return the object or list at a path of the API, for polling: kubectl takes a hundred times as much CPU
        time.

        Raises:
            ClusterError: the API server does not answer, or not with 200.
        """
        return self._client.get(path)

    @functools.cached_property
    def _client(self) -> Client:
        return Client(self.kubeconfig)

    def exec_args(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` where Service and pod addresses and cluster DNS are reachable."""
        return self.backend.exec_args(argv)

    def run(self, argv: Sequence[str], *, input: str | None = None, seconds: float = 60) -> str:
        """Run a program in the network of the cluster and return its output. Raises ClusterError if it failed."""
        try:
            done = subprocess.run(
                self.exec_args(argv), input=input or "", capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"`{' '.join(argv)}` took longer than {seconds:.0f} s in the cluster.") from None
        if done.returncode:
            raise ClusterError(f"`{' '.join(argv)}` exited with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def audit_events(self, since: float = 0) -> list[dict[str, Any]]:
        """Return the writes that the API server received since a time (Unix seconds), as audit.k8s.io/v1 events.

        Only the embedded cluster has this log: each create, update, patch and delete of any client, also rejected ones.
        """
        events = []
        for line in self.backend.audit_log().read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if datetime.datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp() >= since:
                events.append(event)
        return events

    def node_log(self, service: str) -> str:
        """Return the end of the log of one of the node's programs, such as "kubelet" or "kube-apiserver"."""
        return self.backend.node_log(service)

    def load_images(self) -> int:
        """Rebuild the project's images and load changed ones into this cluster; return their number."""
        return self.backend.load_images()

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until `condition` returns true; a ClusterError from it counts as false.

        Raises:
            ClusterError: it did not within `seconds`.
        """

        def holds() -> bool:
            with contextlib.suppress(ClusterError):
                return condition()
            return False

        wait_for(what, holds, seconds=seconds)

    def down(self) -> None:
        """Stop the cluster and remove everything of it except the caches."""
        atexit.unregister(self.down)
        self.backend.stop()
        if self._lifeline is not None:
            self._lifeline.communicate()
            self._lifeline = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def open_cluster(name: str = paths.DEFAULT) -> Cluster | None:
    """Return the running cluster of that name, or None."""
    if kind.available():
        found: Backend | None = kind.find(name)
    else:
        found = _embedded(name)
    return Cluster(name, found, _image_names()) if found else None


def _embedded(name: str) -> Embedded | None:
    state = lifecycle.state(name)
    if state is None:
        return None
    return Embedded(name, Path(str(state["bin_dir"])), int(str(state["node"])), int(str(state["port"])))


def _image_names() -> tuple[str, ...]:
    version = images.project_version()
    return tuple(images.image_names(target, version)[0] for target in images.TARGETS)


def start(name: str = paths.DEFAULT, *, attached: bool = True, node: bool = True) -> Cluster:
    """Start a cluster and return it when it is ready.

    An attached embedded cluster is removed when this process exits for any reason. Without `node`, it runs only etcd,
    the API server and the controllers that remove deleted objects: ready in seconds, for tests that need no pods.

    Raises:
        ClusterError: this machine cannot start it, or it did not become ready; with what to do.
    """
    paths.check_name(name)
    if node and kind.available():
        return Cluster(name, kind.start(name), _image_names())
    doctor.require()
    bin_dir = binaries.build()
    if lifecycle.keepers(name):
        raise ClusterError(
            f"Cluster '{name}' is already running. Stop it with `python -m hack.cluster down --name {name}`, "
            "or start a second cluster with another name."
        )
    lifecycle.stop(name)  # removes what a killed keeper may have left
    if node:
        store.fill(images.build(), bin_dir)
    started = time.monotonic()
    progress(f"Starting cluster '{name}'" + ("" if node else " (API server only)"))
    process = subprocess.Popen(
        [sys.executable, "-m", "hack.cluster.keeper", name, str(bin_dir), "node" if node else "api"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops the cluster in order
    )
    try:
        cluster = _wait_until_ready(name, process, node=node, started=started)
    except BaseException:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        raise
    assert process.stdin is not None
    if attached:
        cluster._lifeline = process
        atexit.register(cluster.down)
    else:
        process.stdin.write("detach\n")
        process.stdin.close()
    return cluster


def _wait_until_ready(name: str, process: "subprocess.Popen[str]", *, node: bool, started: float) -> Cluster:
    assert process.stdout is not None
    answer = process.stdout.readline()
    error = json.loads(answer)["error"] if answer else "its keeper exited"
    if error:
        raise ClusterError(f"Cluster '{name}' did not start: {error}")
    embedded = _embedded(name)
    if embedded is None:
        raise ClusterError(f"Cluster '{name}' exited at once: {tail(paths.run_dir(name) / 'log' / 'node.log')}")
    cluster = Cluster(name, embedded, _image_names() if node else ())
    _write_user_files(embedded)

    def step(what: str, condition: Callable[[], bool], log: str) -> None:
        def holds() -> bool:
            if process.poll() is not None:
                raise ClusterError(f"The node exited: {embedded.node_log('node')}")
            with contextlib.suppress(ClusterError):
                return condition()
            return False

        wait_for(what, holds, seconds=READY_SECONDS, log=embedded.run_dir / "log" / f"{log}.log")

    step("Start of the API server", lambda: cluster.kubectl("get", "--raw", "/readyz") == "ok", "kube-apiserver")
    step("Namespace default", lambda: bool(cluster.get("serviceaccount", "default")), "kube-controller-manager")
    if not node:
        progress(f"  API server ready after {time.monotonic() - started:.1f} s")
        return cluster
    addons = json.dumps(config.addons((embedded.run_dir / "pki" / "ca.crt").read_bytes()))
    step("Namespace kube-system", lambda: bool(cluster.kubectl("apply", "-f", "-", input=addons)), "kube-apiserver")
    ready = '{.status.conditions[?(@.type=="Ready")].status}'
    step(
        "Node Ready",
        lambda: cluster.kubectl("get", "node", config.NODE, "-o", f"jsonpath={ready}") == "True",
        "kubelet",
    )
    progress(f"  node Ready, with the project's images, after {time.monotonic() - started:.1f} s")
    lookup = ["getent", "hosts", "kubernetes.default.svc.cluster.local"]
    step("Cluster DNS", lambda: config.API_SERVICE_ADDRESS in cluster.run(lookup), "coredns")
    available = '{.status.conditions[?(@.type=="Available")].status}'
    metrics = ("get", "apiservice", "v1beta1.metrics.k8s.io", "-o", f"jsonpath={available}")
    step("Metrics API", lambda: cluster.kubectl(*metrics) == "True", "metrics-server")
    progress(f"  Services, DNS and metrics API ready after {time.monotonic() - started:.1f} s")
    return cluster


def _write_user_files(embedded: Embedded) -> None:
    (embedded.kubeconfig.parent / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(embedded.run_dir / "admin.kubeconfig", embedded.kubeconfig)
    embedded.kubeconfig.chmod(0o600)
    link = embedded.kubeconfig.parent / "bin" / "kubectl"
    link.unlink(missing_ok=True)
    os.symlink(embedded.kubectl, link)
