"""The inference clients of the KServe SDK: REST in both of its protocols, and gRPC."""

# mypy: ignore-errors

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

ASK = json.loads(sys.argv[1])
MODEL, URL = ASK["model"], ASK["url"]
DTYPES = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": object}


def request(binary, flat=False):
    made = []
    for tensor in ASK["inputs"]:
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


def told(response):
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
        plain = {"inputs": ASK["inputs"]}
        cases = {
            "dict": told(await client.infer(URL, plain, MODEL)),
            "binary": told(await client.infer(URL, request(True), MODEL)),
            "json": told(await client.infer(URL, request(False), MODEL)),
            "lists": told(await client.infer(URL, request(None), MODEL)),
        }
        try:
            await client.infer(URL, {"inputs": []}, MODEL)
        except httpx.HTTPStatusError as error:
            cases["refused"] = {"status": str(error.response.status_code), "message": str(error)}
        return cases


async def v1():
    async with InferenceRESTClient() as client:  # v1 is its default
        assert await client.is_server_live(URL)
        assert await client.is_model_ready(URL, MODEL)
        return {"predictions": (await client.infer(URL, {"instances": ASK["rows"]}, MODEL))["predictions"]}


async def grpc():
    async with InferenceGRPCClient(ASK["grpc"]) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        return {
            "binary": told(await client.infer(request(True))),
            "typed": told(await client.infer(request(False))),
            "lists": told(await client.infer(request(None, flat=True))),
        }


print(json.dumps({"rest": asyncio.run(rest()), "v1": asyncio.run(v1()), "grpc": asyncio.run(grpc())}))
