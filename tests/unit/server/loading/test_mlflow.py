"""MLflow's description is YAML with JSON inside, written by anyone: it is refused, or what does not fit is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import TensorSpec
from tests.unit.server.models import iris, joblib_bytes

FLAVOURS = "flavors:\n  sklearn: {pickled_model: model.pkl}\n"


def served(description: str) -> Model:
    files = {"MLmodel": description.encode(), "model.pkl": joblib_bytes(iris()[0])}
    loaded = load(Memory(files, "MLmodel"))
    return model_of(loaded.opened, None)


@pytest.mark.parametrize(
    "value", ["!!timestamp x", "!!int ''", "!!bool x", "!!float _", "!!binary x", "!!python/name:os.system", "9" * 6000]
)
def test_a_value_that_does_not_fit_its_tag_is_refused_in_one_sentence(value: str) -> None:
    with pytest.raises(RefusedModel, match=r"^MLmodel is not a YAML description of a model"):
        served(f"{FLAVOURS}other: {value}\n")


@pytest.mark.parametrize("path", ["MLmodel", "../model.pkl", "/model.pkl", "missing.pkl"])
def test_a_flavour_names_another_file_of_the_directory(path: str) -> None:
    with pytest.raises(RefusedModel, match="names a file for its flavour sklearn that is not in the directory"):
        served(f"flavors:\n  sklearn: {{pickled_model: {path}}}\n")


SPECS: list[Any] = [
    {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [float("inf"), 4]}},
    {"type": "tensor", "tensor-spec": {"dtype": "i4,(2,", "shape": [-1, 4]}},
    {"type": "tensor", "tensor-spec": {"dtype": ["float64"], "shape": [-1, 4]}},
    {"type": "tensor", "tensor-spec": {"dtype": "V99999999999999", "shape": [-1, 4]}},
    {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": 4}},
    {"type": ["double"], "name": "a"},
    "double",
    1,
    None,
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_signature_that_is_not_one_is_left_out(spec: Any) -> None:
    model = served(f"{FLAVOURS}signature: {{inputs: '{json.dumps([spec])}', outputs: '[]'}}\n")
    assert [entry.name for entry in model.signature.inputs] == ["input-0"]
    assert len(model.predict(iris()[1], ("predict",))[0]) == len(iris()[1])


def test_dates_are_refused_because_their_type_is_not_known() -> None:
    columns = [{"type": "double", "name": "a"}, {"type": "datetime", "name": "since"}]
    with pytest.raises(
        RefusedModel, match=r"has columns of dates \('since'\).*mlmodel package FILE --data rows\.csv --d"
    ):
        served(f"{FLAVOURS}signature: {{inputs: '{json.dumps(columns)}', outputs: '[]'}}\n")


def test_a_row_that_a_machine_cannot_hold_is_not_made() -> None:
    spec = TensorSpec("x", "FP32", (-1, 10**6, 10**6))
    model = Model(lambda *_: [], Signature("tensors", (spec,), (TensorSpec("y", "FP32", (-1,)),)))
    with pytest.raises(RefusedModel, match=r"takes 1,000,000,000,000 values of 'x' for one row, more than 16,777,216"):
        selftest.example(model, {})
