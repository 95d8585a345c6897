// As threads.py: node:http's server and client.
const http = require("node:http");

const agent = new http.Agent({ keepAlive: true });
const server = http.createServer((request, response) => {
    const options = { port: Number(process.argv[2]), path: "/item", agent, headers: { Pad: request.headers.pad } };
    http.get(options, (answer) => {
        answer.resume();
        answer.on("end", () => response.end());
    });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
