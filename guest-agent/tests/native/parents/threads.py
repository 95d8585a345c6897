"""Serves: prints its port, and for each request sends one with the same padding to the port given. A thread for each connection.

With a version of HTTP as the second argument, by that one: without a length by HTTP/1.0.
"""

import http.client
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = sys.argv[2] if len(sys.argv) > 2 else "HTTP/1.1"
    backend = None

    def do_GET(self):
        if self.backend is None:
            self.backend = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
        self.backend.request("GET", "/item", headers={"Pad": self.headers["Pad"]})
        self.backend.getresponse().read()
        self.send_response(200)
        if self.protocol_version == "HTTP/1.1":
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer.request_queue_size = 200
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
