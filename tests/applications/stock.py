"""stock, of tenant acme: cannot serve any request. Those with `?together` are answered once four of them are there."""

import http.server
import threading

import service

TOGETHER = threading.Barrier(4, timeout=100)


class Stock(service.Handler):
    def do_GET(self):
        if self.path.endswith("?together"):
            try:
                TOGETHER.wait()
            except threading.BrokenBarrierError:
                # Too few came in time. The next four wait for each other again.
                if TOGETHER.broken:
                    TOGETHER.reset()
        self.answer(503)


http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Stock).serve_forever()
