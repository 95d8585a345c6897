"""Serves: prints its port, and for each request sends one with the same padding to the port given. A thread for each connection."""

import http.client
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    backend = None

    def do_GET(self):
        if self.backend is None:
            self.backend = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
        self.backend.request("GET", "/item", headers={"Pad": self.headers["Pad"]})
        self.backend.getresponse().read()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer.request_queue_size = 200
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
