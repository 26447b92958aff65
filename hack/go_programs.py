"""Other people's servers and clients that tests talk to: built from pinned Go modules, kept between runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import say
from hack.cluster.shell import locked, run


@dataclass(frozen=True)
class Program:
    """A program, its package and the module's version. Go checks the module against its public checksum database."""

    name: str
    package: str
    version: str


VERSITYGW = Program("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
"""An S3 server on a directory."""

FAKE_GCS = Program("fake-gcs-server", "github.com/fsouza/fake-gcs-server", "v1.56.1")
"""Google Cloud Storage in memory."""

REGISTRY = Program("registry", "github.com/distribution/distribution/v3/cmd/registry", "v3.1.2")
"""The reference registry of container images."""

ORAS = Program("oras", "oras.land/oras/cmd/oras", "v1.3.6")
"""The client that pushes files to registries."""


def program(wanted: Program) -> Path:
    """Return the program's path, built now if it isn't there: half a minute to one and a half on 2 cores.

    Raises:
        ClusterError: it couldn't be built; with the end of what Go said.
    """
    folder = paths.cache() / "programs" / f"{wanted.name}-{wanted.version}"
    built = folder / wanted.name
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not built.exists():
            say(f"Building {wanted.name} {wanted.version}")
            unfinished = folder / "unfinished"
            run(
                ["go", "install", "-trimpath", "-ldflags", "-s -w", f"{wanted.package}@{wanted.version}"],
                env={"GOBIN": str(unfinished), "CGO_ENABLED": "0"},
                cwd=Path("/"),  # outside of any module
                what=f"Building {wanted.name}",
                log=folder / "build.log",
            )
            os.replace(unfinished / wanted.name, built)
    return built
