// Asks a server by the driver that Java programs use: `Db PROTOCOL PORT NAME`.
import java.sql.DriverManager;
import java.sql.SQLException;

class Db {
    public static void main(String[] arguments) throws Exception {
        String protocol = arguments[0], port = arguments[1], name = arguments[2];
        boolean mysql = protocol.equals("mysql");
        String url = mysql ? "jdbc:mariadb://127.0.0.1:" + port + "/d" : "jdbc:postgresql://127.0.0.1:" + port + "/postgres";
        String user = mysql ? "root" : "postgres";
        try (var connection = DriverManager.getConnection(url, user, ""); var statement = connection.createStatement()) {
            statement.execute("CREATE TABLE " + name + " (id int, name text)");
            try (var insert = connection.prepareStatement("INSERT INTO " + name + " VALUES (?, ?)")) {
                for (int number = 0; number < 5; number++) {
                    insert.setInt(1, number);
                    insert.setString(2, "x".repeat(600));
                    insert.executeUpdate();
                }
            }
            try (var select = connection.prepareStatement("SELECT * FROM " + name + " WHERE id <= ?")) {
                for (int number = 0; number < 7; number++) {
                    select.setInt(1, number);
                    select.executeQuery().close();
                }
            }
            try {
                statement.execute("UPDATE " + name + " SET nothing = 1");
            } catch (SQLException expected) {
            }
        }
    }
}
