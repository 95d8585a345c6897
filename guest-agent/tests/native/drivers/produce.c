/* Sends five records by librdkafka: `produce kafka PORT NAME`. */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <string.h>

int main(int count, char **arguments) {
    if (count != 4) return 1;
    char address[64], error[512], record[600];
    memset(record, 'x', sizeof record);
    snprintf(address, sizeof address, "127.0.0.1:%s", arguments[2]);
    rd_kafka_conf_t *settings = rd_kafka_conf_new();
    rd_kafka_conf_set(settings, "bootstrap.servers", address, error, sizeof error);
    rd_kafka_conf_set(settings, "linger.ms", "0", error, sizeof error);
    rd_kafka_conf_set(settings, "acks", "1", error, sizeof error);
    rd_kafka_t *producer = rd_kafka_new(RD_KAFKA_PRODUCER, settings, error, sizeof error);
    if (!producer) return 1;
    for (int number = 0; number < 5; number++) {
        if (rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(arguments[3]), RD_KAFKA_V_VALUE(record, sizeof record), RD_KAFKA_V_END)) return 1;
        if (rd_kafka_flush(producer, 30000)) return 1;
    }
    rd_kafka_destroy(producer);
}
