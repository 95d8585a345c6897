// `server PORT` serves one unary method of gRPC; `client PORT` reads numbers from its standard input, makes as many
// calls, and says `done` for each line.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"google.golang.org/grpc"
)

// Messages are bytes: no compiler of protocol buffers is needed.
type codec struct{}

func (codec) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }

func (codec) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (codec) Name() string   { return "proto" }
func (codec) String() string { return "proto" }

type echo interface{}

var service = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*echo)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(_ interface{}, _ context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
			message := new([]byte)
			if err := decode(message); err != nil {
				return nil, err
			}
			return message, nil
		},
	}},
}

func main() {
	address := "127.0.0.1:" + os.Args[2]
	if os.Args[1] == "server" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			panic(err)
		}
		server := grpc.NewServer(grpc.CustomCodec(codec{}))
		server.RegisterService(&service, struct{}{})
		panic(server.Serve(listener))
	}
	connection, err := grpc.Dial(address, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{})))
	if err != nil {
		panic(err)
	}
	message := make([]byte, 64)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		calls, err := strconv.Atoi(lines.Text())
		if err != nil {
			panic(err)
		}
		for n := 0; n < calls; n++ {
			answer := new([]byte)
			if err := connection.Invoke(context.Background(), "/bench.Echo/Say", &message, answer); err != nil {
				panic(err)
			}
		}
		fmt.Println("done")
	}
}
