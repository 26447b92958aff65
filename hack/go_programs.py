"""Third-party servers and clients for the tests, built from pinned Go modules and cached between runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import progress
from hack.cluster.shell import locked, run


@dataclass(frozen=True)
class Program:
    """A program, its package and the module's version. Go checks the module against its public checksum database."""

    name: str
    package: str
    version: str


VERSITYGW = Program("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
"""An S3 server that keeps objects in a directory."""

FAKE_GCS = Program("fake-gcs-server", "github.com/fsouza/fake-gcs-server", "v1.56.1")
"""Google Cloud Storage in memory."""

REGISTRY = Program("registry", "github.com/distribution/distribution/v3/cmd/registry", "v3.1.2")
"""The reference registry of container images."""

ORAS = Program("oras", "oras.land/oras/cmd/oras", "v1.3.6")
"""The client that pushes files to registries."""


def program(pinned: Program) -> Path:
    """Return the path of the program; build it if it does not exist, which takes 30 to 90 s on 2 cores.

    Raises:
        ClusterError: the build failed; with the end of its output.
    """
    folder = paths.cache() / "programs" / f"{pinned.name}-{pinned.version}"
    built = folder / pinned.name
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not built.exists():
            progress(f"Building {pinned.name} {pinned.version}")
            unfinished = folder / "unfinished"
            run(
                ["go", "install", "-trimpath", "-ldflags", "-s -w", f"{pinned.package}@{pinned.version}"],
                env={"GOBIN": str(unfinished), "CGO_ENABLED": "0"},
                cwd=Path("/"),  # outside of any module
                what=f"Building {pinned.name}",
                log=folder / "build.log",
            )
            os.replace(unfinished / pinned.name, built)
    return built
