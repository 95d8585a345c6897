// As threads.py: net/http's server, and a client that writes its requests in the goroutine that makes the call, as drivers of databases do.
// Meanwhile goroutines come and go that make calls for no request, which are longer than those of requests.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

var idle = make(chan net.Conn, 200)

func connection() net.Conn {
	select {
	case connection := <-idle:
		return connection
	default:
		connection, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
		check(err)
		return connection
	}
}

func call(pad string) {
	connection := connection()
	_, err := fmt.Fprintf(connection, "GET /item HTTP/1.1\r\nHost: back\r\nPad: %s\r\n\r\n", pad)
	check(err)
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	check(err)
	io.Copy(io.Discard, response.Body)
	idle <- connection
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		long := strings.Repeat("x", 2000)
		for range time.Tick(20 * time.Millisecond) {
			go call(long)
		}
	}()
	panic(http.Serve(listener, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		call(request.Header.Get("Pad"))
	})))
}
