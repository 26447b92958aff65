"""A client of a model over TLS, HTTP and gRPC, that counts what it loses. It runs in the network of the cluster.

Prints one line of JSON: ``sent``, ``lost``, the last ``errors``, and the ``names`` in the certificates that it got.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

RATE = 100  # at most, per second over both protocols; a busy machine sends fewer
GRPC = "/inference.GRPCInferenceService/ServerLive"


async def main(pem: bytes, host: str, seconds: float) -> None:
    """Send requests to ``host`` for so many seconds, half of them on new connections; ``pem`` is its authority."""
    end, sent = time.monotonic() + seconds, 0
    errors: list[str] = []
    names: set[str] = set()
    context = ssl.create_default_context(cadata=pem.decode())

    async def http(fresh: bool) -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection(host, 443, ssl=context, server_hostname=host)
        names.add(writer.get_extra_info("peercert")["subject"][0][0][1])
        while time.monotonic() < end:
            sent += 1
            writer.write(f"GET /v2/health/live HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            await reader.readexactly(length)
            if not head.startswith("http/1.1 200"):
                errors.append(head.split("\r\n")[0])
            await asyncio.sleep(4 / RATE)
            if fresh or "connection: close" in head:
                break
        writer.close()

    async def call(fresh: bool) -> None:
        nonlocal sent
        credentials = grpc.ssl_channel_credentials(pem)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"{host}:9443", credentials, options=options) as channel:
            live: Any = channel.unary_unary(GRPC)
            while time.monotonic() < end:
                sent += 1
                await live(b"", timeout=20)
                await asyncio.sleep(4 / RATE)
                if fresh:
                    return

    async def drive(kind: Callable[[bool], Awaitable[None]], fresh: bool) -> None:
        while time.monotonic() < end:
            try:
                await kind(fresh)
            except (OSError, ssl.SSLError, asyncio.IncompleteReadError, grpc.aio.AioRpcError) as error:
                errors.append(repr(error)[:300])
                await asyncio.sleep(0.1)

    await asyncio.gather(*(drive(kind, fresh) for kind in (http, call) for fresh in (True, False)))
    print(json.dumps({"sent": sent, "lost": len(errors), "errors": errors[-3:], "names": sorted(names)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_bytes(), sys.argv[2], float(sys.argv[3])))
