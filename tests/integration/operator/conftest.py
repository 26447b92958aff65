"""What tests on an API server without nodes share."""

from __future__ import annotations

import pytest

from hack import ROOT
from hack.cluster import Cluster


@pytest.fixture
def crd(apiserver: Cluster) -> None:
    """The MLModel resource is known to the API server."""
    apiserver.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "mlmodels.yaml"))
    apiserver.kubectl("wait", "--for=condition=Established", "crd/mlmodels.mlmodel.dev", "--timeout=30s")
