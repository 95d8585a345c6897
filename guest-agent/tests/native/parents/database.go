// As goroutines.go, with database/sql and a driver: it calls a MySQL server.
package main

import (
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"os"

	_ "github.com/go-sql-driver/mysql"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	database, err := sql.Open("mysql", "root@tcp(127.0.0.1:"+os.Args[1]+")/")
	check(err)
	database.SetMaxIdleConns(200)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		_, err := database.Exec("DO SLEEP(0.1), '" + request.Header.Get("Pad") + "'")
		check(err)
	})))
}
