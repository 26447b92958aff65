"""tritonclient: HTTP and gRPC, both as they are and for asyncio."""

# mypy: ignore-errors

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

ASK = json.loads(sys.argv[1])
MODEL = ASK["model"]
ADDRESS = ASK["url"].removeprefix("http://")


def inputs(kind, **options):
    made = []
    for tensor in ASK["inputs"]:
        sent = kind.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        array = np.array(tensor["data"], triton_to_np_dtype(tensor["datatype"])).reshape(tensor["shape"])
        sent.set_data_from_numpy(array, **options)
        made.append(sent)
    return made


def told(result, names=("predict",)):
    answer = {}
    for name in names:
        array = result.as_numpy(name)
        texts = [part.decode() if isinstance(part, bytes) else part for part in array.ravel().tolist()]
        answer[name] = {"shape": list(array.shape), "data": texts}
    return answer


def refusal(error):
    return {"status": str(error.status()), "message": error.message()}


def http():
    with triton_http.InferenceServerClient(ADDRESS) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, ASK["version"])
        assert not client.is_model_ready("no-such-model")
        asked = [triton_http.InferRequestedOutput(name) for name in ASK["outputs"]]
        text = [triton_http.InferRequestedOutput(name, binary_data=False) for name in ASK["outputs"]]
        cases = {
            "metadata": client.get_model_metadata(MODEL),
            "server": client.get_server_metadata(),
            "defaults": told(client.infer(MODEL, inputs(triton_http))),
            "version": told(client.infer(MODEL, inputs(triton_http), model_version=ASK["version"])),
            "outputs": told(client.infer(MODEL, inputs(triton_http), outputs=asked), ASK["outputs"]),
            "json": told(client.infer(MODEL, inputs(triton_http, binary_data=False), outputs=text), ASK["outputs"]),
            "mixed": told(client.infer(MODEL, inputs(triton_http, binary_data=False))),
            "gzip": told(client.infer(MODEL, inputs(triton_http), request_compression_algorithm="gzip")),
            "deflate": told(client.infer(MODEL, inputs(triton_http), request_compression_algorithm="deflate")),
            "asynchronous": told(client.async_infer(MODEL, inputs(triton_http)).get_result()),
            "id": client.infer(MODEL, inputs(triton_http), request_id="größe").get_response()["id"],
        }
        try:
            client.infer(MODEL, inputs(triton_http)[:-1] or [triton_http.InferInput("x", [1], "FP32")])
        except InferenceServerException as error:
            cases["refused"] = refusal(error)
        return cases


async def http_aio():
    async with triton_http_aio.InferenceServerClient(ADDRESS) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        text = [triton_http_aio.InferRequestedOutput(name, binary_data=False) for name in ASK["outputs"]]
        plain = inputs(triton_http_aio, binary_data=False)
        return {
            "defaults": told(await client.infer(MODEL, inputs(triton_http_aio))),
            "json": told(await client.infer(MODEL, plain, outputs=text), ASK["outputs"]),
            "metadata": await client.get_model_metadata(MODEL),
        }


def grpc():
    with triton_grpc.InferenceServerClient(ASK["grpc"]) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        asked = [triton_grpc.InferRequestedOutput(name) for name in ASK["outputs"]]
        cases = {
            "metadata": client.get_model_metadata(MODEL, as_json=True),
            "server": client.get_server_metadata(as_json=True),
            "defaults": told(client.infer(MODEL, inputs(triton_grpc))),
            "version": told(client.infer(MODEL, inputs(triton_grpc), model_version=ASK["version"])),
            "outputs": told(client.infer(MODEL, inputs(triton_grpc), outputs=asked), ASK["outputs"]),
            "deadline": told(client.infer(MODEL, inputs(triton_grpc), client_timeout=30)),
            "gzip": told(client.infer(MODEL, inputs(triton_grpc), compression_algorithm="gzip")),
            "id": client.infer(MODEL, inputs(triton_grpc), request_id="größe").get_response().id,
        }
        try:
            client.infer("no-such-model", inputs(triton_grpc))
        except InferenceServerException as error:
            cases["refused"] = refusal(error)
        return cases


async def grpc_aio():
    async with triton_grpc_aio.InferenceServerClient(ASK["grpc"]) as client:
        assert await client.is_server_ready()
        return {"defaults": told(await client.infer(MODEL, inputs(triton_grpc_aio)))}


print(json.dumps({
    "http": http(), "http_aio": asyncio.run(http_aio()), "grpc": grpc(), "grpc_aio": asyncio.run(grpc_aio()),
}))  # fmt: skip
