"""The event loop of our server without a server: answer every HTTP request with the same bytes.

What a client measures here, it would measure with any server in Python: the network, the scheduler, the loop.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

BODY = b'{"predictions":["brake"]}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Bare(asyncio.Protocol):
    """One connection. The benchmark's requests arrive whole, one at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="port on loopback")
    uvloop.run(main(parser.parse_args().port))
