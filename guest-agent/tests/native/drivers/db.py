"""Asks a server by the driver that Python programs use: `db.py PROTOCOL PORT NAME`."""

import sys

protocol, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def statements(connection, error):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (id int, name text)")
        for number in range(5):
            cursor.execute(f"INSERT INTO {name} VALUES (%s, %s)", (number, "x" * 600))
        for number in range(7):
            cursor.execute(f"SELECT * FROM {name} WHERE id <= %s", (number,))
            cursor.fetchall()
        try:
            cursor.execute(f"UPDATE {name} SET nothing = 1")
        except error:
            pass


if protocol == "mysql":
    import pymysql

    statements(pymysql.connect(host="127.0.0.1", port=port, user="root", database="d", autocommit=True), pymysql.Error)
elif protocol == "mysqlclient":
    import MySQLdb

    connection = MySQLdb.connect(host="127.0.0.1", port=port, user="root", database="d")
    connection.autocommit(True)
    statements(connection, MySQLdb.Error)
elif protocol == "postgresql":
    import psycopg2

    connection = psycopg2.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres")
    connection.autocommit = True
    statements(connection, psycopg2.Error)
elif protocol == "redis":
    import redis

    client = redis.Redis(port=port)
    for number in range(5):
        client.set(name, "x" * 600)
    for number in range(7):
        client.get(name)
    try:
        client.lpush(name, "x")
    except redis.ResponseError:
        pass
elif protocol == "kafka":
    import kafka

    producer = kafka.KafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", acks=1)
    for number in range(5):
        producer.send(name, b"x" * 600).get(30)
