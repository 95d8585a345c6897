"""Serves as many requests as its argument gives, each on its own connection, and exits at once."""

import socket
import sys

listener = socket.create_server(("0.0.0.0", 8000))
for number in range(int(sys.argv[1])):
    connection, _ = listener.accept()
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
    connection.close()
