"""stock, of tenant acme: cannot serve any request. Those with `?together` are answered once four of them are there."""

import http.server
import threading

TOGETHER = threading.Barrier(4, timeout=100)


class Stock(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.endswith("?together"):
            try:
                TOGETHER.wait()
            except threading.BrokenBarrierError:
                # Too few came in time. The next four wait for each other again.
                if TOGETHER.broken:
                    TOGETHER.reset()
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Stock).serve_forever()
