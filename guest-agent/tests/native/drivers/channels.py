"""Calls by gRPC's C core. Prints `open` when a channel has been opened and used, and goes on at the end of its input."""

import sys
from concurrent import futures

import grpc


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if not details.method.startswith("/live.Feed/"):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"y" * int.from_bytes(request, "big"))

        def stream(request, context):
            yield b"y" * int.from_bytes(request, "big")
            context.abort(grpc.StatusCode.INTERNAL, "broken")

        return grpc.unary_stream_rpc_method_handler(stream)


server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()


def channel():
    # By default the channels of a process share a connection.
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])


def call(channel, method, times, length):
    for _ in range(times):
        channel.unary_unary(method)(length.to_bytes(4, "big"))


def fail(channel, method, times, length):
    for _ in range(times):
        try:
            list(channel.unary_stream(method)(length.to_bytes(4, "big")))
        except grpc.RpcError:
            pass


before = channel()
call(before, "/live.Old/Used", 1, 1)
print("open", flush=True)
sys.stdin.read()
call(before, "/live.Old/Used", 100, 1)
call(before, "/live.Old/New", 100, 1)
before.close()
after = channel()
call(after, "/live.Cart/Add", 50, 1)
call(after, "/live.Store/Small", 10, 3_000)
call(after, "/live.Store/Large", 10, 5_000)
fail(after, "/live.Feed/Before", 10, 100)
fail(after, "/live.Feed/Big", 10, 20_000)
fail(after, "/live.Feed/After", 10, 100)
after.close()
server.stop(None).wait()
