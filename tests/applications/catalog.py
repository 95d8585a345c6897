"""catalog, of tenant acme: items below 1000 exist, others do not."""

import http.server
import json


class Catalog(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        number = self.path.partition("?")[0].rpartition("/")[2]
        found = self.path.startswith("/items/") and number.isdigit() and int(number) < 1000
        body = json.dumps({"item": int(number)} if found else {"error": "no such item"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Catalog).serve_forever()
