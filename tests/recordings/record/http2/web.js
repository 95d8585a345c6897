// Server and client of HTTP/2 with node's own module: `node web.js serve PORT`, or `node web.js call PORT`.
const http2 = require("http2");

const [, , way, port] = process.argv;
const STATUS = { "/": 200, "/items": 200, "/large": 200, "/missing": 404, "/down": 503 };

function serve() {
  const server = http2.createServer();
  server.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    stream.on("end", () => {
      stream.respond({ ":status": STATUS[headers[":path"]] ?? 404, "content-type": "text/plain", "x-shop": "cart" });
      stream.end("x".repeat(headers[":path"] === "/large" ? 5000 : 20));
    });
    stream.resume();
  });
  server.listen(Number(port), "127.0.0.1");
}

function ask(session, path, body) {
  return new Promise((done) => {
    const method = body ? "POST" : "GET";
    const stream = session.request({ ":path": path, ":method": method, "user-agent": "recorder" }, { endStream: !body });
    stream.on("end", done);
    stream.resume();
    if (body) stream.end(body);
  });
}

async function round(session) {
  for (let number = 0; number < 4; number++) await ask(session, "/");
  await ask(session, "/items", "x".repeat(20));
  await ask(session, "/missing");
  await ask(session, "/down");
  await ask(session, "/large");
}

async function call() {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  await round(session);
  await Promise.all([1, 2, 3, 4].map(() => ask(session, "/")));
  await round(session);
  session.close();
}

({ serve, call })[way]();
