import assert from "node:assert/strict";
import { test } from "node:test";
import { format, parse, START, to, type View } from "../src/view";

const SHOP: View = { ...START, page: "application", tenant: "acme", service: "shop" };

test("a view that is formatted and parsed is the same", () => {
  const views: View[] = [
    START,
    SHOP,
    { ...SHOP, tenant: "a/b?c#d", service: "<img src=x>&range=1", range: 3600, filter: "x y&z", sort: "-rate", part: "called" },
    { ...START, page: "calls", failed: true, slower: 250 },
    { ...START, page: "traces", tenant: "acme", service: "shop", route: "/items/{}", failed: true },
    { ...START, page: "traces", tenant: "acme", service: "shop", cell: { side: "server", from: 1_700_000_000_000, until: 1_700_000_015_000, least: 1, most: 90_000_000 } },
    { ...START, page: "trace", tenant: "acme", service: "shop", failed: true, id: "0af7651916cd43dd8448eb211c80319c" },
    { ...START, page: "trace", id: "0af7651916cd43dd8448eb211c80319c" },
    { ...SHOP, tenant: "漢字", service: "%", range: 86_400 },
    { ...START, range: 7_275, until: 1_700_000_010 },
    { ...START, own: true },
  ];
  for (const view of views) assert.deepEqual(parse(format(view)), view);
});

test("an address that cannot be used gives the start", () => {
  for (const fragment of ["", "#", "#/", "#/nothing", "#/application", "#/application/acme", "#/application/%ff/x", "#/trace", "#content", "#/?range=7&slower=x"]) {
    assert.deepEqual(parse(fragment), START, fragment);
  }
});

test("a cell of a heat map that cannot be used limits nothing", () => {
  for (const cell of ["", "server", "server-1-2-3", "server-1-2-3-4-5", "both-1-2-3-4", "client-1-2-3-x", "client-1-2-3-1e9", "client-1-2-3-99999999999999999999"]) {
    assert.equal(parse(`#/traces/acme/shop?cell=${cell}`).cell, null, cell);
  }
});

test("a filter from an address is bounded", () => {
  assert.equal(parse(`#/applications?filter=${"x".repeat(5000)}`).filter.length, 200);
});

test("another page keeps the time and nothing else", () => {
  const time = { range: 3600, until: 1_700_000_010, own: true };
  assert.deepEqual(to({ ...SHOP, ...time, filter: "x" }, "operator"), { ...START, page: "operator", ...time });
});
