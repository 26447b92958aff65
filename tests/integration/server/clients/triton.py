"""tritonclient: HTTP and gRPC, synchronous and with asyncio."""

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

TARGET = json.loads(sys.argv[1])
MODEL = TARGET["model"]
ADDRESS = TARGET["url"].removeprefix("http://")


def inputs(kind, **options):
    made = []
    for tensor in TARGET["inputs"]:
        sent = kind.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        array = np.array(tensor["data"], triton_to_np_dtype(tensor["datatype"])).reshape(tensor["shape"])
        sent.set_data_from_numpy(array, **options)
        made.append(sent)
    return made


def by_name(result, names=("predict",)):
    answer = {}
    for name in names:
        array = result.as_numpy(name)
        texts = [part.decode() if isinstance(part, bytes) else part for part in array.ravel().tolist()]
        answer[name] = {"shape": list(array.shape), "data": texts}
    return answer


def error_of(error):
    return {"status": str(error.status()), "message": error.message()}


def http():
    with triton_http.InferenceServerClient(ADDRESS) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, TARGET["version"])
        assert not client.is_model_ready("no-such-model")
        binary = [triton_http.InferRequestedOutput(name) for name in TARGET["outputs"]]
        text = [triton_http.InferRequestedOutput(name, binary_data=False) for name in TARGET["outputs"]]
        cases = {
            "metadata": client.get_model_metadata(MODEL),
            "server": client.get_server_metadata(),
            "defaults": by_name(client.infer(MODEL, inputs(triton_http))),
            "version": by_name(client.infer(MODEL, inputs(triton_http), model_version=TARGET["version"])),
            "outputs": by_name(client.infer(MODEL, inputs(triton_http), outputs=binary), TARGET["outputs"]),
            "json": by_name(
                client.infer(MODEL, inputs(triton_http, binary_data=False), outputs=text), TARGET["outputs"]
            ),
            "mixed": by_name(client.infer(MODEL, inputs(triton_http, binary_data=False))),
            "gzip": by_name(client.infer(MODEL, inputs(triton_http), request_compression_algorithm="gzip")),
            "deflate": by_name(client.infer(MODEL, inputs(triton_http), request_compression_algorithm="deflate")),
            "asynchronous": by_name(client.async_infer(MODEL, inputs(triton_http)).get_result()),
            "id": client.infer(MODEL, inputs(triton_http), request_id="größe").get_response()["id"],
        }
        try:
            client.infer(MODEL, inputs(triton_http)[:-1] or [triton_http.InferInput("x", [1], "FP32")])
        except InferenceServerException as error:
            cases["error"] = error_of(error)
        return cases


async def http_aio():
    async with triton_http_aio.InferenceServerClient(ADDRESS) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        text = [triton_http_aio.InferRequestedOutput(name, binary_data=False) for name in TARGET["outputs"]]
        plain = inputs(triton_http_aio, binary_data=False)
        return {
            "defaults": by_name(await client.infer(MODEL, inputs(triton_http_aio))),
            "json": by_name(await client.infer(MODEL, plain, outputs=text), TARGET["outputs"]),
            "metadata": await client.get_model_metadata(MODEL),
        }


def grpc():
    with triton_grpc.InferenceServerClient(TARGET["grpc"]) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        outputs = [triton_grpc.InferRequestedOutput(name) for name in TARGET["outputs"]]
        cases = {
            "metadata": client.get_model_metadata(MODEL, as_json=True),
            "server": client.get_server_metadata(as_json=True),
            "defaults": by_name(client.infer(MODEL, inputs(triton_grpc))),
            "version": by_name(client.infer(MODEL, inputs(triton_grpc), model_version=TARGET["version"])),
            "outputs": by_name(client.infer(MODEL, inputs(triton_grpc), outputs=outputs), TARGET["outputs"]),
            "deadline": by_name(client.infer(MODEL, inputs(triton_grpc), client_timeout=30)),
            "gzip": by_name(client.infer(MODEL, inputs(triton_grpc), compression_algorithm="gzip")),
            "id": client.infer(MODEL, inputs(triton_grpc), request_id="größe").get_response().id,
        }
        try:
            client.infer("no-such-model", inputs(triton_grpc))
        except InferenceServerException as error:
            cases["error"] = error_of(error)
        return cases


async def grpc_aio():
    async with triton_grpc_aio.InferenceServerClient(TARGET["grpc"]) as client:
        assert await client.is_server_ready()
        return {"defaults": by_name(await client.infer(MODEL, inputs(triton_grpc_aio)))}


print(json.dumps({
    "http": http(), "http_aio": asyncio.run(http_aio()), "grpc": grpc(), "grpc_aio": asyncio.run(grpc_aio()),
}))  # fmt: skip
