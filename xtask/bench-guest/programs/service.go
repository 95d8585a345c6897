// `PORT` serves: net/http, with about 100,000 instructions of work for each request.
package main

import (
	"io"
	"net/http"
	"os"
)

var sink uint64

func work() {
	sum := sink
	for n := uint64(0); n < 25000; n++ {
		sum = sum*31 + n
	}
	sink = sum
}

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		work()
		io.WriteString(w, "hello\n")
	})
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
