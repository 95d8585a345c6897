/* Asks a server by the client library of C: `db PROTOCOL PORT NAME`. */
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char long_name[601], text[2000];

static void mysql(int port, const char *name) {
    MYSQL *client = mysql_init(NULL);
    if (!mysql_real_connect(client, "127.0.0.1", "root", "", "d", port, NULL, 0)) exit(1);
    snprintf(text, sizeof text, "CREATE TABLE %s (id int, name text)", name);
    if (mysql_query(client, text)) exit(1);
    snprintf(text, sizeof text, "INSERT INTO %s VALUES (?, ?)", name);
    MYSQL_STMT *insert = mysql_stmt_init(client);
    if (mysql_stmt_prepare(insert, text, strlen(text))) exit(1);
    for (int number = 0; number < 5; number++) {
        unsigned long length = 600;
        MYSQL_BIND values[2] = {{.buffer_type = MYSQL_TYPE_LONG, .buffer = &number},
                                {.buffer_type = MYSQL_TYPE_STRING, .buffer = long_name, .buffer_length = 600, .length = &length}};
        mysql_stmt_bind_param(insert, values);
        if (mysql_stmt_execute(insert)) exit(1);
    }
    mysql_stmt_close(insert);
    for (int number = 0; number < 7; number++) {
        snprintf(text, sizeof text, "SELECT * FROM %s WHERE id <= %d", name, number);
        if (mysql_query(client, text)) exit(1);
        mysql_free_result(mysql_store_result(client));
    }
    snprintf(text, sizeof text, "UPDATE %s SET nothing = 1", name);
    mysql_query(client, text);
    mysql_close(client);
}

static void postgresql(int port, const char *name) {
    snprintf(text, sizeof text, "host=127.0.0.1 port=%d user=postgres dbname=postgres", port);
    PGconn *client = PQconnectdb(text);
    if (PQstatus(client) != CONNECTION_OK) exit(1);
    snprintf(text, sizeof text, "CREATE TABLE %s (id int, name text)", name);
    PQclear(PQexec(client, text));
    snprintf(text, sizeof text, "INSERT INTO %s VALUES ($1, $2)", name);
    PQclear(PQprepare(client, "insert", text, 0, NULL));
    for (int number = 0; number < 5; number++) {
        char digits[8];
        snprintf(digits, sizeof digits, "%d", number);
        const char *values[2] = {digits, long_name};
        PQclear(PQexecPrepared(client, "insert", 2, values, NULL, NULL, 0));
    }
    for (int number = 0; number < 7; number++) {
        snprintf(text, sizeof text, "SELECT * FROM %s WHERE id <= %d", name, number);
        PQclear(PQexec(client, text));
    }
    snprintf(text, sizeof text, "UPDATE %s SET nothing = 1", name);
    PQclear(PQexec(client, text));
    PQfinish(client);
}

static void redis(int port, const char *name) {
    redisContext *client = redisConnect("127.0.0.1", port);
    for (int number = 0; number < 5; number++) freeReplyObject(redisCommand(client, "SET %s %s", name, long_name));
    for (int number = 0; number < 7; number++) freeReplyObject(redisCommand(client, "GET %s", name));
    freeReplyObject(redisCommand(client, "LPUSH %s x", name));
    redisFree(client);
}

int main(int count, char **arguments) {
    if (count != 4) return 1;
    memset(long_name, 'x', 600);
    int port = atoi(arguments[2]);
    if (!strcmp(arguments[1], "mysql")) mysql(port, arguments[3]);
    if (!strcmp(arguments[1], "postgresql")) postgresql(port, arguments[3]);
    if (!strcmp(arguments[1], "redis")) redis(port, arguments[3]);
}
