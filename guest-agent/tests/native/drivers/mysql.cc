// Asks a server by MySQL Connector/C++: `mysql mysql PORT NAME`.
#include <cppconn/prepared_statement.h>
#include <memory>
#include <mysql_connection.h>
#include <mysql_driver.h>

int main(int, char **arguments) {
    std::string port = arguments[2], name = arguments[3];
    std::unique_ptr<sql::Connection> client(
        sql::mysql::get_mysql_driver_instance()->connect("tcp://127.0.0.1:" + port, "root", ""));
    client->setSchema("d");
    std::unique_ptr<sql::Statement> statement(client->createStatement());
    statement->execute("CREATE TABLE " + name + " (id int, name text)");
    std::unique_ptr<sql::PreparedStatement> insert(client->prepareStatement("INSERT INTO " + name + " VALUES (?, ?)"));
    for (int number = 0; number < 5; number++) {
        insert->setInt(1, number);
        insert->setString(2, std::string(600, 'x'));
        insert->executeUpdate();
    }
    std::unique_ptr<sql::PreparedStatement> select(client->prepareStatement("SELECT * FROM " + name + " WHERE id <= ?"));
    for (int number = 0; number < 7; number++) {
        select->setInt(1, number);
        std::unique_ptr<sql::ResultSet> rows(select->executeQuery());
        while (rows->next()) {
        }
    }
    try {
        statement->execute("UPDATE " + name + " SET nothing = 1");
    } catch (const sql::SQLException &) {
    }
}
