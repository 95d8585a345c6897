// Asks Redis by Jedis: `Cache redis PORT NAME`.
import redis.clients.jedis.Jedis;
import redis.clients.jedis.exceptions.JedisDataException;

class Cache {
    public static void main(String[] arguments) {
        String name = arguments[2];
        try (var client = new Jedis("127.0.0.1", Integer.parseInt(arguments[1]))) {
            for (int number = 0; number < 5; number++) client.set(name, "x".repeat(600));
            for (int number = 0; number < 7; number++) client.get(name);
            try {
                client.lpush(name, "x");
            } catch (JedisDataException expected) {
            }
        }
    }
}
