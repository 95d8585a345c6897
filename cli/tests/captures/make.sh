#!/bin/bash
# Makes the captures in this directory anew, from real servers on loopback: make.sh [NAME...]
#
# Needs root, tcpdump, curl, and the servers: nginx, redis-server, dnsmasq with dig, mariadb-server, postgresql.
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
    tcpdump -i lo --immediate-mode -U -s 0 -w "$scratch/$1.pcap" "$2" 2>"$scratch/tcpdump.log" &
    local dump=$!
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

for name in "${@:-http1 redis dns mysql postgresql}"; do
    for one in $name; do "$one"; done
done
