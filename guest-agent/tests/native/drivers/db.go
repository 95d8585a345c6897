// Asks a server by the driver that Go programs use: `db PROTOCOL PORT NAME`.
package main

import (
	"database/sql"
	"os"
	"strings"

	_ "github.com/go-sql-driver/mysql"
	"github.com/gomodule/redigo/redis"
	_ "github.com/lib/pq"
)

var long = strings.Repeat("x", 600)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func statements(driver, source, name, first, second string) {
	database, err := sql.Open(driver, source)
	check(err)
	database.SetMaxOpenConns(1)
	_, err = database.Exec("CREATE TABLE " + name + " (id int, name text)")
	check(err)
	for number := 0; number < 5; number++ {
		_, err = database.Exec("INSERT INTO "+name+" VALUES ("+first+", "+second+")", number, long)
		check(err)
	}
	for number := 0; number < 7; number++ {
		rows, err := database.Query("SELECT * FROM "+name+" WHERE id <= "+first, number)
		check(err)
		for rows.Next() {
		}
	}
	database.Exec("UPDATE " + name + " SET nothing = 1")
	database.Close()
}

func main() {
	protocol, port, name := os.Args[1], os.Args[2], os.Args[3]
	switch protocol {
	case "mysql":
		statements("mysql", "root@tcp(127.0.0.1:"+port+")/d", name, "?", "?")
	case "postgresql":
		statements("postgres", "host=127.0.0.1 port="+port+" user=postgres dbname=postgres sslmode=disable", name, "$1", "$2")
	case "redis":
		client, err := redis.Dial("tcp", "127.0.0.1:"+port)
		check(err)
		for number := 0; number < 5; number++ {
			_, err = client.Do("SET", name, long)
			check(err)
		}
		for number := 0; number < 7; number++ {
			client.Do("GET", name)
		}
		client.Do("LPUSH", name, "x")
		client.Close()
	}
}
