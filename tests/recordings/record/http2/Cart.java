// The service shop.Cart of the recordings, and its client, with grpc-java: `Cart serve PORT`, or `Cart call PORT`.
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.ServerMethodDefinition;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.ServerCalls;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

class Cart {
    /** Passes messages on as they are. */
    private static final MethodDescriptor.Marshaller<byte[]> BYTES = new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] value) {
            return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
        }
    };

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        if (arguments[0].equals("serve")) serve(port); else call(port);
    }

    private static MethodDescriptor<byte[], byte[]> method(MethodType type, String name) {
        String full = MethodDescriptor.generateFullMethodName("shop.Cart", name);
        return MethodDescriptor.newBuilder(BYTES, BYTES).setType(type).setFullMethodName(full).build();
    }

    private static void serve(int port) throws Exception {
        var add = ServerCalls.<byte[], byte[]>asyncUnaryCall((request, responses) -> {
            responses.onNext(request);
            responses.onCompleted();
        });
        var missing = ServerCalls.<byte[], byte[]>asyncUnaryCall((request, responses) ->
            responses.onError(Status.NOT_FOUND.withDescription("no such cart").asRuntimeException()));
        var list = ServerCalls.<byte[], byte[]>asyncServerStreamingCall((request, responses) -> {
            for (String item : new String[] {"a", "b", "c"}) responses.onNext(item.getBytes());
            responses.onCompleted();
        });
        var service = ServerServiceDefinition.builder("shop.Cart")
            .addMethod(ServerMethodDefinition.create(method(MethodType.UNARY, "Add"), add))
            .addMethod(ServerMethodDefinition.create(method(MethodType.UNARY, "Missing"), missing))
            .addMethod(ServerMethodDefinition.create(method(MethodType.SERVER_STREAMING, "List"), list))
            .build();
        NettyServerBuilder.forPort(port).addService(service).build().start().awaitTermination();
    }

    private static void call(int port) {
        ManagedChannel channel = NettyChannelBuilder.forAddress("127.0.0.1", port).usePlaintext().build();
        round(channel);
        var together = Stream.generate(() -> CompletableFuture.runAsync(() -> ask(channel, "Add", 20))).limit(4).toList();
        together.forEach(CompletableFuture::join);
        round(channel);
        channel.shutdownNow();
    }

    private static void round(ManagedChannel channel) {
        for (int number = 0; number < 4; number++) ask(channel, "Add", 20);
        ask(channel, "Missing", 20);
        var items = ClientCalls.blockingServerStreamingCall(
            channel, method(MethodType.SERVER_STREAMING, "List"), CallOptions.DEFAULT, "x".getBytes());
        items.forEachRemaining(item -> { });
        ask(channel, "NoSuchMethod", 20);
        ask(channel, "Add", 5_000);
    }

    private static void ask(ManagedChannel channel, String name, int size) {
        try {
            ClientCalls.blockingUnaryCall(channel, method(MethodType.UNARY, name), CallOptions.DEFAULT, "x".repeat(size).getBytes());
        } catch (StatusRuntimeException expected) {
            // Some of the calls fail.
        }
    }
}
