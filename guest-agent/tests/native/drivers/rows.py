"""Many rows by one call of a driver: `rows.py psycopg|asyncpg PORT TABLE`."""

import asyncio
import sys

driver, port, table = sys.argv[1], int(sys.argv[2]), sys.argv[3]
CREATE = f"CREATE TABLE {table} (id int, name text)"
SELECT = f"SELECT count(*) FROM {table}"
ROWS = [(number, f"row {number}") for number in range(2000)]

if driver == "psycopg":
    import psycopg

    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable", autocommit=True) as connection:
        connection.execute(CREATE)
        connection.cursor().executemany(f"INSERT INTO {table} VALUES (%s, %s)", ROWS)
        for _ in range(10):
            connection.execute(SELECT)
else:
    import asyncpg

    async def run():
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres", ssl=False)
        await connection.execute(CREATE)
        await connection.executemany(f"INSERT INTO {table} VALUES ($1, $2)", ROWS)
        for _ in range(10):
            await connection.fetch(SELECT)
        await connection.close()

    asyncio.run(run())
