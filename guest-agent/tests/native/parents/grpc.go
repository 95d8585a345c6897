// As threads.py: grpc-go, and net/http's client. The length is that of the request's message.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"google.golang.org/grpc"
)

// raw has messages as they are.
type raw struct{}

func (raw) Marshal(message interface{}) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(bytes []byte, message interface{}) error {
	*message.(*[]byte) = append([]byte(nil), bytes...)
	return nil
}

func (raw) Name() string { return "raw" }

func (raw) String() string { return "raw" }

func main() {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
	work := func(_ interface{}, stream grpc.ServerStream) error {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		call, _ := http.NewRequest("GET", "http://127.0.0.1:"+os.Args[1]+"/item", nil)
		call.Header.Set("Pad", strings.Repeat("x", len(message)))
		response, err := client.Do(call)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		return stream.SendMsg(&message)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := grpc.NewServer(grpc.CustomCodec(raw{}), grpc.UnknownServiceHandler(work))
	panic(server.Serve(listener))
}
