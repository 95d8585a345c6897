// A shop's traffic with a Kafka broker by Kafka's own client: `Shop PORT LOGIN_PORT MARK`.
//
// Prints what it has sent, one line for each kind: operation, topic or `-`, number.
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

class Shop {
    private static String plain;
    private static Map<String, Object> login;
    private static String mark;

    public static void main(String[] arguments) throws Exception {
        plain = "127.0.0.1:" + arguments[0];
        mark = arguments[2];
        login = Map.of(
            "bootstrap.servers", "127.0.0.1:" + arguments[1], "security.protocol", "SASL_PLAINTEXT", "sasl.mechanism", "SCRAM-SHA-256",
            "sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"shop\" password=\"s3cret\";");
        byte[] record = "order ".repeat(50).getBytes();
        for (String compression : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            String topic = topic(compression);
            produce(topic, Map.of("compression.type", compression), record, 5);
            consume(topic, Map.of(), 5);
        }
        // Megabytes that do not compress.
        byte[] large = new byte[3_000_000];
        new Random(1).nextBytes(large);
        String topic = topic("large");
        produce(topic, Map.of("max.request.size", 8_000_000), large, 4);
        consume(topic, Map.of("max.partition.fetch.bytes", 8_000_000, "fetch.max.bytes", 32_000_000), 4);
        topic = topic("paid");
        try (var producer = producer(Map.of("transactional.id", mark))) {
            producer.initTransactions();
            for (int number = 0; number < 4; number++) {
                producer.beginTransaction();
                producer.send(new ProducerRecord<>(topic, record)).get();
                if (number % 2 == 0) producer.commitTransaction(); else producer.abortTransaction();
            }
        }
        System.out.println("Produce " + topic + " 4\nEndTxn - 4");
        // The protocol of groups that came with release 4.
        if (!AppInfoParser.getVersion().startsWith("3.")) {
            topic = topic("members");
            produce(topic, Map.of(), record, 5);
            consume(topic, Map.of("group.protocol", "consumer"), 5);
        }
    }

    private static String topic(String name) throws Exception {
        String topic = mark + "." + name;
        try (var admin = Admin.create(Map.of("bootstrap.servers", plain))) {
            admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get();
        }
        return topic;
    }

    private static KafkaProducer<byte[], byte[]> producer(Map<String, Object> settings) {
        var all = new HashMap<String, Object>(login);
        all.putAll(settings);
        return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** Sends records, each by a request of its own. */
    private static void produce(String topic, Map<String, Object> settings, byte[] record, int count) throws Exception {
        try (var producer = producer(settings)) {
            for (int number = 0; number < count; number++) producer.send(new ProducerRecord<>(topic, record)).get();
        }
        System.out.println("Produce " + topic + " " + count);
    }

    private static void consume(String topic, Map<String, Object> settings, int count) {
        var all = new HashMap<String, Object>(login);
        all.putAll(Map.of("group.id", topic, "auto.offset.reset", "earliest", "enable.auto.commit", false));
        all.putAll(settings);
        try (var consumer = new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(topic));
            long until = System.nanoTime() + Duration.ofMinutes(1).toNanos();
            for (int found = 0; found < count; found += consumer.poll(Duration.ofMillis(200)).count()) {
                if (System.nanoTime() > until) throw new IllegalStateException("records of " + topic + " are missing");
            }
            for (int number = 0; number < 3; number++) consumer.commitSync();
        }
        System.out.println("OffsetCommit " + topic + " 3");
    }
}
