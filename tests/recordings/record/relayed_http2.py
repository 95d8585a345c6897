"""Recordings of HTTP/2 and gRPC, by a relay: each client keeps one connection, so that it can be joined anywhere."""

import concurrent.futures
import contextlib
import os
import pathlib
import subprocess

from relay import Relay
from servers import directory, quiet, running, version

LISTEN, TARGET = 15061, 15062
PROGRAMS = pathlib.Path(__file__).resolve().parent / "http2"


def http2(folder):
    with running("node", PROGRAMS / "web.js", "serve", str(TARGET), port=TARGET):
        relay = Relay(LISTEN, TARGET)
        node = f"node {version('node', '--version')}"
        quiet("node", PROGRAMS / "web.js", "call", str(LISTEN))
        relay.write(folder, "http2-node.txt", [f"{node}, itself"])
        at = f"http://127.0.0.1:{LISTEN}"
        pages = [f"{at}{path}" for path in ("/", "/", "/items", "/missing", "/down", "/large")]
        for at_once, number in ((1, 12), (4, 8), (1, 6)):
            quiet("h2load", "-c", "1", "-m", str(at_once), "-n", str(number), *pages)
        relay.write(folder, "http2-nghttp2.txt", [f"{node}, {version('h2load', '--version')}"])


def grpc(folder):
    with directory() as scratch:
        cart = go_program(scratch)
        with running(cart, "serve", str(TARGET), port=TARGET):
            relay = Relay(LISTEN, TARGET)
            call_with_core()
            relay.write(folder, "grpc-core.txt", [f"grpc-go {go_version(scratch)}, grpcio {core().__version__} (C core)"])
            quiet("npm", "install", "--no-save", "--silent", "@grpc/grpc-js", cwd=scratch)
            (scratch / "cart.js").write_bytes((PROGRAMS / "cart.js").read_bytes())
            quiet("node", scratch / "cart.js", str(LISTEN))
            relay.write(folder, "grpc-js.txt", [f"grpc-go {go_version(scratch)}, @grpc/grpc-js on node {version('node', '--version')}"])
        tonic = rust_program(scratch / "tonic")
        with core_server():
            relay = Relay(LISTEN + 2, TARGET)
            quiet(tonic, str(LISTEN + 2))
            relay.write(folder, "grpc-tonic.txt", [f"grpcio {core().__version__} (C core), tonic {tonic_version(scratch / 'tonic')}"])
            quiet(cart, "call", str(LISTEN + 2))
            relay.write(folder, "grpc-go.txt", [f"grpcio {core().__version__} (C core), grpc-go {go_version(scratch)}"])


def grpc_java(folder, jars):
    name = f"grpc-java {next(jars.glob('grpc-netty-shaded-*.jar')).stem.rsplit('-', 1)[1]}"
    with directory() as scratch:
        java = ("java", "-cp", f"{jars}/*", str(PROGRAMS / "Cart.java"))
        cart = go_program(scratch)
        with running(cart, "serve", str(TARGET), port=TARGET):
            relay = Relay(LISTEN, TARGET)
            quiet(*java, "call", str(LISTEN))
            relay.write(folder, "grpc-java.txt", [f"grpc-go {go_version(scratch)}, {name}"])
        with running(*java, "serve", str(TARGET + 1), port=TARGET + 1):
            relay = Relay(LISTEN + 4, TARGET + 1)
            call_with_core(LISTEN + 4)
            relay.write(folder, "grpc-java-server.txt", [f"{name}, grpcio {core().__version__} (C core)"])


def core():
    import grpc as library  # pylint: disable=import-outside-toplevel
    return library


def go_program(scratch):
    """Builds the Go program in a module of its own."""
    (scratch / "cart.go").write_bytes((PROGRAMS / "cart.go").read_bytes())
    for command in (("mod", "init", "cart"), ("get", "google.golang.org/grpc"), ("mod", "tidy"), ("build", "-o", "cart", ".")):
        subprocess.run(["go", *command], cwd=scratch, check=True, capture_output=True)
    return scratch / "cart"


def go_version(scratch):
    listed = subprocess.run(["go", "list", "-m", "google.golang.org/grpc"], cwd=scratch, check=True, capture_output=True, text=True)
    return listed.stdout.split()[1]


def rust_program(scratch):
    """Builds the Rust program in a package of its own."""
    cargo = ["cargo", "--quiet"]
    subprocess.run([*cargo, "new", "--vcs", "none", "--name", "cart", scratch], check=True)
    (scratch / "src" / "main.rs").write_bytes((PROGRAMS / "cart.rs").read_bytes())
    subprocess.run([*cargo, "add", "tonic", "bytes", "tokio", "--features", "tokio/full"], cwd=scratch, check=True)
    subprocess.run([*cargo, "build"], cwd=scratch, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(scratch / "target")})
    return scratch / "target" / "debug" / "cart"


def tonic_version(scratch):
    tree = ["cargo", "tree", "--quiet", "--depth", "1", "--prefix", "none", "--invert", "tonic"]
    return subprocess.run(tree, cwd=scratch, check=True, capture_output=True, text=True).stdout.split()[1]


@contextlib.contextmanager
def core_server():
    """The service of gRPC's core, as the Go program has it."""
    library = core()

    class Cart(library.GenericRpcHandler):
        def service(self, handler_call_details):
            def missing(_, context):
                context.abort(library.StatusCode.NOT_FOUND, "no such cart")
            return {
                "/shop.Cart/Add": library.unary_unary_rpc_method_handler(lambda request, _: request),
                "/shop.Cart/Missing": library.unary_unary_rpc_method_handler(missing),
                "/shop.Cart/List": library.unary_stream_rpc_method_handler(lambda *_: iter([b"a", b"b", b"c"])),
            }.get(handler_call_details.method)

    server = library.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[Cart()])
    server.add_insecure_port(f"127.0.0.1:{TARGET}")
    server.start()
    yield
    server.stop(None).wait()


def call_with_core(port=LISTEN):
    library = core()
    with library.insecure_channel(f"127.0.0.1:{port}") as channel:
        def call(method, size=20):
            with contextlib.suppress(library.RpcError):
                channel.unary_unary("/shop.Cart/" + method)(b"x" * size)

        def go_round():
            for _ in range(4):
                call("Add")
            call("Missing")
            list(channel.unary_stream("/shop.Cart/List")(b"x"))
            call("NoSuchMethod")
            call("Add", 5_000)

        go_round()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(call, ["Add"] * 4))
        go_round()


OF_JARS = {"grpc-java"}
MAKERS = {"grpc": grpc, "grpc-java": grpc_java, "http2": http2}
