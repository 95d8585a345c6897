#!/bin/bash
# Makes the captures in this directory anew, from real servers on loopback: make.sh [NAME...]
#
# Needs root, tcpdump, curl, and the servers: nginx, redis-server, dnsmasq with dig, mariadb-server, postgresql,
# memcached, nats-server, openssl, and Python's grpcio.
# Nothing of the machine's own services is touched: each server has a scratch directory and ports of its own. The
# expected results (NAME.expected) are written by hand from what the clients were told to do, not by Porthole.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
chmod 755 "$scratch"
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

# until_true COMMAND...: waits until it succeeds.
until_true() {
    for _ in $(seq 1 200); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
    echo "never came true: $*" >&2
    exit 1
}

# record NAME FILTER FUNCTION: what the function does, as a capture.
record() {
    tcpdump -Z root -i lo --immediate-mode -U -s 0 -w "$scratch/$1.pcap" "$2" 2>"$scratch/tcpdump.log" &
    local dump=$!
    pids+=($dump)
    until_true grep -q "listening on" "$scratch/tcpdump.log"
    "$3"
    sleep 0.5
    kill "$dump"
    wait "$dump" || true
    cp "$scratch/$1.pcap" "$here/$1.pcap"
    echo "$1: $(stat -c %s "$here/$1.pcap") bytes"
}

http1_requests() {
    local at=http://127.0.0.1:18080
    curl -s $at/ $at/items/1 "$at/items/2?x=y" $at/missing >/dev/null
    curl -s -o /dev/null $at/old
    curl -s -o /dev/null -I $at/
    curl -s -o /dev/null $at/down
    curl -s -o /dev/null -X POST -d 'a=b&c=d' $at/items/3
    printf 'GET /items/4 HTTP/1.1\r\nHost: x\r\n\r\nGET /missing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' |
        timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/18080; cat >&3; cat <&3' >/dev/null
}
http1() {
    mkdir -p "$scratch/nginx"
    cat >"$scratch/nginx/nginx.conf" <<CONF
daemon off; pid $scratch/nginx/pid; error_log $scratch/nginx/error.log; worker_processes 1;
events {}
http {
    access_log off; client_body_temp_path $scratch/nginx/body; proxy_temp_path $scratch/nginx/proxy;
    fastcgi_temp_path $scratch/nginx/f; uwsgi_temp_path $scratch/nginx/u; scgi_temp_path $scratch/nginx/s;
    server {
        listen 127.0.0.1:18080;
        location = / { return 200 "hello\n"; }
        location /items/ { return 200 "an item\n"; }
        location = /old { return 301 /; }
        location = /down { return 503; }
        location / { return 404; }
    }
}
CONF
    nginx -c "$scratch/nginx/nginx.conf" 2>/dev/null &
    pids+=($!)
    until_true curl -s -o /dev/null http://127.0.0.1:18080/
    record http1 "tcp port 18080" http1_requests
}

http2_requests() {
    local ask="curl -s -o /dev/null --max-time 5 --http2-prior-knowledge" at=http://127.0.0.1:18081
    for path in items/1 items/2 missing; do $ask $at/$path; done
    $ask -I $at/items/3
    $ask -X POST -d 'a=b&c=d' $at/down
}
http2() {
    mkdir -p "$scratch/nginx2"
    cat >"$scratch/nginx2/nginx.conf" <<CONF
daemon off; pid $scratch/nginx2/pid; error_log $scratch/nginx2/error.log; worker_processes 1;
events {}
http {
    access_log off; client_body_temp_path $scratch/nginx2/body; proxy_temp_path $scratch/nginx2/proxy;
    fastcgi_temp_path $scratch/nginx2/f; uwsgi_temp_path $scratch/nginx2/u; scgi_temp_path $scratch/nginx2/s;
    server {
        listen 127.0.0.1:18081 http2;
        location /items/ { return 200 "an item\n"; }
        location = /down { return 503; }
        location / { return 404; }
    }
}
CONF
    nginx -c "$scratch/nginx2/nginx.conf" 2>/dev/null &
    pids+=($!)
    until_true curl -s -o /dev/null --max-time 5 --http2-prior-knowledge http://127.0.0.1:18081/
    record http2 "tcp port 18081" http2_requests
}

grpc_requests() {
    python3 - <<'PYTHON'
import grpc
with grpc.insecure_channel("127.0.0.1:15051") as channel:
    call = lambda method: channel.unary_unary("/shop.Cart/" + method)(b"x" * 20)
    call("Add")
    call("Add")
    for method in "Missing", "NoSuchMethod":
        try:
            call(method)
        except grpc.RpcError:
            pass
    list(channel.unary_stream("/shop.Cart/List")(b""))
PYTHON
}
grpc() {
    python3 - <<'PYTHON' &
import concurrent.futures, grpc
class Cart(grpc.GenericRpcHandler):
    def service(self, call):
        def missing(request, context):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such cart")
        return {
            "/shop.Cart/Add": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
            "/shop.Cart/Missing": grpc.unary_unary_rpc_method_handler(missing),
            "/shop.Cart/List": grpc.unary_stream_rpc_method_handler(lambda request, context: iter([b"a", b"b", b"c"])),
        }.get(call.method)
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[Cart()])
server.add_insecure_port("127.0.0.1:15051")
server.start()
server.wait_for_termination()
PYTHON
    pids+=($!)
    until_true bash -c 'exec 3<>/dev/tcp/127.0.0.1/15051'
    record grpc "tcp port 15051" grpc_requests
}

memcached_requests() {
    printf '%s\r\n' 'set user:1 0 0 5' hello 'get user:1' 'get user:2' 'set n 0 0 1' 1 'incr n 1' 'incr user:1 1' \
        'delete user:1' 'delete user:1' quit |
        timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/11311; cat >&3; cat <&3' >/dev/null
}
memcached() {
    command memcached -u root -l 127.0.0.1 -p 11311 &
    pids+=($!)
    until_true bash -c 'exec 3<>/dev/tcp/127.0.0.1/11311'
    record memcached "tcp port 11311" memcached_requests
}

nats_requests() {
    # Ends when the server has answered the PING behind everything else.
    timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/14222; read -r <&3
        printf "CONNECT {\"verbose\":false}\r\nSUB orders.* 1\r\nPUB orders.new 5\r\nhello\r\n" >&3
        printf "PUB logs 3\r\nabc\r\nPING\r\n" >&3
        while read -r line <&3; do [[ $line == PONG* ]] && break; done'
}
nats() {
    nats-server --addr 127.0.0.1 --port 14222 >/dev/null 2>&1 &
    pids+=($!)
    until_true bash -c 'exec 3<>/dev/tcp/127.0.0.1/14222'
    record nats "tcp port 14222" nats_requests
}

redis_requests() {
    local ask="redis-cli -p 16379"
    for command in "SET k 1" "INCR k" "GET k" "LPUSH k x"; do $ask $command >/dev/null; done
    printf 'SET a 1\r\nGET a\r\nNOSUCH a\r\nGET b\r\nQUIT\r\n' |
        timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/16379; cat >&3; cat <&3' >/dev/null
}
redis() {
    redis-server --port 16379 --bind 127.0.0.1 --save '' --dir "$scratch" >/dev/null &
    pids+=($!)
    until_true redis-cli -p 16379 ping
    record redis "tcp port 16379" redis_requests
}

dns_requests() {
    local ask="dig -p 15353 @127.0.0.1 +tries=1 +time=2"
    $ask www.example.test A >/dev/null
    $ask www.example.test AAAA >/dev/null
    $ask nothing.example.test A >/dev/null
    $ask +tcp www.example.test A >/dev/null
}
dns() {
    dnsmasq --keep-in-foreground --conf-file=/dev/null --port=15353 --listen-address=127.0.0.1 --bind-interfaces \
        --no-resolv --no-hosts --user=root --pid-file= --local=/test/ --host-record=www.example.test,192.0.2.1,2001:db8::1 &
    pids+=($!)
    until_true dig -p 15353 @127.0.0.1 +tries=1 +time=1 www.example.test
    record dns "port 15353" dns_requests
}

mysql_requests() {
    mariadb --no-defaults -h 127.0.0.1 -P 13306 -u porthole --skip-ssl -f test >/dev/null 2>&1 <<SQL || true
CREATE TABLE orders (id INT PRIMARY KEY, name TEXT);
INSERT INTO orders VALUES (1, 'secret');
SELECT name FROM orders WHERE id = 1;
SELECT * FROM nowhere;
INSERT INTO orders VALUES (1, 'again');
SQL
}
mysql() {
    mariadb-install-db --no-defaults --user=root --datadir="$scratch/mysql" --auth-root-authentication-method=normal \
        --skip-test-db >/dev/null 2>&1
    mariadbd --no-defaults --user=root --datadir="$scratch/mysql" --socket="$scratch/mysql.sock" --port=13306 \
        --bind-address=127.0.0.1 >/dev/null 2>&1 &
    pids+=($!)
    until_true mariadb-admin --no-defaults -u root --socket="$scratch/mysql.sock" ping
    mariadb --no-defaults -u root --socket="$scratch/mysql.sock" \
        -e "CREATE DATABASE test; CREATE USER porthole; GRANT ALL ON test.* TO porthole"
    record mysql "tcp port 13306" mysql_requests
}

postgresql_requests() {
    PGSSLMODE=disable PGGSSENCMODE=disable psql -q -h 127.0.0.1 -p 15432 -U porthole postgres >/dev/null 2>&1 <<SQL || true
CREATE TABLE orders (id INT PRIMARY KEY, name TEXT);
INSERT INTO orders VALUES (1, 'secret');
SELECT name FROM orders WHERE id = 1;
SELECT * FROM nowhere;
INSERT INTO orders VALUES (1, 'again');
SQL
}
postgresql() {
    local bin
    bin=$(echo /usr/lib/postgresql/*/bin)
    mkdir "$scratch/pg"
    chown postgres "$scratch/pg"
    as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
    as_postgres "$bin/initdb" -D "$scratch/pg/data" -U porthole -A trust --locale C >/dev/null
    as_postgres "$bin/postgres" -D "$scratch/pg/data" -p 15432 -c listen_addresses=127.0.0.1 \
        -c unix_socket_directories="$scratch/pg" >"$scratch/pg.log" 2>&1 &
    pids+=($!)
    until_true psql -h 127.0.0.1 -p 15432 -U porthole postgres -c 'SELECT 1'
    record postgresql "tcp port 15432" postgresql_requests
}

tls_requests() {
    local ask="openssl s_client -connect 127.0.0.1:14433"
    $ask -servername www.shop.example.com </dev/null >/dev/null 2>&1
    $ask -noservername </dev/null >/dev/null 2>&1
    # The server speaks TLS 1.3 only, and refuses with the alert protocol_version.
    $ask -servername shop.example.com -tls1_2 </dev/null >/dev/null 2>&1 || true
}
tls() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=example.com \
        -keyout "$scratch/tls.key" -out "$scratch/tls.crt" >/dev/null 2>&1
    openssl s_server -quiet -accept 127.0.0.1:14433 -tls1_3 -key "$scratch/tls.key" -cert "$scratch/tls.crt" \
        >/dev/null 2>&1 &
    pids+=($!)
    until_true bash -c 'exec 3<>/dev/tcp/127.0.0.1/14433'
    record tls "tcp port 14433" tls_requests
}

for name in "${@:-http1 http2 grpc redis memcached nats dns mysql postgresql tls}"; do
    for one in $name; do "$one"; done
done
