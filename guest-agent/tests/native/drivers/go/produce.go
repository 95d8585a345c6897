// Sends five records by kafka-go: `produce kafka PORT NAME`.
package main

import (
	"context"
	"os"
	"strings"

	"github.com/segmentio/kafka-go"
)

func main() {
	port, name := os.Args[2], os.Args[3]
	ctx := context.Background()
	// A writer that made the topic would fail until it is there.
	connection, err := kafka.Dial("tcp", "127.0.0.1:"+port)
	check(err)
	check(connection.CreateTopics(kafka.TopicConfig{Topic: name, NumPartitions: 1, ReplicationFactor: 1}))
	check(connection.Close())
	writer := kafka.Writer{
		Addr:         kafka.TCP("127.0.0.1:" + port),
		Topic:        name,
		BatchSize:    1,
		RequiredAcks: kafka.RequireOne,
	}
	for number := 0; number < 5; number++ {
		check(writer.WriteMessages(ctx, kafka.Message{Value: []byte(strings.Repeat("x", 600))}))
	}
	check(writer.Close())
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
