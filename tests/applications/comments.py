"""comments, of tenant globex: publishes comments as records of Kafka, reads them back, and reports which requests of its client were answered."""

import collections
import http.server
import time

import kafka
import kafka.client_async
import service

BROKER = "10.231.0.31:9092"
TOPIC = "comments"
DEADLINE_S = 600
# An emulated broker takes longer than the library's two seconds.
SETTINGS = {"bootstrap_servers": BROKER, "api_version_auto_timeout_ms": 60_000, "request_timeout_ms": 60_000}

AT_ONCE = 100

sent, finished, answered = collections.Counter(), collections.Counter(), collections.Counter()
send = kafka.client_async.KafkaClient.send


def send_and_count(client, node_id, request, **options):
    name = type(request).__name__.partition("Request")[0]
    sent[name] += 1
    future = send(client, node_id, request, **options)
    return future.add_callback(lambda _: answered.update([name])).add_both(lambda _: finished.update([name]))


kafka.client_async.KafkaClient.send = send_and_count


def when_it_answers(connect):
    """Connects as soon as the broker does."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return connect()
        except kafka.errors.KafkaError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


producer = when_it_answers(lambda: kafka.KafkaProducer(max_block_ms=60_000, **SETTINGS))
# Makes the broker create the topic.
producer.partitions_for(TOPIC)
partition = kafka.TopicPartition(TOPIC, 0)
consumer = kafka.KafkaConsumer(group_id=None, **SETTINGS)
consumer.assign([partition])
published = 0


def read_newest():
    """Reads what was published last, and waits for what the client has requested beyond it."""
    first = max(published - AT_ONCE, 0)
    consumer.seek(partition, first)
    consumer.resume(partition)
    read = 0
    while read < published - first:
        read += sum(map(len, consumer.poll(1000).values()))
    consumer.pause(partition)
    while sent["Fetch"] > finished["Fetch"]:
        consumer.poll(100)
    return read


class Comments(service.Handler):
    def do_POST(self):
        global published
        producer.send(TOPIC, b"a comment").get(60)
        published += 1
        self.answer_json(201, {})

    def do_GET(self):
        self.answer_json(200, answered if self.path == "/sent" else {"comments": read_newest()})


# One thread: the consumer is one request's at a time.
http.server.HTTPServer(("0.0.0.0", 8000), Comments).serve_forever()
