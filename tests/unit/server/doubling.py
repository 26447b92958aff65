"""A served model that doubles numbers: ``x`` [rows] in, ``y`` [rows] out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlmodel_server.engine.cost import Cost
from mlmodel_server.engine.model import Model
from mlmodel_server.formats.opened import Table
from mlmodel_server.manifest import Signature
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.feedback import Feedback
from mlmodel_server.observe.ids import PredictionIds, key_of
from mlmodel_server.observe.metrics import Recorder
from mlmodel_server.serving.context import Limits, Serving
from mlmodel_server.tensors import TensorSpec

IDENTITY = Identity("double", "v1", "r1")
SIGNATURE = Signature("columns", (TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))


def doubled(table: Table, wanted: Sequence[str]) -> list[Any]:
    """Predict: return twice the first column for each output."""
    array = np.asarray(table)
    return [array[:, 0] * 2 for _ in wanted]


def serving(*, seconds: float = 1e-6, limits: Limits | None = None, **more: Any) -> Serving:
    """Return the model ``double`` with an assumed cost of ``seconds`` per row."""
    ids = PredictionIds(key_of("double"), IDENTITY, "other")
    return Serving(
        identity=IDENTITY,
        model=Model(
            doubled, Signature("columns", (TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))
        ),
        platform="test",
        example=b"{}",
        recorder=Recorder(IDENTITY),
        ids=ids,
        feedback=Feedback(ids, IDENTITY),
        cost=Cost(seconds, seconds),
        limits=limits or Limits(),
        **more,
    )
