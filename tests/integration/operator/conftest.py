"""Fixtures for tests on an API server without nodes."""

from __future__ import annotations

import pytest

from hack import ROOT
from hack.cluster import Cluster


@pytest.fixture
def crd(apiserver: Cluster) -> None:
    """Installs the CRD of MLModel on the API server."""
    apiserver.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "mlmodels.yaml"))
    apiserver.kubectl("wait", "--for=condition=Established", "crd/mlmodels.mlmodel.dev", "--timeout=30s")
