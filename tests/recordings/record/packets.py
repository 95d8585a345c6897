"""Recordings of packets, by tcpdump on the loopback interface."""

import concurrent.futures
import contextlib
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile

from servers import directory, mariadb, postgresql, quiet, running, wait_until

# A datagram to this port marks the end of a recording. It does not stay in it.
MARK = 9
FIN, RST = 1, 4


def frames(text):
    """The records of a capture file: each with its header, and the frame."""
    at = 24
    while at + 16 <= len(text):
        length = struct.unpack_from("<I", text, at + 8)[0]
        if at + 16 + length > len(text):
            return
        yield text[at:at + 16 + length], text[at + 16:at + 16 + length]
        at += 16 + length


def ports(frame):
    """Protocol number, source and destination port, and where the transport header begins, of a frame with IPv4."""
    transport = 14 + 4 * (frame[14] & 15)
    return frame[23], *struct.unpack_from(">HH", frame, transport), transport


def is_mark(frame):
    protocol, _, destination, _ = ports(frame)
    return protocol == socket.IPPROTO_UDP and destination == MARK


def is_complete(text):
    """Whether the mark has come, and both ends of each TCP connection have closed it."""
    marked, open_ends = False, {}
    for _, frame in frames(text):
        marked |= is_mark(frame)
        protocol, source, destination, transport = ports(frame)
        if protocol == socket.IPPROTO_TCP:
            flags = frame[transport + 13]
            open_ends[source, destination] = not flags & (FIN | RST) and open_ends.get((source, destination), True)
            if flags & RST:
                open_ends[destination, source] = False
    return marked and not any(open_ends.values())


def record(folder, name, port, client):
    """Captures what the client does with the server on a port."""
    with tempfile.TemporaryDirectory() as scratch:
        capture = pathlib.Path(scratch, "capture.pcap")
        command = ["tcpdump", "-Z", "root", "-i", "lo", "--immediate-mode", "-U", "-s", "0", "-w", capture,
                   f"port {port} or udp port {MARK}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tcpdump:
            try:
                while "listening on" not in tcpdump.stderr.readline():
                    if tcpdump.poll() is not None:
                        raise SystemExit(f"tcpdump ended with {tcpdump.returncode}")
                client()
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mark:
                    mark.sendto(b"", ("127.0.0.1", MARK))
                wait_until(lambda: is_complete(capture.read_bytes()), "everything is captured", 30)
            finally:
                tcpdump.send_signal(signal.SIGINT)
        text = capture.read_bytes()
    kept = b"".join(whole for whole, frame in frames(text) if not is_mark(frame))
    (folder / f"{name}.pcap").write_bytes(text[:24] + kept)
    print(f"{name}.pcap: {24 + len(kept)} bytes")


def exchange(port, data, until=b"", first=False):
    """Sends bytes, when the server has sent its first if it sends first, and reads to the connection's end, or to these bytes."""
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        if first:
            stream.recv(65536)
        stream.sendall(data)
        received = b""
        while piece := stream.recv(65536):
            received += piece
            if until and until in received:
                return


@contextlib.contextmanager
def nginx(port, locations, options=""):
    """nginx with these locations."""
    with directory() as scratch:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        (scratch / "nginx.conf").write_text(f"""
daemon off; pid {scratch}/pid; error_log {scratch}/error.log; worker_processes 1;
events {{}}
http {{
    access_log off; {"".join(f"{kind}_temp_path {scratch}/{kind};" for kind in kinds)}
    server {{ listen 127.0.0.1:{port}{options}; {locations} }}
}}
""")
        with running("nginx", "-c", scratch / "nginx.conf", port=port):
            yield


def http1(folder):
    locations = r"""
        location = / { return 200 "hello\n"; }
        location /items/ { return 200 "an item\n"; }
        location = /old { return 301 /; }
        location = /down { return 503; }
        location / { return 404; }"""
    at = "http://127.0.0.1:18080"

    def client():
        quiet("curl", "-s", f"{at}/", f"{at}/items/1", f"{at}/items/2?x=y", f"{at}/missing")
        quiet("curl", "-s", f"{at}/old")
        quiet("curl", "-s", "-I", f"{at}/")
        quiet("curl", "-s", f"{at}/down")
        quiet("curl", "-s", "-X", "POST", "-d", "a=b&c=d", f"{at}/items/3")
        exchange(18080, b"GET /items/4 HTTP/1.1\r\nHost: x\r\n\r\nGET /missing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    with nginx(18080, locations):
        record(folder, "http1", 18080, client)


def http2(folder):
    locations = r"""
        location /items/ { return 200 "an item\n"; }
        location = /down { return 503; }
        location / { return 404; }"""
    at = "http://127.0.0.1:18081"

    def curl(*arguments):
        quiet("curl", "-s", "--max-time", "5", "--http2-prior-knowledge", *arguments)

    def client():
        for path in ("items/1", "items/2", "missing"):
            curl(f"{at}/{path}")
        curl("-I", f"{at}/items/3")
        curl("-X", "POST", "-d", "a=b&c=d", f"{at}/down")

    with nginx(18081, locations, " http2"):
        record(folder, "http2", 18081, client)


def grpc(folder):
    import grpc as library  # pylint: disable=import-outside-toplevel

    class Cart(library.GenericRpcHandler):
        """A service of three methods."""

        def service(self, handler_call_details):
            def missing(_, context):
                context.abort(library.StatusCode.NOT_FOUND, "no such cart")
            return {
                "/shop.Cart/Add": library.unary_unary_rpc_method_handler(lambda request, _: request),
                "/shop.Cart/Missing": library.unary_unary_rpc_method_handler(missing),
                "/shop.Cart/List": library.unary_stream_rpc_method_handler(lambda *_: iter([b"a", b"b", b"c"])),
            }.get(handler_call_details.method)

    def client():
        with library.insecure_channel("127.0.0.1:15051") as channel:
            def call(method):
                return channel.unary_unary("/shop.Cart/" + method)(b"x" * 20)
            call("Add")
            call("Add")
            for method in ("Missing", "NoSuchMethod"):
                try:
                    call(method)
                except library.RpcError:
                    pass
            list(channel.unary_stream("/shop.Cart/List")(b""))

    server = library.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[Cart()])
    server.add_insecure_port("127.0.0.1:15051")
    server.start()
    record(folder, "grpc", 15051, client)
    server.stop(None).wait()


def memcached(folder):
    commands = ["set user:1 0 0 5", "hello", "get user:1", "get user:2", "set n 0 0 1", "1", "incr n 1", "incr user:1 1",
                "delete user:1", "delete user:1", "quit"]
    with running("memcached", "-u", "root", "-l", "127.0.0.1", "-p", "11311", port=11311):
        record(folder, "memcached", 11311, lambda: exchange(11311, "".join(f"{line}\r\n" for line in commands).encode()))


def nats(folder):
    commands = b'CONNECT {"verbose":false}\r\nSUB orders.* 1\r\nPUB orders.new 5\r\nhello\r\nPUB logs 3\r\nabc\r\nPING\r\n'
    with running("nats-server", "--addr", "127.0.0.1", "--port", "14222", port=14222):
        record(folder, "nats", 14222, lambda: exchange(14222, commands, until=b"PONG", first=True))


def redis(folder):
    def client():
        for command in ("SET k 1", "INCR k", "GET k", "LPUSH k x"):
            quiet("redis-cli", "-p", "16379", *command.split())
        exchange(16379, b"SET a 1\r\nGET a\r\nNOSUCH a\r\nGET b\r\nQUIT\r\n")

    with directory() as scratch:
        with running("redis-server", "--port", "16379", "--bind", "127.0.0.1", "--save", "", "--dir", scratch, port=16379):
            record(folder, "redis", 16379, client)


def dns(folder):
    def client():
        for question in (["www.example.test", "A"], ["www.example.test", "AAAA"], ["nothing.example.test", "A"],
                         ["+tcp", "www.example.test", "A"]):
            quiet("dig", "-p", "15353", "@127.0.0.1", "+tries=1", "+time=2", *question)

    with running("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=15353", "--listen-address=127.0.0.1",
                 "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=", "--local=/test/",
                 "--host-record=www.example.test,192.0.2.1,2001:db8::1", port=15353):
        record(folder, "dns", 15353, client)


STATEMENTS = """
CREATE TABLE orders (id INT PRIMARY KEY, name TEXT);
INSERT INTO orders VALUES (1, 'secret');
SELECT name FROM orders WHERE id = 1;
SELECT * FROM nowhere;
INSERT INTO orders VALUES (1, 'again');
"""


def mysql(folder):
    program = ["mariadb", "--no-defaults"]
    with mariadb(13306) as data:
        quiet(*program, "-uroot", f"-S{data}/s", "-e",
              "CREATE DATABASE test; CREATE USER porthole@'%'; GRANT ALL ON test.* TO porthole@'%'; DROP USER ''@localhost")
        record(folder, "mysql", 13306, lambda: quiet(
            *program, "-h127.0.0.1", "-P13306", "-uporthole", "--skip-ssl", "-f", "test", input=STATEMENTS, text=True))


def postgres(folder):
    command = ["env", "PGSSLMODE=disable", "PGGSSENCMODE=disable", "psql", "-q", "-h127.0.0.1", "-p15432", "-Uporthole", "postgres"]
    with postgresql(15432, "porthole", "trust"):
        record(folder, "postgresql", 15432, lambda: quiet(*command, input=STATEMENTS, text=True))


def tls(folder):
    client = ["openssl", "s_client", "-connect", "127.0.0.1:14433"]

    def clients():
        for arguments in (["-servername", "www.shop.example.com"], ["-noservername"],
                          # The server has TLS 1.3 only, and refuses with the alert protocol_version.
                          ["-servername", "shop.example.com", "-tls1_2"]):
            quiet(*client, *arguments, stdin=subprocess.DEVNULL)

    with directory() as scratch:
        quiet("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
              "-subj", "/CN=example.com", "-keyout", scratch / "key", "-out", scratch / "certificate")
        with running("openssl", "s_server", "-quiet", "-accept", "127.0.0.1:14433", "-tls1_3", "-key", scratch / "key",
                     "-cert", scratch / "certificate", port=14433):
            record(folder, "tls", 14433, clients)


MAKERS = {"http1": http1, "http2": http2, "grpc": grpc, "redis": redis, "memcached": memcached, "nats": nats, "dns": dns,
          "mysql": mysql, "postgresql": postgres, "tls": tls}
