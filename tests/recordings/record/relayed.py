"""Recordings of message brokers and name servers, by a relay."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from relay import Relay
from servers import directory, quiet, running, version, wait_until, wait_until_it_listens


def dns(folder):
    if "RECORDING" not in os.environ:
        # The C library sends its queries to what /etc/resolv.conf names, at port 53: in a network and a view of files of its own.
        inside = "ip link set lo up && mount --bind /dev/stdin /etc/resolv.conf && exec \"$@\""
        with tempfile.NamedTemporaryFile("w") as resolv:
            resolv.write("nameserver 127.0.0.1\nsearch prod.svc example\noptions ndots:2\n")
            resolv.flush()
            inside = inside.replace("/dev/stdin", resolv.name)
            recorder = [sys.executable, os.path.dirname(__file__), "--to", str(folder), "relayed", "dns"]
            subprocess.run(["unshare", "--mount", "--net", "sh", "-ec", inside, "sh", *recorder],
                           env={**os.environ, "RECORDING": "1"}, check=True)
        return
    relay = Relay(53, 15354)
    # This server is the authority for everything, and forwards no query.
    server = running(
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=15354", "--listen-address=127.0.0.1",
         "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
         "--local=/example/", "--local=/svc/", "--local=/arpa/",
         "--address=/shop.example/10.1.2.3", "--address=/shop.example/fd00::1", "--cname=www.example,shop.example",
         "--host-record=shop.example,10.1.2.3", "--mx-host=example,mail.example,10",
         "--srv-host=_http._tcp.example,shop.example,80", "--ptr-record=3.2.1.10.in-addr.arpa,shop.example",
         *[f"--txt-record=big.example,{n:03}{'x' * 200}" for n in range(20)], port=15354)
    with server:
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
            quiet(*dig, *question)
        dig_version = subprocess.run(["dig", "-v"], capture_output=True, text=True, check=True).stderr.strip()
        relay.write(folder, "dns-dnsmasq.txt", [version("dnsmasq", "--version"), dig_version])

        # A and AAAA at once from one socket, for each name of the search list.
        for name in ("shop", "mail.example", "www.example."):
            quiet("getent", "ahosts", name)
        relay.write(folder, "dns-libc.txt", [version("ldd", "--version")])


# Where Kafka's classes for logins are.
KAFKA_LOGIN = "org.apache.kafka.common.security"


def kafka(folder, jars):
    with directory() as scratch:
        kafka_in(folder, jars, scratch)


def kafka_in(folder, jars, scratch):
    properties = scratch / "server.properties"
    properties.write_text(f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:19094
listeners=PLAINTEXT://127.0.0.1:19093,CONTROLLER://127.0.0.1:19094,SASL_PLAINTEXT://127.0.0.1:19095
advertised.listeners=PLAINTEXT://127.0.0.1:19092,SASL_PLAINTEXT://127.0.0.1:19096
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl_plaintext.plain.sasl.jaas.config={KAFKA_LOGIN}.plain.PlainLoginModule required user_shop="s3cret";
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={KAFKA_LOGIN}.scram.ScramLoginModule required;
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
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
    storage = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(properties),
               "--add-scram", "SCRAM-SHA-256=[name=shop,password=s3cret]"]
    run("kafka.tools.StorageTool", *storage)
    broker = java("kafka.Kafka", str(properties))
    bootstrap = "127.0.0.1:19092"
    try:
        wait_until_it_listens(broker, 19093)
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
        relay.write(folder, f"kafka-{name}-java.txt", [f"Kafka {name}, its own tools"])

        kcat = ["kcat", "-b", bootstrap, "-t", "payments.v1", "-X", "topic.metadata.refresh.interval.ms=-1"]
        for arguments, given in (
            (["-P", "-p", "0"], "a\nb\n"), (["-P", "-p", "1", "-X", "acks=0"], "c\n"), (["-C", "-o", "beginning", "-e"], None),
            (["-L"], None), (["-Q", "-t", "payments.v1:0:-1"], None), (["-P", "-t", "missing", "-X", "message.timeout.ms=2000"], "x\n"),
        ):
            quiet(*kcat, *arguments, input=given, text=True)
        relay.write(folder, f"kafka-{name}-librdkafka.txt", [f"Kafka {name}, kcat"])

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
        relay.write(folder, f"kafka-{name}-python.txt", [f"Kafka {name}, kafka-python {client.__version__}: {len(consumed)} consumed"])
        relay = Relay(19096, 19095)
        relay.write(folder, f"kafka-{name}-transactions.txt", [f"Kafka {name}, {kafka_transactions('127.0.0.1:19096')}"])
    finally:
        broker.terminate()
        broker.wait()


def kafka_transactions(bootstrap):
    """Logins of both kinds and one that is refused, all compressions, transactions, and a group that is rebalanced."""
    import confluent_kafka  # pylint: disable=import-outside-toplevel
    import kafka as client  # pylint: disable=import-outside-toplevel
    common = {"bootstrap.servers": bootstrap, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256",
              "sasl.username": "shop", "sasl.password": "s3cret", "log_level": 0}
    refused = confluent_kafka.Producer({**common, "sasl.password": "wrong", "reconnect.backoff.ms": 10000})
    try:
        refused.list_topics(timeout=2)
        raise RuntimeError("a wrong password was accepted")
    except confluent_kafka.KafkaException:
        pass
    for compression in ("gzip", "snappy", "lz4", "zstd"):
        producer = confluent_kafka.Producer({**common, "compression.type": compression, "linger.ms": 20})
        for number in range(20):
            producer.produce("orders", b"order %d " % number * 5)
        producer.flush(10)
    producer = confluent_kafka.Producer({**common, "transactional.id": "shop"})
    producer.init_transactions(10)
    for finish in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce("payments.v1", b"paid")
        producer.flush(10)
        finish(10)
    group = {**common, "group.id": "transactions", "auto.offset.reset": "earliest", "isolation.level": "read_committed",
             "session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
    first, second = confluent_kafka.Consumer(group), confluent_kafka.Consumer(group)
    first.subscribe(["orders"])
    wait_until(lambda: first.poll(1) is not None, "the first consumer reads")
    second.subscribe(["orders"])
    wait_until(lambda: (first.poll(0.2), second.poll(0.2), second.assignment())[2], "the second consumer has a partition")
    first.close()
    second.commit(asynchronous=False)
    second.close()
    plain = client.KafkaProducer(bootstrap_servers=bootstrap, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN",
                                 sasl_plain_username="shop", sasl_plain_password="s3cret")
    plain.send("orders", b"plain").get(10)
    plain.close()
    return f"confluent-kafka {confluent_kafka.__version__}, kafka-python {client.__version__}"


def amqp(folder):
    with directory() as scratch:
        amqp_in(folder, scratch)


def amqp_in(folder, scratch):
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
        wait_until_it_listens(server, 15673)
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
        wait_until(lambda: connection.process_data_events(0.1) or heartbeats(relay), "both ends have sent a heartbeat")
        connection.close()
        try:
            connect("wrong")
        except pika.exceptions.AMQPConnectionError:
            pass
        relay.write(folder, "amqp-rabbitmq.txt", [f"RabbitMQ, pika {pika.__version__}"])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        subprocess.run(["epmd", "-port", "15676", "-kill"], check=False, stdout=subprocess.DEVNULL)


def heartbeats(relay):
    """Whether both ends have sent a heartbeat: a frame of type 8 on channel 0 without a payload."""
    return all(any(f" {way} " in line and line.endswith("08000000000000ce") for line in relay.lines) for way in "<>")


def mongodb(folder, jars):
    import pymongo  # pylint: disable=import-outside-toplevel

    with directory() as scratch:
        main = pathlib.Path(scratch, "Main.java")
        main.write_text("""
public class Main {
    public static void main(String[] arguments) {
        new de.bwaldvogel.mongo.MongoServer(new de.bwaldvogel.mongo.backend.memory.MemoryBackend()).bind("127.0.0.1", 15018);
    }
}
""")
        with running("java", "-cp", f"{jars}/*", str(main), port=15018):
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
            # A duplicate key, commands that fail, and a write without a response.
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
            relay.write(folder, "mongodb-pymongo.txt", [f"mongo-java-server, pymongo {pymongo.version}"])


OF_JARS = {"kafka", "mongodb"}
MAKERS = {"amqp": amqp, "dns": dns, "kafka": kafka, "mongodb": mongodb}
