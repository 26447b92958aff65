"""A model server for tables written by hand: FastAPI, pydantic and pandas, with the JSON of the V2 protocol."""

import os
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    """An input or an output."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, str] = {}


class InferenceRequest(BaseModel):
    """The protocol's request."""

    inputs: list[Tensor]


class InferenceResponse(BaseModel):
    """The protocol's response."""

    model_name: str
    outputs: list[Tensor]


app = FastAPI()
model = joblib.load(os.environ["MODEL_FILE"])


@app.get("/v2/health/ready")
async def ready() -> None:
    """Return 200 when the model is loaded."""


# Not `def`: FastAPI would run it in its thread pool, which costs more.
@app.post("/v2/models/model/infer")
async def infer(request: InferenceRequest) -> InferenceResponse:
    """Predict the rows of a table with one input for each column."""
    table = pd.DataFrame({tensor.name: tensor.data for tensor in request.inputs})
    for tensor in request.inputs:
        if tensor.parameters.get("content_type") == "datetime":
            table[tensor.name] = pd.to_datetime(table[tensor.name])
    labels = model.predict(table)
    output = Tensor(name="predict", shape=list(labels.shape), datatype="INT64", data=labels.tolist())
    return InferenceResponse(model_name="model", outputs=[output])
