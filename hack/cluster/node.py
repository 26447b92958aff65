"""The first process of a node: sets up its namespaces, starts all programs and restarts those that exit.

Run as `unshare … python -m hack.cluster.node`, with a JSON plan as its only argument and a pipe as standard input. When
the keeper exits for any reason, the pipe closes; then this process exits too, and with it all other processes.
"""

import contextlib
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from hack.cluster import config

RESTART_SECONDS = 1.0


class Supervised:
    """One service: its process, or the time of its next start."""

    def __init__(self, service: config.Service, pass_fds: tuple[int, ...]) -> None:
        self.service = service
        self.log = Path(config.DATA) / "log" / f"{service.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.due = 0.0
        self._pass_fds = pass_fds

    def start(self) -> None:
        """Start the process in a new session, with its output appended to its log."""
        argv = [sys.executable if word == "PYTHON" else word for word in self.service.argv]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=self._pass_fds
            )

    def note_exit(self, status: int) -> None:
        """Log that the process exited with this wait status, and schedule its next start."""
        assert self.process is not None
        # Popen must not wait for it again: the PID may have been reused.
        self.process.returncode = os.waitstatus_to_exitcode(status)
        with self.log.open("a") as log:
            log.write(f"== {self.service.name} exited with {self.process.returncode}, restarting it\n")
        self.process = None
        self.due = time.monotonic() + RESTART_SECONDS


def main() -> None:
    """Set up the node and keep it running until standard input closes."""
    plan = json.loads(sys.argv[1])
    wakeup, wakeup_end = os.pipe()
    os.set_blocking(wakeup_end, False)
    signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
    # Without a handler, the kernel does not deliver a signal to PID 1.
    signal.signal(signal.SIGCHLD, lambda *_: None)

    socket.sethostname(config.NODE)
    set_up_mounts(plan["run_dir"], plan["bin_dir"])
    set_up_network()
    os.environ["PATH"] = f"{config.BIN}:{os.environ['PATH']}"

    listener = plan["listener"]
    services = [
        Supervised(service, (listener,) if service.name == "relay" else ())
        for service in config.service_list(node=plan["node"], listener=listener, api_port=plan["port"])
    ]
    supervise(services, plan["port"], lifeline=0, wakeup=wakeup)


def supervise(services: list[Supervised], api_port: int, lifeline: int, wakeup: int) -> None:
    """Start the services that are due and reap processes that exited, orphans included, until `lifeline` closes."""
    api_ready = False
    while True:
        api_ready = api_ready or api_answers(api_port)
        now = time.monotonic()
        for supervised in services:
            if supervised.process is None and supervised.due <= now and (api_ready or not supervised.service.after_api):
                supervised.start()
        waiting = [s.due - now for s in services if s.process is None and (api_ready or not s.service.after_api)]
        timeout = max(0.0, min(waiting)) if waiting else None
        if not api_ready:
            timeout = 0.1
        readable, _, _ = select.select([lifeline, wakeup], [], [], timeout)
        if lifeline in readable and not os.read(lifeline, 1024):
            return
        if wakeup in readable:
            os.read(wakeup, 1024)
        reap(services)


def reap(services: list[Supervised]) -> None:
    """Wait for every process that has exited."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            for supervised in services:
                if supervised.process is not None and supervised.process.pid == pid:
                    supervised.note_exit(status)


def api_answers(port: int) -> bool:
    """Return whether the API server is ready, its bootstrap roles included."""
    context = ssl._create_unverified_context()  # the response decides only when to start the other services
    try:
        url = f"https://127.0.0.1:{port}/readyz"
        with urllib.request.urlopen(url, timeout=1, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def set_up_mounts(run_dir: str, bin_dir: str) -> None:
    """Give the node its own /run, and redirect its writes to system folders into its run directory.

    Programs write to fixed paths there: containerd its shims' sockets, CNI its cache, kubelet links to logs.
    """
    # Opened before /run is hidden, in case they are below it.
    sources = {config.DATA: os.open(run_dir, os.O_PATH), config.BIN: os.open(bin_dir, os.O_PATH)}
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    for target, source in sources.items():
        Path(target).mkdir()
        mount("--bind", f"/proc/{os.getpid()}/fd/{source}", target)
        os.close(source)
    for folder in ("/etc", "/opt", "/var/lib", "/var/log"):
        if not Path(folder).is_dir():
            continue
        shadow = Path(config.DATA, "shadow", folder.strip("/").replace("/", "-"))
        (shadow / "upper").mkdir(parents=True)
        (shadow / "work").mkdir()
        options = f"lowerdir={folder},upperdir={shadow}/upper,workdir={shadow}/work"
        mount("-t", "overlay", "-o", options, "overlay", folder)


def mount(*arguments: str) -> None:
    """Run mount(8) without its records in the host's /run."""
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)


def set_up_network() -> None:
    """Give the node an address and a default route, which Services need too.

    The kernel looks up a route before kube-proxy's rules translate the address of a Service. The device is a bridge
    without ports, because not every kernel has the `dummy` device.
    """
    commands = [
        "link set lo up",
        "link add node0 type bridge",
        f"addr add {config.NODE_ADDRESS}/24 dev node0",
        "link set node0 up",
        f"route add default via {config.GATEWAY} dev node0",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


if __name__ == "__main__":
    main()
