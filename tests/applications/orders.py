"""orders, of tenant initech: reads an order from the cache or from two databases, and has it paid by a service that is down."""

import http.server
import json
import socket
import time

import psycopg2
import pymysql
import redis
import service

NAME_SERVER = "10.231.0.25"
PAYMENTS = "payments.initech.internal"
DEADLINE_S = 60


def when_it_answers(connect):
    """Connects as soon as the server does."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return connect()
        except (pymysql.Error, psycopg2.Error, redis.RedisError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


with open("/etc/resolv.conf", "w", encoding="ascii") as resolver:
    resolver.write(f"nameserver {NAME_SERVER}\n")

cache = redis.Redis(host="10.231.0.22", single_connection_client=True)
when_it_answers(cache.ping)
orders = when_it_answers(
    lambda: pymysql.connect(host="10.231.0.23", user="orders", database="shop", ssl_disabled=True)
).cursor()
customers_connection = when_it_answers(
    lambda: psycopg2.connect(host="10.231.0.24", user="customers", dbname="postgres", sslmode="disable")
)
customers_connection.autocommit = True
customers = customers_connection.cursor()


class Orders(service.Handler):
    def do_GET(self):
        number = int(self.path.rpartition("/")[2])
        order = cache.get(f"order:{number}")
        if order is None:
            orders.execute("SELECT total FROM orders WHERE number = %s", (number,))
            total = orders.fetchone()[0]
            customers.execute("SELECT name FROM customers WHERE number = %s", (number,))
            order = json.dumps({"order": number, "total": total, "customer": customers.fetchone()[0]}).encode()
            cache.set(f"order:{number}", order)
        self.answer(200, order)

    def do_POST(self):
        try:
            (*_, address), *_ = socket.getaddrinfo(PAYMENTS, 8080, socket.AF_INET, socket.SOCK_STREAM)
            socket.create_connection(address, timeout=5).close()
            self.answer(204)
        except OSError as error:
            self.answer(502, f"{error}\n".encode())


# One thread: the connections are one request's at a time.
http.server.HTTPServer(("0.0.0.0", 8000), Orders).serve_forever()
