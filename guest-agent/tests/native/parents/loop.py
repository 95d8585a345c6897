"""As threads.py, by one event loop: asyncio's streams, with a pool of connections to the other port."""

import asyncio
import sys

idle = []


async def head(reader):
    return (await reader.readuntil(b"\r\n\r\n")).decode()


async def call(pad):
    reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    writer.write(f"GET /item HTTP/1.1\r\nHost: item\r\nPad: {pad}\r\n\r\n".encode())
    await head(reader)
    idle.append((reader, writer))


async def serve(reader, writer):
    while True:
        try:
            lines = (await head(reader)).split("\r\n")
        except asyncio.IncompleteReadError:
            return writer.close()
        pad = next(line[5:] for line in lines if line.startswith("Pad: "))
        await call(pad)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
