// `server` prints its port and serves; `client PORT` asks. Server: jdk.httpserver; client: java.net.http.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Web {
    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("server")) {
            HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
            server.createContext("/", exchange -> {
                byte[] body = "hello\n".getBytes();
                boolean known = exchange.getRequestURI().getPath().equals("/java-ok");
                exchange.sendResponseHeaders(known ? 200 : 404, body.length);
                exchange.getResponseBody().write(body);
                exchange.close();
            });
            server.start();
            System.out.println(server.getAddress().getPort());
            return;
        }
        // Over cleartext the client would otherwise offer an upgrade to HTTP/2 with each request.
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        for (int n = 0; n < 10; n++) {
            String path = n < 7 ? "/java-ok" : "/java-missing";
            URI uri = URI.create("http://127.0.0.1:" + arguments[1] + path);
            client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
        }
    }
}
