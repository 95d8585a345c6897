"""Recordings of SQL servers and their clients, by a relay."""

import asyncio
import os

from relay import Relay
from servers import mariadb, postgresql, postgresql_programs, quiet, version

LISTEN, TARGET = 15406, 15407
ACCESS = {"host": "127.0.0.1", "port": LISTEN, "user": "postgres", "password": "pw"}


def mysql(folder):
    with mariadb(TARGET) as data:
        quiet("mariadb", "--no-defaults", "-uroot", f"-S{data}/s", "-e",
              "CREATE DATABASE shop; CREATE USER t@'%' IDENTIFIED BY 'pw'; GRANT ALL ON *.* TO t@'%'; DROP USER ''@localhost")
        relay = Relay(LISTEN, TARGET)
        mysql_program(folder, relay, data)
        mysql_pymysql(folder, relay)
        mysql_connector(folder, relay)


def mysql_program(folder, relay, data):
    rows = data / "rows.csv"
    rows.write_text("".join(f"{number},name {number}\n" for number in range(100, 400)))
    quiet("mariadb", "--no-defaults", "--local-infile", "--force", "-h127.0.0.1", f"-P{LISTEN}", "-ut", "-ppw", "shop", text=True, input=f"""
        CREATE TABLE items (id int PRIMARY KEY AUTO_INCREMENT, name varchar(200));
        INSERT INTO items (name) VALUES ('one'), ('two');
        SELECT id, name FROM items WHERE id = 1;
        SELECT * FROM items WHERE id > 1000;
        LOAD DATA LOCAL INFILE '{rows}' INTO TABLE items FIELDS TERMINATED BY ',' (id, name);
        ALTER TABLE items ADD COLUMN price int, ALGORITHM=COPY;
        PREPARE p FROM 'SELECT name FROM items WHERE id = ?'; SET @a = 7; EXECUTE p USING @a;
        SELEC 1; SELECT * FROM missing; INSERT INTO items (id) VALUES (1);
        SHOW TABLES; DELETE FROM items WHERE id > 300; USE mysql;""")
    relay.write(folder, "mysql-mariadb-program.txt", [version("mariadbd", "--version"), "its own program"])


def mysql_pymysql(folder, relay):
    import pymysql  # pylint: disable=import-outside-toplevel
    flags = pymysql.constants.CLIENT.MULTI_STATEMENTS
    connection = pymysql.connect(host="127.0.0.1", port=LISTEN, user="t", password="pw", database="shop", client_flag=flags)
    cursor = connection.cursor()

    def execute(text, *arguments):
        try:
            cursor.execute(text, arguments)
            while cursor.nextset():
                pass
        except pymysql.MySQLError:
            connection.rollback()

    for number in range(5):
        execute("SELECT name FROM items WHERE id = %s", number)
    execute("INSERT INTO items (name) VALUES (%s)", "x" * 150)
    connection.commit()
    execute("SELECT * FROM items")
    execute("SELECT 1; UPDATE items SET price = 3; SELECT 2 FROM missing")
    execute("CREATE OR REPLACE PROCEDURE report() BEGIN SELECT 1; SELECT id FROM items; END")
    execute("CALL report()")
    execute("SELECT * FROM missing")
    connection.ping()
    connection.select_db("shop")
    connection.close()
    relay.write(folder, "mysql-mariadb-pymysql.txt", [version("mariadbd", "--version"), f"pymysql {pymysql.__version__}"])


def mysql_connector(folder, relay):
    import mysql.connector as driver  # pylint: disable=import-outside-toplevel
    connection = driver.connect(host="127.0.0.1", port=LISTEN, user="t", password="pw", database="shop", ssl_disabled=True,
                                use_pure=True)
    cursor = connection.cursor(prepared=True)
    for number in range(5):
        cursor.execute("SELECT id, name FROM items WHERE id = %s", (number,))
        cursor.fetchall()
    for number in range(5):
        cursor.execute("UPDATE items SET name = %s WHERE id = %s", ("n", number))
    connection.commit()
    try:
        cursor.execute("SELECT * FROM missing WHERE id = %s", (1,))
    except driver.Error:
        pass
    cursor.close()
    connection.cmd_reset_connection()
    connection.ping()
    connection.cmd_statistics()
    connection.close()
    relay.write(folder, "mysql-mariadb-connector-python.txt", [version("mariadbd", "--version"), f"mysql-connector-python {driver.__version__}"])


def postgresql_clients(folder):
    with postgresql(TARGET, "postgres", "scram-sha-256") as data:
        relay = Relay(LISTEN, TARGET)
        about = version(postgresql_programs() / "postgres", "--version")
        postgres_programs(folder, relay, data, about)
        postgres_psycopg(folder, relay, about)
        postgres_asyncpg(folder, relay, about)
        postgres_pg8000(folder, relay, about)


def postgres_programs(folder, relay, data, about):
    programs = postgresql_programs()
    environment = {**os.environ, "PGPASSWORD": "pw", "PGHOST": "127.0.0.1", "PGPORT": str(LISTEN), "PGUSER": "postgres"}
    rows = data / "rows"
    rows.write_text("".join(f"{number}\tname {number}\n" for number in range(100, 400)))
    quiet(programs / "psql", "-c", "CREATE TABLE items (id serial PRIMARY KEY, name text)",
          "-c", "INSERT INTO items (name) VALUES ('one'), ('two')", "-c", "SELECT id, name FROM items WHERE id = 1",
          "-c", f"\\copy items from {rows}", "-c", "\\copy items to /dev/null", "-c", "SELEC 1", "-c", "SELECT * FROM missing",
          "-c", "BEGIN; UPDATE items SET name = 'a;b' WHERE id = 1; SELECT 1 FROM items LIMIT 1; COMMIT",
          "-c", "SELECT 1; SELECT 1 / 0; SELECT 2", "-c", "", "-c", "\\dt", "-c", "VACUUM items", env=environment)
    quiet(programs / "pgbench", "-i", "-I", "dtGp", "-q", env=environment)
    for mode in ("simple", "extended", "prepared"):
        quiet(programs / "pgbench", "-n", "-M", mode, "-t", "5", env=environment)
    relay.write(folder, "postgresql-programs.txt", [about, "psql and pgbench"])


def postgres_psycopg(folder, relay, about):
    import psycopg  # pylint: disable=import-outside-toplevel
    import psycopg2  # pylint: disable=import-outside-toplevel
    with psycopg.connect(**ACCESS) as connection:
        cursor = connection.cursor()
        for number in range(8):
            cursor.execute("SELECT name FROM items WHERE id = %s", (number,))
        for text in ("SELECT * FROM missing WHERE id = %s", "INSERT INTO items (id) VALUES (%s)"):
            try:
                cursor.execute(text, (1,))
            except psycopg.Error:
                connection.rollback()
        with connection.pipeline():
            for number in range(8):
                cursor.execute("UPDATE items SET name = %s WHERE id = %s", ("x", number))
        connection.commit()
        try:
            with connection.pipeline():
                for text in ("SELECT 1 FROM items LIMIT 1", "SELECT * FROM missing", "DELETE FROM items", "DELETE FROM items"):
                    cursor.execute(text)
        except psycopg.Error:
            connection.rollback()
        with cursor.copy("COPY items (name) FROM STDIN") as copy:
            for number in range(50):
                copy.write_row((f"row {number}",))
        with cursor.copy("COPY items TO STDOUT") as copy:
            for _ in copy:
                pass
        cursor.executemany("INSERT INTO items (name) VALUES (%s)", [("many",)] * 5)
        with connection.cursor(name="walk") as walk:
            walk.itersize = 100
            walk.execute("SELECT id FROM items")
            walk.fetchall()
    connection = psycopg2.connect(**ACCESS)
    cursor = connection.cursor()
    cursor.execute("LISTEN channel; NOTIFY channel")
    connection.commit()
    cursor.execute("SELECT count(*) FROM items WHERE id > %s", (3,))
    connection.close()
    relay.write(folder, "postgresql-psycopg.txt", [about, f"psycopg {psycopg.__version__}, psycopg2 {psycopg2.__version__}"])


def postgres_asyncpg(folder, relay, about):
    import asyncpg  # pylint: disable=import-outside-toplevel

    async def queries():
        connection = await asyncpg.connect(**ACCESS, ssl=False)
        for number in range(5):
            await connection.fetch("SELECT name FROM items WHERE id = $1", number)
        await connection.executemany("INSERT INTO items (name) VALUES ($1)", [("many",)] * 5)
        async with connection.transaction():
            async for _ in connection.cursor("SELECT id FROM items", prefetch=100):
                pass
        try:
            await connection.fetch("SELECT * FROM missing")
        except asyncpg.PostgresError:
            pass
        await connection.copy_records_to_table("items", records=[(10_000 + number, "z") for number in range(20)])
        await connection.close()

    asyncio.run(queries())
    relay.write(folder, "postgresql-asyncpg.txt", [about, f"asyncpg {asyncpg.__version__}"])


def postgres_pg8000(folder, relay, about):
    import pg8000.native  # pylint: disable=import-outside-toplevel
    connection = pg8000.native.Connection(**ACCESS)
    for number in range(5):
        connection.run("SELECT name FROM items WHERE id = :id", id=number)
    statement = connection.prepare("UPDATE items SET name = 'y' WHERE id = :id")
    for number in range(5):
        statement.run(id=number)
    statement.close()
    try:
        connection.run("SELECT * FROM missing")
    except pg8000.native.Error:
        pass
    connection.close()
    relay.write(folder, "postgresql-pg8000.txt", [about, f"pg8000 {pg8000.__version__}"])


MAKERS = {"mysql": mysql, "postgresql": postgresql_clients}
