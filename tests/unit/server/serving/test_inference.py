"""Which requests the event loop predicts itself, and from which the server learns what a prediction costs."""

from __future__ import annotations

import asyncio
from time import perf_counter

import numpy as np
import pytest

from mlmodel_server.engine.batching import Batcher
from mlmodel_server.engine.cost import Cost
from mlmodel_server.engine.model import Model
from mlmodel_server.manifest import Signature
from mlmodel_server.serving.inference import CPU_EVERY, Inference
from mlmodel_server.tensors import InferRequest, TensorSpec, named
from tests.unit.server.doubling import SIGNATURE, doubled, serving

OUTPUTS = tuple(TensorSpec(name, "FP64", (-1,)) for name in ("predict", "predict_proba", "score_samples"))
MODEL = Model(doubled, Signature("columns", SIGNATURE.inputs, OUTPUTS))


def test_an_output_whose_cost_is_not_known_waits_for_the_thread() -> None:
    served = serving()
    served.model = MODEL
    inference = Inference(served)
    row = [named("x", np.array([1.0]))]
    for outputs, is_quick in (
        (None, True),
        (["predict_proba", "predict"], True),
        (["score_samples"], False),
        (["predict", "score_samples"], False),
    ):
        assert inference.is_quick(inference.call(InferRequest(None, row, outputs))) is is_quick


def test_a_model_with_a_dataframe_waits_for_the_thread_however_fast_it_is() -> None:
    """For a row that its compiled form does not take, the DataFrame is made, which takes milliseconds."""
    served = serving()
    served.model = Model(doubled, Signature("columns", SIGNATURE.inputs, OUTPUTS, frame=True))
    inference = Inference(served)
    assert not inference.is_fast
    assert not inference.is_quick(inference.call(InferRequest(None, [named("x", np.array([1.0]))], None)))


def test_the_cost_is_learnt_from_the_usual_outputs_alone() -> None:
    cost = Cost(1e-9, 1e-9)

    async def predict(*outputs: str) -> None:
        batcher = Batcher(MODEL, cost, max_rows=8, max_waiting=8, on_batch=lambda _: None)
        batcher.start()
        await batcher.submit(np.array([[1.0]]), outputs, perf_counter() + 30)
        batcher.stop()

    asyncio.run(predict("score_samples"))
    assert cost.factor == 1.0
    asyncio.run(predict("predict"))
    assert cost.factor > 1.0


def test_of_quick_calls_every_sixteenth_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    served = serving()
    served.model = MODEL
    measured: list[int] = []
    monkeypatch.setattr(served.recorder, "record_cpu", lambda requests, _: measured.append(requests))
    inference = Inference(served)
    call = inference.call(InferRequest(None, [named("x", np.array([1.0]))], ["predict"]))
    for _ in range(3 * CPU_EVERY):
        inference.predict_now(call)
    assert measured == [1] * 3
    for _ in range(2 * CPU_EVERY):
        inference.predict_together([call, call])
    assert measured[3:] == [2] * 2
