"""`PORT` serves: http.server, with about 100,000 instructions of work for each request. Without a port it prints the
files that it has loaded."""

import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes: without this the second waits for the client's acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self):
        total = 0
        for number in range(1500):
            total += number
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if len(sys.argv) > 1:
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

# What a first request loads, too.
import email.parser
import encodings.idna
import socket

for module in list(sys.modules.values()):
    file = getattr(module, "__file__", None)
    # This file itself and what is built in are none of the installation's.
    if file and file.startswith("/usr/"):
        print(file)
        if getattr(module, "__cached__", None):
            print(module.__cached__)
