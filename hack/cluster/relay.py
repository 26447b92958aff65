"""Carry bytes between the host's loopback and an address inside a cluster's network.

A socket belongs to the network namespace in which it was made, wherever it is used. So the host makes the listening
socket and this program, started inside, inherits it: what connects on the host's loopback comes out inside.

Run as `python -m hack.cluster.relay FD HOST PORT`.
"""

import asyncio
import contextlib
import socket
import sys


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass the end on: a stream may be over in one direction only (`kubectl exec -i`)."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Accept connections on `listener` and carry each one to `host`:`port`, until cancelled."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                far_reader, far_writer = await asyncio.open_connection(host, port)
            except OSError:
                return
            with contextlib.closing(far_writer):
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(_pump(reader, far_writer))
                        both.create_task(_pump(far_reader, writer))
                except* OSError:
                    pass  # one side broke off; closing both tells the other

    server = await asyncio.start_server(carry, sock=listener, limit=1 << 20)
    await server.serve_forever()


def main() -> None:
    """Serve the inherited socket that the first argument numbers."""
    fd, host, port = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=int(fd)), host, int(port)))


if __name__ == "__main__":
    main()
