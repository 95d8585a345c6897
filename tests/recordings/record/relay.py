"""A relay between a client and a server on the loopback interface, which writes down what passes."""

import select
import socket
import threading

from servers import wait_until


class Relay:
    """Relays TCP or UDP from one port of the loopback interface to another, and writes down what passes."""

    def __init__(self, listen, target):
        self.target = ("127.0.0.1", target)
        self.lines = []
        self.lock = threading.Lock()
        self.connections = 0
        self.open = 0
        self.tcp = socket.create_server(("127.0.0.1", listen))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", listen))
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._datagrams, daemon=True).start()

    def _record(self, number, transport, way, data):
        with self.lock:
            self.lines.append(f"{number} {transport} {way} {data.hex()}")

    def _number(self):
        with self.lock:
            self.connections += 1
            return self.connections

    def _accept(self):
        while True:
            client, _ = self.tcp.accept()
            self._count_open(1)
            threading.Thread(target=self._stream, args=(client, self._number()), daemon=True).start()

    def _count_open(self, change):
        with self.lock:
            self.open += change

    def _stream(self, client, number):
        with client, socket.create_connection(self.target) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while all(self._pass_on(number, client, server, end) for end in select.select([client, server], [], [])[0]):
                    pass
            except ConnectionError:
                pass
        self._count_open(-1)

    def _pass_on(self, number, client, server, end):
        """Passes on what one end has sent; false at its end."""
        data = end.recv(65536)
        if data:
            self._record(number, "tcp", ">" if end is client else "<", data)
            (server if end is client else client).sendall(data)
        return bool(data)

    def _datagrams(self):
        clients = {}
        while True:
            data, client = self.udp.recvfrom(65536)
            if client not in clients:
                upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                upstream.connect(self.target)
                clients[client] = (upstream, self._number())
                threading.Thread(target=self._responses, args=(client, *clients[client]), daemon=True).start()
            upstream, number = clients[client]
            self._record(number, "udp", ">", data)
            upstream.send(data)

    def _responses(self, client, upstream, number):
        while True:
            try:
                data = upstream.recv(65536)
            except ConnectionError:
                continue
            self._record(number, "udp", "<", data)
            self.udp.sendto(data, client)

    def write(self, folder, name, about):
        """Writes what passed since the last recording, when the clients have closed their connections."""
        wait_until(lambda: self.open == 0, "all connections are closed")
        with self.lock:
            text = "".join(f"# {line}\n" for line in about) + "\n".join(self.lines) + "\n"
            self.lines.clear()
        (folder / name).write_text(text)
        print(f"{name}: {self.connections} connections, {len(text)} bytes")
