// Asks a server by the driver that Node.js programs use: `db.js PROTOCOL PORT NAME`.
const [protocol, port, name] = process.argv.slice(2);
const long = "x".repeat(600);

async function statements(ask, mark) {
    await ask(`CREATE TABLE ${name} (id int, name text)`);
    for (let number = 0; number < 5; number++) await ask(`INSERT INTO ${name} VALUES (${mark(1)}, ${mark(2)})`, [number, long]);
    for (let number = 0; number < 7; number++) await ask(`SELECT * FROM ${name} WHERE id <= ${mark(1)}`, [number]);
    await ask(`UPDATE ${name} SET nothing = 1`).catch(() => {});
}

async function main() {
    if (protocol == "mysql") {
        const connection = await require("mysql2/promise").createConnection({ host: "127.0.0.1", port, user: "root", database: "d" });
        const ask = (text, values) => values ? connection.execute(text, values) : connection.query(text);
        await statements(ask, () => "?");
        await connection.end();
    } else if (protocol == "postgresql") {
        const { Client } = require("pg");
        const client = new Client({ host: "127.0.0.1", port, user: "postgres", database: "postgres" });
        await client.connect();
        await statements((...statement) => client.query(...statement), number => `$${number}`);
        await client.end();
    } else if (protocol == "redis") {
        const client = require("redis").createClient({ socket: { port } });
        await client.connect();
        for (let number = 0; number < 5; number++) await client.set(name, long);
        for (let number = 0; number < 7; number++) await client.get(name);
        await client.lPush(name, "x").catch(() => {});
        await client.quit();
    } else if (protocol == "kafka") {
        const { Kafka, logLevel, Partitioners } = require("kafkajs");
        const client = new Kafka({ brokers: [`127.0.0.1:${port}`], logLevel: logLevel.NOTHING });
        const producer = client.producer({ createPartitioner: Partitioners.DefaultPartitioner });
        await producer.connect();
        for (let number = 0; number < 5; number++) await producer.send({ topic: name, acks: 1, messages: [{ value: long }] });
        await producer.disconnect();
    }
}

main();
