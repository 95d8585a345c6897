// `server [PORT]` prints its port and serves; `client PORT` asks. Server: node:http; client: fetch.
const http = require("node:http");

if (process.argv[2] === "server") {
    let answered = 0;
    const server = http.createServer((request, response) => {
        if (request.url === "/answered") {
            return response.end(`${answered}\n`);
        }
        answered += 1;
        response.writeHead(request.url === "/node-ok" ? 200 : 404);
        response.end("hello\n");
    });
    server.listen(Number(process.argv[3] ?? 0), "127.0.0.1", () => console.log(server.address().port));
} else {
    (async () => {
        for (const path of [...Array(7).fill("/node-ok"), ...Array(3).fill("/node-missing")]) {
            const response = await fetch(`http://127.0.0.1:${process.argv[3]}${path}`);
            await response.text();
        }
        process.exit(0);
    })();
}
