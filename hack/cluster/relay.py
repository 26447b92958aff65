"""Forward connections from the host's loopback to an address inside the network of a cluster.

A socket belongs to the network namespace in which it was created. So the host creates the listening socket, and this
program, which runs inside the cluster, inherits it: clients connect on the host, and it connects inside.

Run as `python -m hack.cluster.relay FD HOST PORT`.
"""

import asyncio
import contextlib
import socket
import sys


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of the stream, then close this direction; the other may stay open (`kubectl exec -i`)."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Accept connections on `listener` and forward each one to `host`:`port`, until cancelled."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
                    pass  # one side was reset; this closes the other

    server = await asyncio.start_server(forward, sock=listener, limit=1 << 20)
    await server.serve_forever()


def main() -> None:
    """Serve the inherited socket whose file descriptor is the first argument."""
    fd, host, port = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=int(fd)), host, int(port)))


if __name__ == "__main__":
    main()
