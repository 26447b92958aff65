"""Responses of v1: a prediction for each row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.protocol import v1
from mlmodel_server.tensors import InferResponse, named


def predictions(**outputs: Any) -> Any:
    response = InferResponse("id", [named(name, np.array(array)) for name, array in outputs.items()])
    answer = json.loads(v1.encode(response))
    assert answer.keys() == {"predictions"}
    return answer["predictions"]


def test_one_output_is_a_value_for_each_row() -> None:
    assert predictions(predict=["a", "b"]) == ["a", "b"]
    assert predictions(predict=[2**53 + 1, -1]) == [2**53 + 1, -1]
    assert predictions(predict=[[0.25, 0.75]]) == [[0.25, 0.75]]
    assert predictions(predict=np.arange(8).reshape(2, 2, 2)) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert predictions(predict=np.array([["a"], ["b"]], object)) == [["a"], ["b"]]
    assert predictions(predict=np.zeros((2, 0))) == [[], []]


def test_several_outputs_are_an_object_for_each_row() -> None:
    answer = predictions(predict=["a", "b"], predict_proba=[[0.9, 0.1], [0.2, 0.8]])
    assert answer == [{"predict": "a", "predict_proba": [0.9, 0.1]}, {"predict": "b", "predict_proba": [0.2, 0.8]}]


def test_nan_of_a_model_is_a_failure_and_never_null() -> None:
    with pytest.raises(ModelFailure, match="output predict has NaN"):
        predictions(predict=[np.nan])


def test_outputs_with_different_numbers_of_rows_cannot_share_an_answer() -> None:
    response = InferResponse(None, [named("a", np.array([1.0, 2.0])), named("b", np.array([1.0]))])
    with pytest.raises(RequestError, match="the outputs a, b have different numbers of rows: request one of them"):
        v1.encode(response)
