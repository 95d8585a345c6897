"""A server that is told by each connection's first line what to do with it.

ECHO    sends back what comes, byte for byte
SINK    reads to the end, then answers with the number of bytes
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


listener = socket.create_server(("0.0.0.0", 8001))
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
