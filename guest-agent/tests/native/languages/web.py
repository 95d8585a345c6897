"""`server` prints its port and serves; `client PORT` sends requests. Server: http.server; client: http.client."""

import http.client
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"hello\n"
        self.send_response(200 if self.path == "/python-ok" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if sys.argv[1] == "server":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
for path in ["/python-ok"] * 7 + ["/python-missing"] * 3:
    connection.request("GET", path)
    connection.getresponse().read()
