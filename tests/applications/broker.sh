#!/bin/sh
# A broker of Kafka that is its own controller, in little memory. Its storage needs no formatting beyond the first file.
set -e
mkdir /dev/shm/kafka
cat >/dev/shm/kafka/meta.properties <<META
version=1
cluster.id=MkU3OEVBNTcwNTJENDM2Qg
node.id=1
META
# An emulated processor is slow to answer: the times are long. Cleaning takes 128 MiB of Java's heap.
cat >/dev/shm/server.properties <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
listeners=PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093
advertised.listeners=PLAINTEXT://10.231.0.31:9092
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=/dev/shm/kafka
log.cleaner.enable=false
num.network.threads=1
num.io.threads=2
num.partitions=1
auto.create.topics.enable=true
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
broker.session.timeout.ms=60000
controller.quorum.election.timeout.ms=10000
controller.quorum.fetch.timeout.ms=20000
PROPERTIES
exec /usr/lib/jvm/default-java/bin/java -Xmx192m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/srv/kafka/*' \
    kafka.Kafka /dev/shm/server.properties
