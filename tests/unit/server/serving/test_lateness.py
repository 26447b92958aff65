"""A deadline that cannot be met: the text, and whether a retry helps, from the batcher to each transport."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from mlmodel_server.engine.batching import MARGIN, Late
from mlmodel_server.rest.exchange import HEADER
from mlmodel_server.rpc.exchange import CALL
from mlmodel_server.rpc.service import GrpcServer
from mlmodel_server.serving.context import Limits
from mlmodel_server.serving.lateness import SERVER, explained
from mlmodel_server.serving.pipeline import Pipeline
from tests.unit.server.doubling import serving
from tests.unit.server.rest.test_app import application, request
from tests.unit.server.rpc.test_service import Client, run

SECONDS = 2.0
"""Expected seconds of one row of the slow model."""


@pytest.mark.parametrize(
    ("late", "allowed", "limit", "text", "retry_after"),
    [
        (
            Late(1, 0.12, 0.12), 0.05, HEADER,
            "predicting 1 row takes about 120 ms, and x-mlmodel-timeout-ms allows 50 ms: send x-mlmodel-timeout-ms: "
            "150 or more (in a cluster at most spec.traffic.timeoutSeconds of the MLModel)", 0,
        ),
        (
            Late(300, 41.0, 40.0), 10.0, SERVER,
            "predicting 300 rows takes about 40000 ms, and --timeout of the server allows 10000 ms: raise --timeout "
            "to 50 s or more (in a cluster spec.traffic.timeoutSeconds of the MLModel), or send fewer rows", 0,
        ),
        (
            Late(1, 0.3, 0.01), 0.05, CALL,
            "the server is busy: this request takes about 300 ms now, and the deadline of the call allows 50 ms: retry "
            "after 1 s, or set a deadline of 380 ms or more (in a cluster at most spec.traffic.timeoutSeconds of the "
            "MLModel)", 1,
        ),
        (
            Late(1, 0.0, 0.0), 0.0, HEADER,
            "predicting 1 row takes about 1 ms, and x-mlmodel-timeout-ms allows 0 ms: send x-mlmodel-timeout-ms: 1 or "
            "more (in a cluster at most spec.traffic.timeoutSeconds of the MLModel)", 0,
        ),
    ],
)  # fmt: skip
def test_the_text_names_the_deadline_and_how_to_allow_more(
    late: Late, allowed: float, limit: Any, text: str, retry_after: int
) -> None:
    error = explained(late, allowed, limit)
    assert str(error) == text
    assert (error.status, error.reason, error.retry_after) == (503, "deadline", retry_after)


def test_the_time_of_the_text_is_enough() -> None:
    for milliseconds in range(1, 3000, 7):
        late = Late(1, 0.0, milliseconds / 1000)
        words = str(explained(late, 0.0, HEADER)).split("x-mlmodel-timeout-ms: ")[1]
        assert int(words.split()[0]) >= milliseconds * MARGIN * (1 - 1e-9)


def test_over_http_a_prediction_that_takes_longer_than_the_deadline_is_not_called_retryable() -> None:
    app = application(("predict",), seconds=SECONDS, limits=Limits(timeout=1.0))

    async def answers() -> list[Any]:
        app.pipeline.start(0)
        body = json.dumps({"instances": [[1.0]]}).encode()
        sent = [
            await request(app, "POST", "/v1/models/double:predict", body, **headers)
            for headers in ({}, {"x_mlmodel_timeout_ms": "20"}, {"x_mlmodel_timeout_ms": "60000"})
        ]
        await app.pipeline.stop()
        return sent

    (by_server, headers, server), (by_header, _, header), (fits, _, _) = asyncio.run(answers())
    assert (by_server, by_header, fits) == (503, 503, 200)
    assert b"retry-after" not in dict(headers)
    assert dict(headers)[b"x-mlmodel-late"] == b"true"
    assert json.loads(server)["error"].startswith("predicting 1 row takes about 2000 ms, and --timeout of the server")
    assert "x-mlmodel-timeout-ms allows 20 ms: send x-mlmodel-timeout-ms: 2500 or more" in json.loads(header)["error"]
    assert app.pipeline.serving.recorder.report()["requests"] == {"200": 1, "503": 2}


def test_over_grpc_it_has_a_code_that_clients_do_not_retry() -> None:
    async def test(client: Client, _: GrpcServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer()
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "--timeout of the server allows 1000 ms" in (caught.value.details() or "")

    run(test, Pipeline(serving(seconds=SECONDS, limits=Limits(timeout=1.0))))


def test_one_slow_batch_does_not_reject_later_requests_forever() -> None:
    app = application(("predict",), seconds=0.1)
    cost = app.pipeline.serving.cost
    cost.factor = 90.0  # as after a batch that took 100 times as long

    async def whole() -> list[int]:
        app.pipeline.start(0)
        body = json.dumps({"instances": [[1.0]]}).encode()
        path, headers = "/v1/models/double:predict", {"x_mlmodel_timeout_ms": "5000"}
        statuses = [(await request(app, "POST", path, body, **headers))[0] for _ in range(40)]
        await app.pipeline.stop()
        return statuses

    statuses = asyncio.run(whole())
    assert statuses[0] == 503
    assert statuses[-1] == 200, "it recovers"
