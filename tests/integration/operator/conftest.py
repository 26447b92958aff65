"""Fixtures for tests on an API server without nodes."""

from __future__ import annotations

import pytest

from hack import ROOT
from hack.cluster import Cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the sizes of the attacks on the operator."""
    group = parser.getgroup("operator")
    group.addoption("--fat", type=int, default=40, metavar="N", help="fat objects of a tenant, of each kind (40)")
    group.addoption("--liars", type=int, default=14, metavar="N", help="lying pods of a tenant (14)")


@pytest.fixture
def crd(apiserver: Cluster) -> None:
    """Installs the CRD of MLModel on the API server."""
    apiserver.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "mlmodels.yaml"))
    apiserver.kubectl("wait", "--for=condition=Established", "crd/mlmodels.mlmodel.dev", "--timeout=30s")
