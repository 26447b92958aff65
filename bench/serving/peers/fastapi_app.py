"""What one writes without a model server: FastAPI, pydantic and scikit-learn, the protocol's own JSON."""

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
    """The protocol's answer."""

    model_name: str
    outputs: list[Tensor]


app = FastAPI()
model = joblib.load(os.environ["MODEL_FILE"])


@app.get("/v2/health/ready")
async def ready() -> None:
    """200 once the model is loaded."""


# Not `def`: that would go through FastAPI's pool of threads, which costs twice as much as this model.
@app.post("/v2/models/model/infer")
async def infer(request: InferenceRequest) -> InferenceResponse:
    """Predict the rows of the first input."""
    tensor = request.inputs[0]
    labels = model.predict(np.array(tensor.data).reshape(tensor.shape))
    output = Tensor(name="predict", shape=list(labels.shape), datatype="INT64", data=labels.tolist())
    return InferenceResponse(model_name="model", outputs=[output])
