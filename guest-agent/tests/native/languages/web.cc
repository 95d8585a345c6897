// `server` prints its port and serves; `client PORT` asks. Server and client: cpp-httplib.
#include <cstdio>
#include <cstdlib>
#include <httplib.h>

int main(int count, char **arguments) {
    if (count == 2) {
        httplib::Server server;
        server.Get("/cxx-ok", [](const httplib::Request &, httplib::Response &response) {
            response.set_content("hello\n", "text/plain");
        });
        printf("%d\n", server.bind_to_any_port("127.0.0.1"));
        fflush(stdout);
        server.listen_after_bind();
    }
    httplib::Client client("127.0.0.1", atoi(arguments[2]));
    client.set_keep_alive(true);
    for (int number = 0; number < 10; number++)
        if (!client.Get(number < 7 ? "/cxx-ok" : "/cxx-missing")) return 1;
}
