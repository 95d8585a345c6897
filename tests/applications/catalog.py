"""catalog, of tenant acme: items below 1000 exist, others do not. For what it offers it calls stock."""

import http.client
import http.server
import secrets

import service

STOCK = "10.231.0.14"


class Catalog(service.Handler):
    def do_GET(self):
        if self.path.startswith("/offers/"):
            self.answer_json(self.call_stock(), {})
            return
        number = self.path.partition("?")[0].rpartition("/")[2]
        found = self.path.startswith("/items/") and number.isdigit() and int(number) < 1000
        self.answer_json(200 if found else 404, {"item": int(number)} if found else {"error": "no such item"})

    def call_stock(self):
        """The status of its response. A trace context is handed on, with a span of its own."""
        headers = {}
        if context := self.headers.get("traceparent"):
            version, trace, _, flags = context.split("-")
            headers["traceparent"] = f"{version}-{trace}-{secrets.token_hex(8)}-{flags}"
        stock = http.client.HTTPConnection(STOCK, 8000)
        stock.request("GET", self.path.replace("/offers/", "/stock/"), headers=headers)
        response = stock.getresponse()
        response.read()
        stock.close()
        return response.status


http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Catalog).serve_forever()
