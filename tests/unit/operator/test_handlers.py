"""What kopf reads of the API server."""

from __future__ import annotations

import pytest

from mlmodel_operator.controller import MODELS
from mlmodel_operator.handlers import _is_list
from mlmodel_operator.runtime.resource import DEPLOYMENTS


@pytest.mark.parametrize("namespace", [None, "bank"])
def test_lists_of_the_cluster_and_of_one_namespace_are_reduced(namespace: str | None) -> None:
    assert _is_list(MODELS.path(namespace), MODELS)


@pytest.mark.parametrize("path", ["/apis", MODELS.path("bank", "fraud"), DEPLOYMENTS.path("bank")])
def test_other_responses_stay_as_they_are(path: str) -> None:
    assert not _is_list(path, MODELS)
