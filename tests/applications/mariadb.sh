#!/bin/sh
# MariaDB with the orders 1 to 100. Its system tables are not needed: everybody may read.
set -e
mkdir /dev/shm/mariadb
set -- --no-defaults --user=root --datadir=/dev/shm/mariadb --skip-grant-tables --innodb-log-file-size=4M \
    --innodb-buffer-pool-size=16M --loose-innodb-undo-tablespaces=0 --skip-name-resolve
mariadbd "$@" --bootstrap <<SQL
CREATE DATABASE shop;
CREATE TABLE shop.orders (number INT PRIMARY KEY, total INT);
INSERT INTO shop.orders WITH RECURSIVE numbers AS (SELECT 1 AS number UNION SELECT number + 1 FROM numbers WHERE number < 100) SELECT number, number * 10 FROM numbers;
SQL
exec mariadbd "$@" --socket=/run/mariadb.sock --bind-address=0.0.0.0
