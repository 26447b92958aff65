"""``client.py`` over gRPC: the same options and output. It runs in the server's image, which has the libraries."""

from __future__ import annotations

from typing import Any

import grpc
from client import Clients, main  # type: ignore[import-not-found]  # the script beside this one

from mlmodel_server.rpc.proto import open_inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class GrpcClients(Clients):  # type: ignore[misc]
    """Every other call uses a new channel, the others share one."""

    def __init__(self, url: str, bodies: list[Any], clients: int, timeout: float, send_seconds: float = 0.0) -> None:
        super().__init__(url, bodies, clients, timeout, send_seconds)
        self.shared: grpc.aio.Channel | None = None

    async def _exchange(self, number: int, *, keep: bool) -> tuple[int, dict[str, str]]:
        if keep:
            self.shared = self.shared or self._channel()
            return await self._call(self.shared, number)
        async with self._channel() as channel:
            return await self._call(channel, number)

    def _channel(self) -> grpc.aio.Channel:
        # Without this, channels to one address share their connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.insecure_channel(f"{self.host}:{self.port}", options=options)

    async def _call(self, channel: grpc.aio.Channel, number: int) -> tuple[int, dict[str, str]]:
        infer: Any = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)
        call = infer(message(self.path.strip("/"), self.body(number)))
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise OSError(f"{error.code().name}: {error.details()}") from None
        return 200, dict([*await call.initial_metadata(), *await call.trailing_metadata()])


def message(model: str, body: Any) -> bytes:
    """Return the JSON body of an inference request, with 64-bit floats, as a serialized message."""
    request = pb.ModelInferRequest(model_name=model)
    for tensor in body["inputs"]:
        contents = pb.InferTensorContents(fp64_contents=tensor["data"])
        request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"], contents=contents)
    return request.SerializeToString()


if __name__ == "__main__":
    main(GrpcClients)
