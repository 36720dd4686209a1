"""Forward every connection of one port to another port of 127.0.0.1: `forward.py 8083 8082`.

The admin page listens on the loopback address of its container only, where no published port
leads. In a cluster `kubectl port-forward` connects to it from inside the pod; this does the same
for `compose.yaml`.
"""

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress


async def copy(reader: StreamReader, writer: StreamWriter) -> None:
    """Copy until either side closes, then close the other."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(port: int, target: int) -> None:
    async def forward(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:  # the page is not there yet
            writer.close()
            return
        await asyncio.gather(copy(reader, outer), copy(inner, writer))

    async with await asyncio.start_server(forward, None, port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
