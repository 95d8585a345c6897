// As threads.py: jdk.httpserver with threads of a pool, or with a virtual one for each request; client: HttpURLConnection.
import com.sun.net.httpserver.HttpServer;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

public class Front {
    public static void main(String[] arguments) throws Exception {
        System.setProperty("http.maxConnections", "200");
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 200);
        boolean virtual = arguments[1].equals("virtual");
        server.setExecutor(virtual
            ? (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null)
            : Executors.newFixedThreadPool(100));
        URI item = URI.create("http://127.0.0.1:" + arguments[0] + "/item");
        server.createContext("/", exchange -> {
            HttpURLConnection call = (HttpURLConnection) item.toURL().openConnection();
            call.setRequestProperty("Pad", exchange.getRequestHeaders().getFirst("Pad"));
            call.getInputStream().readAllBytes();
            exchange.sendResponseHeaders(200, -1);
            exchange.close();
        });
        server.start();
        System.out.println(server.getAddress().getPort());
    }
}
