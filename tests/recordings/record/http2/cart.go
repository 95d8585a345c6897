// The service shop.Cart of the recordings, and its client, with grpc-go: `cart serve PORT`, or `cart call PORT`.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// bytesCodec passes messages on as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                       { return "bytes" }
func (bytesCodec) Marshal(value any) ([]byte, error)  { return *value.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, to any) error { *to.(*[]byte) = append([]byte(nil), data...); return nil }

func handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	switch method {
	case "/shop.Cart/Add":
		return stream.SendMsg(&message)
	case "/shop.Cart/List":
		for _, item := range []string{"a", "b", "c"} {
			data := []byte(item)
			if err := stream.SendMsg(&data); err != nil {
				return err
			}
		}
		return nil
	case "/shop.Cart/Missing":
		return status.Error(codes.NotFound, "no such cart")
	}
	return status.Error(codes.Unimplemented, "no such method")
}

func serve(port string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(handle))
	return server.Serve(listener)
}

func call(port string) error {
	channel, err := grpc.NewClient("127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		return err
	}
	defer channel.Close()
	ask := func(method string, size int) {
		request, response := []byte(strings.Repeat("x", size)), []byte{}
		_ = channel.Invoke(context.Background(), "/shop.Cart/"+method, &request, &response)
	}
	list := func() {
		stream, err := channel.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/shop.Cart/List")
		if err != nil {
			return
		}
		request, response := []byte("x"), []byte{}
		_ = stream.SendMsg(&request)
		_ = stream.CloseSend()
		for stream.RecvMsg(&response) != io.EOF {
		}
	}
	round := func() {
		for range 4 {
			ask("Add", 20)
		}
		ask("Missing", 20)
		list()
		ask("NoSuchMethod", 20)
		ask("Add", 5_000)
	}
	round()
	var all sync.WaitGroup
	for range 4 {
		all.Add(1)
		go func() { defer all.Done(); ask("Add", 20) }()
	}
	all.Wait()
	round()
	return nil
}

func main() {
	way := map[string]func(string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := way(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
