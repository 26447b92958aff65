"""The one process on the host that belongs to a running cluster: it makes it, outlives whoever asked, and cleans up.

Run as `python -m hack.cluster.keeper NAME BIN_DIR node|api`. Standard input is the lifeline: when it ends, because the
process at its other end has died in whatever way, the cluster goes; unless "detach" was read from it before. Standard
output gets one line of JSON, when the node's first process runs or when that failed.
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
    """Make a cluster, report, keep it until told to end, and remove it."""
    name, bin_dir, kind = sys.argv[1:]
    wakeup, wakeup_end = os.pipe()
    os.set_blocking(wakeup_end, False)
    signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    answer = os.fdopen(os.dup(1), "w")
    try:
        unshare = lifecycle.make(name, Path(bin_dir), with_node=kind == "node", to_log=True)
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        with contextlib.suppress(ClusterError):
            lifecycle.remove(name)
        print(json.dumps({"error": str(error)}), file=answer, flush=True)
        sys.exit(1)
    print(json.dumps({"error": ""}), file=answer, flush=True)
    answer.close()
    told = wait_for_the_end(unshare, lifeline=0, wakeup=wakeup)
    unshare.kill()
    unshare.wait()
    # A node that ended by itself is left for whoever wants to know why; `up` and `down` remove it.
    if told:
        lifecycle.remove(name)


def wait_for_the_end(unshare: subprocess.Popen[bytes], lifeline: int, wakeup: int) -> bool:
    """Wait until somebody ends the cluster (true) or it ended by itself (false)."""
    ended = os.pidfd_open(unshare.pid)
    attached = True
    while True:
        readable, _, _ = select.select([wakeup, ended, *([lifeline] if attached else [])], [], [])
        if wakeup in readable:
            return True
        if ended in readable:
            return False
        if lifeline in readable:
            message = os.read(lifeline, 1024)
            if not message:
                return True
            attached = b"detach" not in message


if __name__ == "__main__":
    main()
