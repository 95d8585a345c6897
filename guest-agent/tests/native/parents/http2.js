// As threads.py: node:http2, and node:http as the client. The length is that of the request's body.
const http = require("http");
const http2 = require("http2");

const agent = new http.Agent({ keepAlive: true, maxSockets: 200 });
const server = http2.createServer((request, response) => {
  let length = 0;
  request.on("data", (part) => (length += part.length));
  request.on("end", () => {
    const options = { port: Number(process.argv[2]), path: "/item", agent, headers: { Pad: "x".repeat(length) } };
    http.get(options, (reply) => reply.resume().on("end", () => response.end()));
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
