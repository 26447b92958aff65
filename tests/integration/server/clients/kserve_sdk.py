"""The inference clients of the KServe SDK: REST with both protocols, and gRPC."""

# mypy: ignore-errors

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

TARGET = json.loads(sys.argv[1])
MODEL, URL = TARGET["model"], TARGET["url"]
DTYPES = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": object}


def request(binary, flat=False):
    made = []
    for tensor in TARGET["inputs"]:
        array = np.array(tensor["data"], DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
        if binary is None:
            made.append(
                InferInput(
                    tensor["name"],
                    tensor["shape"],
                    tensor["datatype"],
                    data=(array.ravel() if flat else array).tolist(),
                )
            )
            continue
        sent = InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        sent.set_data_from_numpy(array, binary_data=binary)
        made.append(sent)
    return InferRequest(model_name=MODEL, infer_inputs=made)


def by_name(response):
    answer = {}
    for output in response.outputs:
        array = output.as_numpy()
        texts = [part.decode() if isinstance(part, bytes) else part for part in array.ravel().tolist()]
        answer[output.name] = {"shape": list(array.shape), "data": texts}
    return answer


async def rest():
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(URL)
        assert await client.is_server_ready(URL)
        assert await client.is_model_ready(URL, MODEL)
        assert not await client.is_model_ready(URL, "no-such-model")
        plain = {"inputs": TARGET["inputs"]}
        cases = {
            "dict": by_name(await client.infer(URL, plain, MODEL)),
            "binary": by_name(await client.infer(URL, request(True), MODEL)),
            "json": by_name(await client.infer(URL, request(False), MODEL)),
            "lists": by_name(await client.infer(URL, request(None), MODEL)),
        }
        try:
            await client.infer(URL, {"inputs": []}, MODEL)
        except httpx.HTTPStatusError as error:
            cases["error"] = {"status": str(error.response.status_code), "message": str(error)}
        return cases


async def v1():
    async with InferenceRESTClient() as client:  # v1 is the default
        assert await client.is_server_live(URL)
        assert await client.is_model_ready(URL, MODEL)
        return {"predictions": (await client.infer(URL, {"instances": TARGET["rows"]}, MODEL))["predictions"]}


async def grpc():
    async with InferenceGRPCClient(TARGET["grpc"]) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        return {
            "binary": by_name(await client.infer(request(True))),
            "typed": by_name(await client.infer(request(False))),
            "lists": by_name(await client.infer(request(None, flat=True))),
        }


print(json.dumps({"rest": asyncio.run(rest()), "v1": asyncio.run(v1()), "grpc": asyncio.run(grpc())}))
