"""A model server written by hand: FastAPI, pydantic and scikit-learn, with the JSON of the V2 protocol."""

import os

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    """An input or an output."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


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


# Not `def`: FastAPI would run it in its thread pool, which costs twice as much as this model.
@app.post("/v2/models/model/infer")
async def infer(request: InferenceRequest) -> InferenceResponse:
    """Predict the rows of the first input."""
    tensor = request.inputs[0]
    labels = model.predict(np.array(tensor.data).reshape(tensor.shape))
    output = Tensor(name="predict", shape=list(labels.shape), datatype="INT64", data=labels.tolist())
    return InferenceResponse(model_name="model", outputs=[output])
