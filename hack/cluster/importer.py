"""Import an archive of images into a containerd root that no other process uses.

Run as `unshare … python -m hack.cluster.importer ROOT WORK_DIR BIN_DIR ARCHIVE`, as PID 1 of a namespace, so that no
process of containerd can stay behind.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from hack.cluster import config
from hack.cluster.shell import wait_for


def main() -> None:
    """Run containerd on the store during the import."""
    store_root, work, bin_dir, archive = sys.argv[1:]
    os.environ["PATH"] = f"{bin_dir}:{os.environ['PATH']}"
    # containerd creates folders in /run, even if its state directory is elsewhere.
    subprocess.run(["mount", "--no-mtab", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    settings = Path(work) / "containerd.toml"
    settings.write_text(config.containerd_config(store_root, "/run/containerd", config.CONTAINERD_SOCKET, pods=False))
    containerd = subprocess.Popen(["containerd", "--config", str(settings)])
    ctr = ["ctr", "--address", config.CONTAINERD_SOCKET, "--namespace", "k8s.io"]

    def answers() -> bool:
        return subprocess.run([*ctr, "version"], capture_output=True).returncode == 0

    wait_for("Start of containerd for the import", answers, seconds=30)
    subprocess.run([*ctr, "images", "import", "--snapshotter", "overlayfs", archive], check=True)
    containerd.send_signal(signal.SIGTERM)
    containerd.wait(30)


if __name__ == "__main__":
    main()
