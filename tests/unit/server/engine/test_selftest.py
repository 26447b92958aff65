"""What the self-test says about a model that answers otherwise than when it was saved."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model
from mlmodel_server.errors import RefusedModel
from mlmodel_server.manifest import Golden, Signature
from mlmodel_server.tensors import TensorSpec

SIGNATURE = Signature("matrix", (TensorSpec("x", "FP64", (-1, 1)),), (TensorSpec("predict", "FP64", (-1,)),))
GOLDEN = Golden(
    ({"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1.0, 2.0]},),
    ({"name": "predict", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]},),
)


def served(factor: float) -> Model:
    return Model(lambda table, outputs: [np.asarray(table)[:, 0] * factor for _ in outputs], SIGNATURE)


def test_the_same_answers_pass() -> None:
    selftest.run(served(1), GOLDEN, {"numpy": "0.1"})


def test_other_libraries_are_named_as_the_reason() -> None:
    words = rf"2 of 2 .* libraries of this server \(numpy: saved with 0\.1, served with {np.__version__}\)"
    with pytest.raises(RefusedModel, match=words):
        selftest.run(served(2), GOLDEN, {"numpy": "0.1", "absent": "1"})


def test_libraries_of_the_same_version_are_not_blamed() -> None:
    with pytest.raises(RefusedModel, match="the libraries are those that saved it, so") as caught:
        selftest.run(served(2), GOLDEN, {"numpy": np.__version__})
    assert "library versions" not in str(caught.value)
    assert msgspec.json.encode(str(caught.value)).isascii()
