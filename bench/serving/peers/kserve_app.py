"""A model with the KServe Python SDK, written as in its documentation; its scikit-learn server uses the same base."""

import os
from typing import Any
from uuid import uuid4

import joblib
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # type: ignore[import-not-found]


class Sklearn(Model):  # type: ignore[misc]
    """One joblib file."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.estimator = joblib.load(os.environ["MODEL_FILE"])
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Predict the rows of the first input."""
        labels = self.estimator.predict(payload.inputs[0].as_numpy())
        output = InferOutput(name="predict", shape=list(labels.shape), datatype="INT64", data=labels.tolist())
        return InferResponse(response_id=str(uuid4()), model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, workers=1).start([Sklearn("model")])
