// Sends five records by librdkafka's C++ interface: `produce kafka PORT NAME`.
#include <librdkafka/rdkafkacpp.h>
#include <memory>

int main(int, char **arguments) {
    std::string error, record(600, 'x');
    std::unique_ptr<RdKafka::Conf> settings(RdKafka::Conf::create(RdKafka::Conf::CONF_GLOBAL));
    settings->set("bootstrap.servers", std::string("127.0.0.1:") + arguments[2], error);
    settings->set("linger.ms", "0", error);
    settings->set("acks", "1", error);
    std::unique_ptr<RdKafka::Producer> producer(RdKafka::Producer::create(settings.get(), error));
    if (!producer) return 1;
    for (int number = 0; number < 5; number++) {
        if (producer->produce(arguments[3], RdKafka::Topic::PARTITION_UA, RdKafka::Producer::RK_MSG_COPY,
                              record.data(), record.size(), nullptr, 0, 0, nullptr, nullptr))
            return 1;
        if (producer->flush(30000)) return 1;
    }
}
