// Asks Redis by POCO: `redis redis PORT NAME`.
#include <Poco/Redis/Client.h>
#include <Poco/Redis/Command.h>
#include <Poco/Redis/Exception.h>

using Poco::Redis::Command;

int main(int, char **arguments) {
    std::string name = arguments[3];
    Poco::Redis::Client client("127.0.0.1", std::stoi(arguments[2]));
    for (int number = 0; number < 5; number++)
        client.execute<std::string>(Command::set(name, std::string(600, 'x')));
    for (int number = 0; number < 7; number++)
        client.execute<Poco::Redis::BulkString>(Command::get(name));
    try {
        client.execute<Poco::Int64>(Command::lpush(name, "x"));
    } catch (const Poco::Redis::RedisException &) {
    }
}
