"""Enforce NetworkPolicies in the embedded cluster, whose network enforces none."""

import contextlib
import subprocess
from collections.abc import Iterator

from hack.cluster import config
from hack.cluster.cluster import Cluster, Embedded
from hack.cluster.report import ClusterError, tail
from hack.cluster.shell import wait_for

START_SECONDS = STOP_SECONDS = 30.0


@contextlib.contextmanager
def enforced(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """Enforce the NetworkPolicies of all namespaces inside the context; its exit removes every rule of it.

    Yields the process that does it: while it is stopped by SIGSTOP, the rules stay as they are.

    The rules follow a change of a policy, a pod or a namespace within a second or two: wait for a connection.

    Raises:
        ClusterError: the cluster is one of kind, or the program exited with an error; with the end of its log.
    """
    backend = cluster.backend
    if not isinstance(backend, Embedded):
        raise ClusterError("The network of kind enforces NetworkPolicies: start nothing.")
    log = backend.run_dir / "log" / "netpol.log"
    arguments = [f"--kubeconfig={backend.kubeconfig}", f"--node={config.NODE}", f"--services={config.SERVICE_NETWORK}"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            cluster.exec_args([str(backend.bin_dir / "netpol"), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )

    def has_rules() -> bool:
        if process.poll() is not None:
            raise ClusterError(f"netpol exited with {process.returncode}. The end of {log}:\n{tail(log)}")
        rules = cluster.exec_args(["iptables", "--list", "KUBE-ROUTER-FORWARD"])
        return subprocess.run(rules, capture_output=True).returncode == 0

    try:
        wait_for("Start of netpol", has_rules, seconds=START_SECONDS, log=log)
        yield process
    finally:
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    if code:
        raise ClusterError(f"netpol exited with {code}. The end of {log}:\n{tail(log)}")
