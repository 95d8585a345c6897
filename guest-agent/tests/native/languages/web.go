// `server [PORT]` prints its port and serves; `client PORT` asks. Server and client: net/http.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
)

func main() {
	if os.Args[1] == "server" {
		port := "0"
		if len(os.Args) > 2 {
			port = os.Args[2]
		}
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			panic(err)
		}
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		var answered atomic.Uint64
		http.HandleFunc("/go-ok", func(w http.ResponseWriter, _ *http.Request) {
			answered.Add(1)
			io.WriteString(w, "hello\n")
		})
		http.HandleFunc("/answered", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, answered.Load())
		})
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
