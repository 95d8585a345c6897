"""A server that handles each connection by its first line.

ECHO         sends back what comes, byte for byte
SINK         reads to the end, then answers with the number of bytes
GET /ws …    accepts the upgrade to a WebSocket and then sends back what comes
"""

import socket
import threading


def serve(connection):
    with connection:
        stream = connection.makefile("rb")
        order = stream.readline(64).strip()
        if order == b"ECHO":
            while data := stream.read1(65536):
                connection.sendall(data)
        elif order == b"SINK":
            count = 0
            while data := stream.read1(65536):
                count += len(data)
            connection.sendall(b"%d\n" % count)
        elif order.startswith(b"GET /ws "):
            while stream.readline().strip():
                pass
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while data := stream.read1(65536):
                connection.sendall(data)


listener = socket.create_server(("0.0.0.0", 8001))
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
