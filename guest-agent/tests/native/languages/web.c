/* `server` prints its port and serves; `client PORT` asks. Plain sockets: an epoll loop with writev, a client with send
   and recv that keeps its connection. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static void serve(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), loop = epoll_create1(0);
    if (bind(listener, (void *)&address, length) || listen(listener, 16)) exit(1);
    getsockname(listener, (void *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    while (epoll_wait(loop, &event, 1, -1) == 1) {
        if (event.data.fd == listener) {
            struct epoll_event added = {.events = EPOLLIN, .data.fd = accept4(listener, 0, 0, SOCK_NONBLOCK)};
            epoll_ctl(loop, EPOLL_CTL_ADD, added.data.fd, &added);
            continue;
        }
        char request[4096];
        ssize_t got = read(event.data.fd, request, sizeof request - 1);
        if (got <= 0) {
            close(event.data.fd);
            continue;
        }
        request[got] = 0;
        char *status = strstr(request, "/c-ok ") ? "HTTP/1.1 200 OK\r\n" : "HTTP/1.1 404 Not Found\r\n";
        char *rest = "Content-Length: 6\r\n\r\n", *body = "hello\n";
        struct iovec parts[] = {{status, strlen(status)}, {rest, strlen(rest)}, {body, 6}};
        if (writev(event.data.fd, parts, 3) < 0) exit(1);
    }
}

static void ask(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (void *)&address, sizeof address)) exit(1);
    for (int n = 0; n < 10; n++) {
        char text[4096];
        int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: c\r\n\r\n", n < 7 ? "/c-ok" : "/c-missing");
        if (send(connection, text, length, 0) != length) exit(1);
        char *end = 0;
        for (ssize_t have = 0, got; !end; end = strstr(text, "hello\n")) {
            got = recv(connection, text + have, sizeof text - 1 - have, 0);
            if (got <= 0) exit(1);
            text[have += got] = 0;
        }
    }
}

int main(int count, char **arguments) {
    if (count == 2) serve();
    ask(atoi(arguments[2]));
}
