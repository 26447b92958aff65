"""Codecs of MLServer: arrays, tables and texts to requests, and responses back."""

# mypy: ignore-errors

import json
import sys
import urllib.request

import numpy as np
import pandas as pd
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, RequestOutput

TARGET = json.loads(sys.argv[1])


def post(request):
    body = request.model_dump_json().encode()
    address = f"{TARGET['url']}/v2/models/{TARGET['model']}/infer"
    sent = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(sent) as answer:
        return InferenceResponse.model_validate_json(answer.read())


def by_name(name, values):
    array = np.asarray(values)
    texts = [part.decode() if isinstance(part, bytes) else part for part in array.ravel().tolist()]
    return {name: {"shape": list(array.shape), "data": texts}}


cases = {}
columns = {tensor["name"]: tensor["data"] for tensor in TARGET["inputs"]}
if len(columns) == 1:
    (tensor,) = TARGET["inputs"]
    array = np.array(tensor["data"], np.float64).reshape(tensor["shape"])
    cases["numpy"] = by_name(
        "predict", StringCodec.decode_output(post(NumpyRequestCodec.encode_request(array)).outputs[0])
    )
    request = InferenceRequest(
        id="größe",
        inputs=[NumpyCodec.encode_input(tensor["name"], array)],
        outputs=[RequestOutput(name="predict_proba")],
    )
    response = post(request)
    assert response.id == "größe"
    cases["proba"] = by_name("predict_proba", NumpyCodec.decode_output(response.outputs[0]))
else:
    table = pd.DataFrame(columns)
    response = post(PandasCodec.encode_request(table))
    cases["pandas"] = by_name("predict", PandasCodec.decode_response(response)["predict"].to_numpy())
    texts = [
        StringCodec.encode_input(tensor["name"], tensor["data"])
        if tensor["datatype"] == "BYTES"
        else NumpyCodec.encode_input(tensor["name"], np.array(tensor["data"]))
        for tensor in TARGET["inputs"]
    ]
    cases["texts"] = by_name("predict", StringCodec.decode_output(post(InferenceRequest(inputs=texts)).outputs[0]))

print(json.dumps({"codecs": cases}))
