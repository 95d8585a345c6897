// Sends five records by Kafka's own client: `Produce kafka PORT NAME`.
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

class Produce {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", "127.0.0.1:" + arguments[1], "acks", "1", "enable.idempotence", "false");
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (int number = 0; number < 5; number++) {
                producer.send(new ProducerRecord<>(arguments[2], "x".repeat(600))).get();
            }
        }
    }
}
