// As goroutines.go, with redigo: it calls a Redis server.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// Values have as many digits in their lengths.
var begin = strings.Repeat("y", 1000)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	pool := &redis.Pool{
		MaxIdle: 200,
		Dial:    func() (redis.Conn, error) { return redis.Dial("tcp", "127.0.0.1:"+os.Args[1]) },
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		// Others are served meanwhile.
		time.Sleep(100 * time.Millisecond)
		connection := pool.Get()
		defer connection.Close()
		_, err := connection.Do("SET", "item", begin+request.Header.Get("Pad"))
		check(err)
	})))
}
