// `server` prints its port and serves; `client PORT` asks. Server and client: net/http.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	if os.Args[1] == "server" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		http.HandleFunc("/go-ok", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello\n") })
		panic(http.Serve(listener, nil))
	}
	for n := 0; n < 10; n++ {
		path := "/go-ok"
		if n >= 7 {
			path = "/go-missing"
		}
		response, err := http.Get("http://127.0.0.1:" + os.Args[2] + path)
		if err != nil {
			panic(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}
