// As goroutines.go, with database/sql and the driver of that name: it calls a MySQL server or a PostgreSQL server.
package main

import (
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"os"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/lib/pq"
)

// By driver: where the database is, and a statement that takes a while.
var sources = map[string]string{
	"mysql":    "root@tcp(127.0.0.1:%s)/",
	"postgres": "host=127.0.0.1 port=%s user=postgres sslmode=disable",
}
var statements = map[string]string{
	"mysql":    "DO SLEEP(0.1), '%s'",
	"postgres": "SELECT pg_sleep(0.1), '%s'",
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	driver := os.Args[2]
	database, err := sql.Open(driver, fmt.Sprintf(sources[driver], os.Args[1]))
	check(err)
	database.SetMaxIdleConns(200)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		_, err := database.Exec(fmt.Sprintf(statements[driver], request.Header.Get("Pad")))
		check(err)
	})))
}
