"""A shop's traffic with a Kafka broker: `shop.py PORT LOGIN_PORT MARK`, by librdkafka and by kafka-python.

Prints what it has sent, one line for each kind: operation, topic or `-`, number.
"""

import sys
import time

import confluent_kafka
import kafka
from confluent_kafka.admin import AdminClient, NewTopic

port, login_port, mark = sys.argv[1:]
PLAIN = f"127.0.0.1:{port}"
LOGIN = f"127.0.0.1:{login_port}"
RECORD = b"order " * 50


def login(mechanism="SCRAM-SHA-256", password="s3cret"):
    return {
        "bootstrap.servers": LOGIN, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism,
        "sasl.username": "shop", "sasl.password": password, "log_level": 0,
    }


def group(name, **settings):
    return {**login("PLAIN"), "group.id": f"{mark}.{name}", "auto.offset.reset": "earliest", "enable.auto.commit": False, **settings}


admin = AdminClient({"bootstrap.servers": PLAIN})


def topic(name, partitions=1):
    name = f"{mark}.{name}"
    for created in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        created.result(60)
    return name


def send(producer, topic, record):
    producer.produce(topic, record)
    assert producer.flush(60) == 0


def produce(producer, topic, records):
    """Sends records, each by a request of its own."""
    for record in records:
        send(producer, topic, record)
    print("Produce", topic, len(records))


def poll_until(consumers, condition, what):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, what
        for consumer in consumers:
            consumer.poll(0.1)


def consume(topic, count, **settings):
    consumer = confluent_kafka.Consumer(group(topic, **settings))
    consumer.subscribe([topic])
    until = time.monotonic() + 60
    while count:
        assert time.monotonic() < until, f"{count} records of {topic} are missing"
        message = consumer.poll(0.5)
        count -= message is not None and message.error() is None
    for _ in range(3):
        consumer.commit(offsets=consumer.position(consumer.assignment()), asynchronous=False)
    print("OffsetCommit", topic, 3)
    consumer.close()


for compression in ("none", "gzip", "snappy", "lz4", "zstd"):
    compressed = topic(compression)
    produce(confluent_kafka.Producer({**login(), "compression.type": compression}), compressed, [RECORD] * 5)
    consume(compressed, 5)

# Megabytes that do not compress.
large = topic("large")
size = {"message.max.bytes": 8_000_000}
produce(confluent_kafka.Producer({**login(), **size}), large, [bytes(range(256)) * 12_000] * 4)
consume(large, 4, **{"fetch.message.max.bytes": 8_000_000, "fetch.max.bytes": 32_000_000})

producer = confluent_kafka.Producer({**login(), "transactional.id": mark})
producer.init_transactions(60)
paid = topic("paid")
for finish in (producer.commit_transaction, producer.abort_transaction) * 2:
    producer.begin_transaction()
    send(producer, paid, RECORD)
    finish(60)
print("Produce", paid, 4)
print("EndTxn - 4")

# The second member makes the first one give up partitions.
shared = topic("shared", 4)
produce(confluent_kafka.Producer(login()), shared, [RECORD])
members = []
for _ in range(2):
    members.append(confluent_kafka.Consumer(group("shared", **{"session.timeout.ms": 6000, "heartbeat.interval.ms": 300})))
    members[-1].subscribe([shared])
    poll_until(members, lambda: all(member.assignment() for member in members), "every member has partitions")
for member in members:
    member.close()

refused = confluent_kafka.Producer({**login(password="wrong"), "reconnect.backoff.ms": 10_000})
try:
    refused.list_topics(timeout=3)
    raise SystemExit("a wrong password was accepted")
except confluent_kafka.KafkaException:
    pass

python = topic("python")
producer = kafka.KafkaProducer(
    bootstrap_servers=LOGIN, security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-256", sasl_plain_username="shop",
    sasl_plain_password="s3cret", compression_type="gzip")
for _ in range(5):
    producer.send(python, RECORD).get(60)
producer.close()
print("Produce", python, 5)
consumer = kafka.KafkaConsumer(
    python, bootstrap_servers=PLAIN, group_id=f"{mark}.python", auto_offset_reset="earliest", enable_auto_commit=False,
    consumer_timeout_ms=60_000)
for _ in range(5):
    next(consumer)
consumer.commit()
print("OffsetCommit", python, 1)
consumer.close()
print("LeaveGroup -", 6 + 2 + 1)
