"""The keeper: the one process on the host that starts a cluster, waits for its end and removes it.

Run as `python -m hack.cluster.keeper NAME BIN_DIR node|api`. Standard input is the lifeline: when it closes, because
the parent exited for any reason, the keeper removes the cluster, unless it has read "detach" before. It writes one line
of JSON to standard output when the first process of the node runs or could not be started.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from hack.cluster import lifecycle
from hack.cluster.report import ClusterError


def main() -> None:
    """Start a cluster, report that, and remove it when it is stopped."""
    name, bin_dir, kind = sys.argv[1:]
    wakeup, wakeup_end = os.pipe()
    os.set_blocking(wakeup_end, False)
    signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    answer = os.fdopen(os.dup(1), "w")
    try:
        unshare = lifecycle.start(name, Path(bin_dir), with_node=kind == "node", to_log=True)
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        with contextlib.suppress(ClusterError):
            lifecycle.remove(name)
        print(json.dumps({"error": str(error)}), file=answer, flush=True)
        sys.exit(1)
    print(json.dumps({"error": ""}), file=answer, flush=True)
    answer.close()
    is_stopped = wait_for_the_end(unshare, lifeline=0, wakeup=wakeup)
    unshare.kill()
    unshare.wait()
    # The logs of a node that exited unexpectedly stay; the next `up` or `down` removes them.
    if is_stopped:
        lifecycle.remove(name)


def wait_for_the_end(unshare: subprocess.Popen[bytes], lifeline: int, wakeup: int) -> bool:
    """Wait until a signal or the lifeline stops the cluster (return true), or the node exits (return false)."""
    exited = os.pidfd_open(unshare.pid)
    attached = True
    while True:
        readable, _, _ = select.select([wakeup, exited, *([lifeline] if attached else [])], [], [])
        if wakeup in readable:
            return True
        if exited in readable:
            return False
        if lifeline in readable:
            message = os.read(lifeline, 1024)
            if not message:
                return True
            attached = b"detach" not in message


if __name__ == "__main__":
    main()
