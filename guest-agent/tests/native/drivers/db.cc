// Asks a server by the client library of C++: `db PROTOCOL PORT NAME`.
#include <pqxx/pqxx>

int main(int, char **arguments) {
    std::string port = arguments[2], name = arguments[3];
    pqxx::connection client("host=127.0.0.1 port=" + port + " user=postgres dbname=postgres");
    pqxx::nontransaction work(client);
    work.exec("CREATE TABLE " + name + " (id int, name text)");
    for (int number = 0; number < 5; number++)
        work.exec_params("INSERT INTO " + name + " VALUES ($1, $2)", number, std::string(600, 'x'));
    for (int number = 0; number < 7; number++)
        work.exec_params("SELECT * FROM " + name + " WHERE id <= $1", number);
    try {
        work.exec("UPDATE " + name + " SET nothing = 1");
    } catch (const pqxx::sql_error &) {
    }
}
