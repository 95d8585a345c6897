#!/usr/bin/env python3
"""Records what real servers and clients say to each other, for the tests of the parsers.

    record.py dns           with dnsmasq, dig and the C library; as root
    record.py kafka JARS    with a broker's jars in the folder JARS (Maven: org.apache.kafka:kafka_2.13 and kafka-tools with
                            what they depend on), a Java runtime, kcat and Python's kafka-python
    record.py amqp          with rabbitmq-server and Python's pika
    record.py mongodb JARS  with an independent server's jars in the folder JARS (Maven: de.bwaldvogel:mongo-java-server; no
                            distribution packages MongoDB's own), a Java development kit and Python's pymongo

Each recording is made by a relay between client and server on the loopback interface. It has a line for every piece
that was relayed: the connection's number, `tcp` or `udp`, who sent it (`>` the client, `<` the server), and the bytes
in hexadecimal. What was asked, and so what has to be found, is in the test that reads it.
"""

import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent


class Relay:
    """Relays TCP or UDP from one port of the loopback interface to another, and writes down what passes."""

    def __init__(self, listen, target):
        self.target = ("127.0.0.1", target)
        self.lines = []
        self.lock = threading.Lock()
        self.connections = 0
        self.tcp = socket.create_server(("127.0.0.1", listen))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", listen))
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._datagrams, daemon=True).start()

    def _note(self, number, transport, way, data):
        with self.lock:
            self.lines.append(f"{number} {transport} {way} {data.hex()}")

    def _number(self):
        with self.lock:
            self.connections += 1
            return self.connections

    def _accept(self):
        while True:
            client, _ = self.tcp.accept()
            threading.Thread(target=self._stream, args=(client, self._number()), daemon=True).start()

    def _stream(self, client, number):
        server = socket.create_connection(self.target)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            for end in select.select([client, server], [], [])[0]:
                try:
                    data = end.recv(65536)
                except ConnectionError:
                    data = b""
                if not data:
                    client.close()
                    server.close()
                    return
                self._note(number, "tcp", ">" if end is client else "<", data)
                (server if end is client else client).sendall(data)

    def _datagrams(self):
        clients = {}
        while True:
            data, client = self.udp.recvfrom(65536)
            if client not in clients:
                upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                upstream.connect(self.target)
                clients[client] = (upstream, self._number())
                threading.Thread(target=self._answers, args=(client, *clients[client]), daemon=True).start()
            upstream, number = clients[client]
            self._note(number, "udp", ">", data)
            upstream.send(data)

    def _answers(self, client, upstream, number):
        while True:
            try:
                data = upstream.recv(65536)
            except ConnectionError:
                continue
            self._note(number, "udp", "<", data)
            self.udp.sendto(data, client)

    def write(self, name, about):
        time.sleep(0.3)
        with self.lock:
            text = "".join(f"# {line}\n" for line in about) + "\n".join(self.lines) + "\n"
        (HERE / name).write_text(text)
        print(f"{name}: {self.connections} connections, {len(text)} bytes")


def wait_for(port, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"nothing listens on port {port}")


def version(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def dns():
    if "RECORDING" not in os.environ:
        # The C library asks what /etc/resolv.conf says, by port 53: in a network and a view of files of its own.
        inside = "ip link set lo up && mount --bind /dev/stdin /etc/resolv.conf && exec \"$@\""
        with tempfile.NamedTemporaryFile("w") as resolv:
            resolv.write("nameserver 127.0.0.1\nsearch prod.svc example\noptions ndots:2\n")
            resolv.flush()
            inside = inside.replace("/dev/stdin", resolv.name)
            subprocess.run(["unshare", "--mount", "--net", "sh", "-ec", inside, "sh", sys.executable, __file__, "dns"],
                           env={**os.environ, "RECORDING": "1"}, check=True)
        return
    relay = Relay(53, 15354)
    # The root answers everything that is not known here; nothing is asked of others.
    server = subprocess.Popen(
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=15354", "--listen-address=127.0.0.1",
         "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
         "--local=/example/", "--local=/svc/", "--local=/arpa/",
         "--address=/shop.example/10.1.2.3", "--address=/shop.example/fd00::1", "--cname=www.example,shop.example",
         "--host-record=shop.example,10.1.2.3", "--mx-host=example,mail.example,10",
         "--srv-host=_http._tcp.example,shop.example,80", "--ptr-record=3.2.1.10.in-addr.arpa,shop.example",
         *[f"--txt-record=big.example,{n:03}{'x' * 200}" for n in range(20)]])
    try:
        wait_for(15354)
        dig = ["dig", "@127.0.0.1", "+tries=1", "+time=3"]
        for question in (
            ["shop.example", "A"], ["shop.example", "AAAA"], ["mail.example", "A", "+noedns"],
            ["nowhere.example", "A"], ["example", "MX"], ["_http._tcp.example", "SRV"], ["-x", "10.1.2.3"],
            # Truncated, then by TCP.
            ["big.example", "TXT", "+bufsize=512"],
            ["shop.example", "A", "+tcp"],
            ["shop.example", "A", "+tcp", "+keepopen", "nowhere.example", "AAAA", "+tcp", "+keepopen"],
            ["outside.test", "HTTPS"],
            ["version.bind", "TXT", "CH"],
            ["shop", "A", "+search", "+domain=example"],
            ["db", "A", "+search", "+domain=prod.svc", "+ndots=2"],
        ):
            subprocess.run([*dig, *question], check=False, stdout=subprocess.DEVNULL)
        dig_version = subprocess.run(["dig", "-v"], capture_output=True, text=True, check=True).stderr.strip()
        relay.write("dns-dnsmasq.txt", [version("dnsmasq", "--version"), dig_version])

        relay.lines.clear()
        # A and AAAA at once from one socket, for each name of the search list.
        for name in ("shop", "mail.example", "www.example."):
            subprocess.run(["getent", "ahosts", name], check=False, stdout=subprocess.DEVNULL)
        relay.write("dns-libc.txt", [version("ldd", "--version")])
    finally:
        server.terminate()
        server.wait()


def kafka(jars):
    with tempfile.TemporaryDirectory() as scratch:
        kafka_in(pathlib.Path(jars).resolve(), pathlib.Path(scratch))


def kafka_in(jars, scratch):
    properties = scratch / "server.properties"
    properties.write_text(f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:19094
listeners=PLAINTEXT://127.0.0.1:19093,CONTROLLER://127.0.0.1:19094
advertised.listeners=PLAINTEXT://127.0.0.1:19092
controller.listener.names=CONTROLLER
log.dirs={scratch}/logs
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
""")

    def java(main, *arguments, **options):
        heap = "-Xmx256m" if main.startswith("org") else "-Xmx512m"
        return subprocess.Popen(["java", heap, "-cp", f"{jars}/*", main, *arguments], stdin=subprocess.PIPE,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, **options)

    def run(main, *arguments, given=""):
        java(main, *arguments).communicate(given, timeout=90)

    name = next(jars.glob("kafka_2.13-*.jar")).stem.split("-")[1]
    storage = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(properties)]
    run("kafka.tools.StorageTool", *storage)
    broker = java("kafka.Kafka", str(properties))
    bootstrap = "127.0.0.1:19092"
    try:
        wait_for(19093)
        relay = Relay(19092, 19093)
        tools = "org.apache.kafka.tools"
        # It moved with release 4.
        producer_tool = "kafka.tools.ConsoleProducer" if name.startswith("3.") else f"{tools}.ConsoleProducer"
        create = ["--bootstrap-server", bootstrap, "--create", "--partitions", "2", "--topic"]
        run(f"{tools}.TopicCommand", *create, "orders")
        run(f"{tools}.TopicCommand", *create, "payments.v1")
        produce = ["--bootstrap-server", bootstrap, "--topic", "orders", "--producer-property"]
        run(producer_tool, *produce, "acks=all", given="one\ntwo\n")
        run(producer_tool, *produce, "acks=0", "--producer-property", "enable.idempotence=false", given="three\n")
        run(f"{tools}.consumer.ConsoleConsumer", "--bootstrap-server", bootstrap, "--topic", "orders", "--group", "shop",
            "--from-beginning", "--timeout-ms", "6000")
        relay.write(f"kafka-{name}-java.txt", [f"Kafka {name}, its own tools"])

        relay.lines.clear()
        kcat = ["kcat", "-b", bootstrap, "-t", "payments.v1", "-X", "topic.metadata.refresh.interval.ms=-1"]
        for arguments, given in (
            (["-P", "-p", "0"], "a\nb\n"), (["-P", "-p", "1", "-X", "acks=0"], "c\n"), (["-C", "-o", "beginning", "-e"], None),
            (["-L"], None), (["-Q", "-t", "payments.v1:0:-1"], None), (["-P", "-t", "missing", "-X", "message.timeout.ms=2000"], "x\n"),
        ):
            subprocess.run([*kcat, *arguments], input=given, text=True, timeout=60, check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        relay.write(f"kafka-{name}-librdkafka.txt", [f"Kafka {name}, kcat"])

        relay.lines.clear()
        import kafka as client  # pylint: disable=import-outside-toplevel
        producer = client.KafkaProducer(bootstrap_servers=bootstrap)
        for number in range(3):
            producer.send("orders", b"p%d" % number).get(10)
        producer.close()
        consumer = client.KafkaConsumer("orders", bootstrap_servers=bootstrap, group_id="python", auto_offset_reset="earliest",
                                        consumer_timeout_ms=2000)
        consumed = [message.value for message in consumer]
        consumer.commit()
        consumer.close()
        relay.write(f"kafka-{name}-python.txt", [f"Kafka {name}, kafka-python {client.__version__}: {len(consumed)} consumed"])
    finally:
        broker.terminate()
        broker.wait()


def amqp():
    with tempfile.TemporaryDirectory() as scratch:
        amqp_in(pathlib.Path(scratch))


def amqp_in(scratch):
    import pika  # pylint: disable=import-outside-toplevel

    (scratch / "rabbitmq.conf").write_text("listeners.tcp.1 = 127.0.0.1:15673\nheartbeat = 1\nframe_max = 4096\n")
    (scratch / "enabled_plugins").write_text("[].\n")
    environment = {
        "PATH": "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/bin", "HOME": str(scratch),
        "RABBITMQ_NODENAME": "recording@localhost", "RABBITMQ_MNESIA_BASE": str(scratch), "RABBITMQ_LOG_BASE": str(scratch),
        "RABBITMQ_CONFIG_FILE": str(scratch / "rabbitmq"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(scratch / "enabled_plugins"),
        "RABBITMQ_DIST_PORT": "15675", "ERL_EPMD_PORT": "15676", "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    server = subprocess.Popen(["/usr/lib/rabbitmq/bin/rabbitmq-server"], env=environment, start_new_session=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(15673)
        relay = Relay(15672, 15673)

        def connect(password="guest"):
            credentials = pika.PlainCredentials("guest", password)
            return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", 15672, "/", credentials, heartbeat=1))

        connection = connect()
        channel = connection.channel()
        channel.exchange_declare("shop", "topic")
        channel.queue_declare("orders")
        channel.queue_bind("orders", "shop", "order.*")
        for number in range(3):
            channel.basic_publish("shop", "order.new", b"o%d" % number)
        # By the default exchange, with a body of several frames.
        channel.basic_publish("", "orders", b"x" * 10_000)
        channel.basic_publish("", "orders", b"")
        channel.basic_qos(prefetch_count=10)
        tags = [channel.basic_get("orders")[0].delivery_tag for _ in range(2)]
        channel.basic_ack(tags[0])
        channel.basic_nack(tags[1], requeue=False)
        channel.basic_get("orders", auto_ack=True)
        for method, _, body in channel.consume("orders", inactivity_timeout=2):
            channel.basic_ack(method.delivery_tag)
            if not body:
                break
        channel.cancel()
        # Nothing is there any more.
        channel.basic_get("orders")
        channel.queue_purge("orders")
        named = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", named, b"reply")
        # Confirmed, refused as unroutable, and to an exchange that does not exist.
        confirmed = connection.channel()
        confirmed.confirm_delivery()
        for number in range(2):
            confirmed.basic_publish("shop", "order.new", b"c%d" % number)
        try:
            confirmed.basic_publish("shop", "nobody", b"lost", mandatory=True)
        except pika.exceptions.UnroutableError:
            pass
        try:
            confirmed.basic_publish("missing", "key", b"lost")
        except pika.exceptions.ChannelClosedByBroker:
            pass
        failing = connection.channel()
        try:
            failing.queue_declare("missing", passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            pass
        transaction = connection.channel()
        transaction.tx_select()
        transaction.basic_publish("shop", "order.new", b"t")
        transaction.tx_commit()
        transaction.close()
        channel.queue_delete("orders")
        channel.exchange_delete("shop")
        # Long enough for heartbeats.
        connection.sleep(3)
        connection.close()
        try:
            connect("wrong")
        except pika.exceptions.AMQPConnectionError:
            pass
        relay.write("amqp-rabbitmq.txt", [f"RabbitMQ, pika {pika.__version__}"])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        subprocess.run(["epmd", "-port", "15676", "-kill"], check=False, stdout=subprocess.DEVNULL)


def mongodb(jars):
    import pymongo  # pylint: disable=import-outside-toplevel

    with tempfile.TemporaryDirectory() as scratch:
        main = pathlib.Path(scratch, "Main.java")
        main.write_text("""
public class Main {
    public static void main(String[] arguments) {
        new de.bwaldvogel.mongo.MongoServer(new de.bwaldvogel.mongo.backend.memory.MemoryBackend()).bind("127.0.0.1", 15018);
    }
}
""")
        server = subprocess.Popen(["java", "-cp", f"{jars}/*", str(main)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(15018)
            relay = Relay(15017, 15018)
            client = pymongo.MongoClient("mongodb://127.0.0.1:15017/?directConnection=true", serverSelectionTimeoutMS=5000)
            shop = client["shop"]
            orders = shop["orders"]
            client.admin.command("ping")
            orders.insert_one({"_id": 1, "item": "tea"})
            orders.insert_many([{"_id": number, "item": "cup", "note": "x" * 300} for number in range(2, 30)])
            list(orders.find({"item": "cup"}, batch_size=10))
            orders.find_one({"_id": 1})
            orders.update_one({"_id": 1}, {"$set": {"item": "coffee"}})
            orders.find_one_and_update({"_id": 1}, {"$inc": {"count": 1}})
            orders.count_documents({})
            orders.distinct("item")
            orders.create_index("item")
            list(orders.list_indexes())
            orders.delete_one({"_id": 2})
            # A duplicate key, commands that fail, and a write that wants no answer.
            for attempt in (
                lambda: orders.insert_one({"_id": 1}),
                lambda: shop.command("noSuchCommand"),
                lambda: orders.update_one({"_id": 1}, {"$rename": {"item": 5}}),
            ):
                try:
                    attempt()
                except pymongo.errors.PyMongoError:
                    pass
            orders.with_options(write_concern=pymongo.WriteConcern(w=0)).insert_one({"_id": 100})
            shop.list_collection_names()
            shop["orders"].drop()
            client.close()
            relay.write("mongodb-pymongo.txt", [f"mongo-java-server, pymongo {pymongo.version}"])
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    makers = {"dns": dns, "kafka": kafka, "amqp": amqp, "mongodb": mongodb}
    if len(sys.argv) < 2 or sys.argv[1] not in makers:
        sys.exit(__doc__)
    makers[sys.argv[1]](*sys.argv[2:])
