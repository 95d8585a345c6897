"""Makes the recordings of real servers and clients that the tests read.

    record relayed amqp|dns|grpc|grpc-java JARS|http2|kafka JARS|mongodb JARS|mysql|postgresql
    record packets [http1|http2|grpc|redis|memcached|nats|dns|mysql|postgresql|tls|vxlan ...]

`relayed` writes NAME-SERVER-OR-CLIENT.txt, what a relay between client and server on the loopback interface passed on: a line
for each piece, with the connection's number, `tcp` or `udp`, the sender (`>` the client, `<` the server), and the bytes in
hexadecimal. `packets` writes NAME.pcap, what tcpdump captured there, and for vxlan in
namespaces of networks; without a name it makes all. What a recording has to
give stands in the test that reads it, or in NAME.expected; both are written by hand from what the clients sent, not by
Porthole.

Run it as root (`python3 tests/recordings/record ...`): some servers run as users of their own. Each has a directory and a
port of its own and is ended afterwards; the machine's own services are left alone. Needed are, of Debian:
dnsmasq with dig, mariadb-server, postgresql (programs from PG_BIN, by default the newest in /usr/lib/postgresql), nginx,
redis, memcached, nats-server, rabbitmq-server, openssl, curl, nghttp2-client, tcpdump; of Python: pika, pymongo (before 4.16, which refuses
mongo-java-server: it has wire version 8), kafka-python, confluent-kafka, pymysql,
mysql-connector-python, psycopg, psycopg2, asyncpg, pg8000, grpcio; for grpc and http2 Go, Node.js and cargo, which
get gRPC from their registries. JARS is a folder of jars from Maven: for kafka org.apache.kafka:kafka_2.13 and kafka-tools with what they depend on, beside a Java runtime and kcat; for grpc-java
io.grpc:grpc-netty-shaded and grpc-stub with what they depend on, beside a Java development kit and what grpc needs; for mongodb
de.bwaldvogel:mongo-java-server, beside a Java development kit (no distribution packages MongoDB's own server).
"""

import argparse
import pathlib

import packets
import relayed
import relayed_http2
import relayed_sql
import tunnels

PACKETS = {**packets.MAKERS, "vxlan": tunnels.vxlan}
RELAYED = {**relayed.MAKERS, **relayed_http2.MAKERS, **relayed_sql.MAKERS}


def main():
    parser = argparse.ArgumentParser(prog="record", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent,
                        help="folder of the recordings")
    ways = parser.add_subparsers(dest="way", required=True)
    relay = ways.add_parser("relayed")
    relay.add_argument("name", choices=RELAYED)
    relay.add_argument("jars", nargs="?", type=pathlib.Path)
    capture = ways.add_parser("packets")
    capture.add_argument("names", nargs="*", metavar="name", help=", ".join(PACKETS))
    options = parser.parse_args()
    if options.way == "packets":
        unknown = [name for name in options.names if name not in PACKETS]
        if unknown:
            parser.error(f"no such recording: {', '.join(unknown)}")
        for name in options.names or PACKETS:
            PACKETS[name](options.to)
        return
    needs_jars = options.name in relayed.OF_JARS | relayed_http2.OF_JARS
    if needs_jars != (options.jars is not None):
        parser.error(f"{options.name} takes {'a folder of jars' if needs_jars else 'no jars'}")
    RELAYED[options.name](options.to, *([options.jars.resolve()] if needs_jars else []))


if __name__ == "__main__":
    main()
