// The service shop.Cart's client with @grpc/grpc-js: `node cart.js PORT`.
const grpc = require("@grpc/grpc-js");

const client = new grpc.Client(`127.0.0.1:${process.argv[2]}`, grpc.credentials.createInsecure());
const same = (bytes) => bytes;

function ask(method, size) {
  return new Promise((done) => {
    client.makeUnaryRequest(`/shop.Cart/${method}`, same, same, Buffer.alloc(size, "x"), () => done());
  });
}

function list() {
  return new Promise((done) => {
    const stream = client.makeServerStreamRequest("/shop.Cart/List", same, same, Buffer.from("x"));
    stream.on("data", () => {});
    stream.on("end", done);
  });
}

async function round() {
  for (let number = 0; number < 4; number++) await ask("Add", 20);
  await ask("Missing", 20);
  await list();
  await ask("NoSuchMethod", 20);
  await ask("Add", 5000);
}

(async () => {
  await round();
  await Promise.all([1, 2, 3, 4].map(() => ask("Add", 20)));
  await round();
  client.close();
})();
