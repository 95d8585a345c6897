#!/bin/sh
# PostgreSQL with the customers 1 to 100. Its programs refuse to run as root.
set -e
programs=$(echo /usr/lib/postgresql/*/bin)
export PGDATA=/dev/shm/postgresql LC_ALL=C
"$programs/initdb" --auth=trust --username=customers --no-sync --wal-segsize=1 >/dev/null
echo "host all all 10.231.0.0/16 trust" >>"$PGDATA/pg_hba.conf"
"$programs/postgres" --single postgres >/dev/null <<SQL
CREATE TABLE customers AS SELECT number, 'customer ' || number AS name FROM generate_series(1, 100) AS number
SQL
exec "$programs/postgres" -h 0.0.0.0 -k /dev/shm
