"""Before its first reconcile, the operator waits for a CustomResourceDefinition that keeps its status."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from mlmodel_operator.api.crd import crd
from mlmodel_operator.crd_check import RETRY_SECONDS, CrdCheck
from mlmodel_operator.names import CRD
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.log import LineFormatter
from mlmodel_operator.runtime.resource import CRDS
from tests.unit.operator.runtime.support import FakeClock, MemoryApi, asynchronous

GET = ("get", "customresourcedefinitions", CRD)


def older() -> dict[str, Any]:
    """Return the CustomResourceDefinition of a release whose status had no format."""
    body = copy.deepcopy(crd())
    del body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["formatVersion"]
    return body


class Scene:
    """A check that has just started."""

    def __init__(self) -> None:
        self.api, self.clock = MemoryApi(), FakeClock()
        self.check = CrdCheck(self.api, self.clock)
        self.waiting = asyncio.create_task(self.check.wait())


@asynchronous
async def test_the_definition_of_this_release_is_read_once(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    assert "has not been read yet" in scene.check.problem
    await scene.api.create(CRDS, crd())
    await scene.clock.advance(0)
    assert scene.waiting.done()
    assert scene.check.problem == ""
    assert scene.api.calls[1:] == [GET]
    assert caplog.records == []


@asynchronous
async def test_an_older_definition_is_logged_once_until_it_is_upgraded(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    await scene.api.create(CRDS, older())
    await scene.clock.advance(10 * RETRY_SECONDS)
    assert not scene.waiting.done()
    assert "older than this operator: type `kubectl apply -f crds/mlmodels.yaml`" in scene.check.problem
    assert scene.api.calls.count(GET) == 11
    (record,) = caplog.records
    assert scene.check.problem in LineFormatter().format(record)
    await scene.api.apply(CRDS, crd(), "kubectl")
    await scene.clock.advance(RETRY_SECONDS)
    assert scene.waiting.done()
    assert scene.check.problem == ""


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ApiError(404, "NotFound", "no"), "has no CustomResourceDefinition mlmodels.mlmodel.dev: type `kubectl apply"),
        (
            ApiError(403, "Forbidden", "no"),
            "may not read the CustomResourceDefinition mlmodels.mlmodel.dev: type `kubectl apply",
        ),
        (ApiError(0, "Unreachable", "connection refused"), "cannot be read (Unreachable: connection refused)"),
    ],
    ids=["missing", "forbidden", "unreachable"],
)
@asynchronous
async def test_a_definition_that_cannot_be_read_is_retried_and_the_reason_reported(
    error: ApiError, problem: str
) -> None:
    scene = Scene()
    scene.api.refusals[GET] = error
    await scene.clock.advance(RETRY_SECONDS)
    assert not scene.waiting.done()
    assert problem in scene.check.problem
    scene.api.refusals.clear()
    await scene.api.create(CRDS, crd())
    await scene.clock.advance(RETRY_SECONDS)
    assert scene.waiting.done()


@asynchronous
async def test_an_operator_for_some_namespaces_works_without_the_right_to_read_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api, clock = MemoryApi(), FakeClock()
    api.refusals[GET] = ApiError(403, "Forbidden", "may not get")
    check = CrdCheck(api, clock, is_optional=True)
    await check.wait()
    assert check.problem == ""
    (record,) = caplog.records
    assert "kubectl apply -f crds/mlmodels.yaml" in LineFormatter().format(record)
