"""The first process of a node: sets its namespaces up, starts everything and restarts what exits.

Run as `unshare … python -m hack.cluster.node`, with a JSON plan as its only argument and a pipe as standard input:
when the other end is closed, because its keeper has ended in whatever way, this ends too, and with it all the rest.
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
    """One service: its process, or when to start it next."""

    def __init__(self, service: config.Service, pass_fds: tuple[int, ...]) -> None:
        self.service = service
        self.log = Path(config.DATA) / "log" / f"{service.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.due = 0.0
        self._pass_fds = pass_fds

    def start(self) -> None:
        """Start the process, in a session of its own, with its output appended to its log."""
        argv = [sys.executable if word == "PYTHON" else word for word in self.service.argv]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=self._pass_fds
            )

    def ended(self, status: int) -> None:
        """Note that the process has ended and been waited for."""
        assert self.process is not None
        # Popen must not wait for it again: the number may belong to another by then.
        self.process.returncode = os.waitstatus_to_exitcode(status)
        with self.log.open("a") as log:
            log.write(f"== {self.service.name} ended with {self.process.returncode}, starting it again\n")
        self.process = None
        self.due = time.monotonic() + RESTART_SECONDS


def main() -> None:
    """Set the node up and keep it running until standard input ends."""
    plan = json.loads(sys.argv[1])
    wakeup, wakeup_end = os.pipe()
    os.set_blocking(wakeup_end, False)
    signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
    # A handler is what makes a signal count: the kernel ignores for a first process what it has none for.
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
    """Start what is due, reap what ended (orphans too: they are this process's), until `lifeline` ends."""
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
    """Wait for every process that has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            for supervised in services:
                if supervised.process is not None and supervised.process.pid == pid:
                    supervised.ended(status)


def api_answers(port: int) -> bool:
    """Tell whether the API server is ready, its bootstrap roles included."""
    context = ssl._create_unverified_context()  # the answer decides when to start, nothing else
    try:
        url = f"https://127.0.0.1:{port}/readyz"
        with urllib.request.urlopen(url, timeout=1, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def set_up_mounts(run_dir: str, bin_dir: str) -> None:
    """Give the node its own /run, and let what it writes into the system's folders land in its run directory.

    Programs have fixed places there: containerd its shims' sockets, CNI its cache, kubelet links to logs.
    """
    # Opened before /run is hidden, in case they lie there.
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
    """Run mount(8), without the notes that it would keep in the host's /run."""
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)


def set_up_network() -> None:
    """Give the node an address and a route by which everything else, Services too, seems reachable.

    The kernel looks a route up before kube-proxy's rules translate the address. A bridge without ports, because not
    every kernel has the `dummy` device.
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
