import assert from "node:assert/strict";
import { test } from "node:test";
import type { Topology } from "../src/api";
import { fails, joined } from "../src/edges";
import { chosen, curve, EDGES_MAX, labelWidth, NODE, place, type Placed } from "../src/layout";

const node = (id: string, kind = "application"): Topology["nodes"][number] => ({ id, kind, tenant: "acme", name: id });
const edge = (from: string, to: string, rate: number, protocol = "http1"): Topology["edges"][number] => ({
  from,
  to,
  protocol,
  requests: rate * 60,
  errors: 0,
  rate,
  seconds: { p50: 0.1, p90: 0.1, p99: 0.1 },
});
const topology = (nodes: string[], edges: Topology["edges"]): Topology => ({ nodes: nodes.map((id) => node(id)), edges, connections: [], window_seconds: 60 });
const connections = (from: string, to: string, made: number, failed: number): Topology["connections"][number] => ({
  from,
  to,
  made,
  failed,
  broken: 0,
  seconds: { p50: null, p90: null, p99: null },
});

test("connections are at the busiest edge of their ends, and an edge of their own without requests; what fails comes first", () => {
  const graph: Topology = {
    ...topology(["a", "b", "down"], [edge("a", "b", 1), edge("a", "b", 2, "redis")]),
    connections: [connections("a", "b", 100, 1), connections("a", "down", 0, 3)],
  };
  const edges = joined(graph);
  assert.deepEqual(edges.map((edge) => [edge.to, edge.protocol, edge.connections?.failed ?? null, fails(edge)]), [
    ["down", "", 3, true],
    ["b", "redis", 1, false],
    ["b", "http1", null, false],
  ]);
});

test("a filter keeps the edges at what it admits, with both their ends", () => {
  const graph = topology(["a", "b", "c", "d"], [edge("a", "b", 1), edge("b", "c", 2), edge("c", "d", 3)]);
  const { nodes, edges } = chosen(graph, (node) => node.id === "b");
  assert.deepEqual(edges.map((edge) => edge.from + edge.to), ["bc", "ab"]);
  assert.deepEqual([...nodes.keys()].sort(), ["a", "b", "c"]);
});

test("edges of nodes that are not listed are left out", () => {
  assert.deepEqual(chosen(topology(["a"], [edge("a", "b", 1)]), () => true).edges, []);
});

test("callers are left of what they call, and two protocols between two are two edges", () => {
  const graph = topology(["a", "b"], [edge("a", "b", 1), edge("a", "b", 2, "redis"), edge("b", "b", 1)]);
  const { nodes, edges } = chosen(graph, () => true);
  const placed = place(nodes, edges, () => "61/s");
  const x = (id: string): number => placed.nodes.find((node) => node.id === id)?.x ?? NaN;
  assert.ok(x("a") < x("b"));
  assert.equal(placed.edges.length, 3);
  assert.ok(placed.edges.every((edge) => curve(edge.points).startsWith("M")));
});

test("of many edges the busiest are drawn", () => {
  const names = Array.from({ length: EDGES_MAX + 11 }, (_, at) => `n${at}`);
  const { nodes, edges } = chosen(topology(["hub", ...names], names.map((name, at) => edge("hub", name, at))), () => true);
  const placed = place(nodes, edges, () => "61/s");
  assert.equal(placed.left, 11);
  assert.ok(placed.edges.every((edge) => edge.rate >= 11));
});

interface Box {
  name: string;
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** Pairs of boxes, of labels or of a label and a node, that lie over each other. */
function collisions(placed: Placed): string[] {
  const box = (name: string, x: number, y: number, width: number, height: number): Box => {
    return { name, left: x - width / 2, top: y - height / 2, right: x + width / 2, bottom: y + height / 2 };
  };
  const labels = placed.edges.map(({ id, label: { x, y, width, height } }) => box(id, x, y, width, height));
  const nodes = placed.nodes.map(({ id, x, y }) => box(id, x, y, NODE.width, NODE.height));
  const over = (a: Box, b: Box): boolean => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return labels.flatMap((label, at) => [...labels.slice(at + 1), ...nodes].filter((other) => over(label, other)).map((other) => `${label.name} ${other.name}`));
}

/** Numbers from 0 to 1 that look random, the same in each run. */
function sequence(): () => number {
  let state = 7;
  return () => {
    state = (state * 16807) % 2147483647;
    return state / 2147483647;
  };
}

/** Graphs as dense as they are drawn: between any two, of tiers, and around one. */
const DENSE: Record<string, (random: () => number, at: number) => [number, number]> = {
  any: (random) => [Math.floor(random() * 12), Math.floor(random() * 12)],
  tiers: (random) => [Math.floor(random() * 20), 20 + Math.floor(random() * 8)],
  hub: (_, at) => [0, 1 + (at % 40)],
};

for (const [name, ends] of Object.entries(DENSE)) {
  test(`no label of ${EDGES_MAX} edges lies over another or over a node: ${name}`, () => {
    const random = sequence();
    const protocols = ["http1", "redis", "mysql", "kafka", "dns", "http2"];
    const edges = new Map<string, Topology["edges"][number]>();
    for (let at = 0; edges.size < EDGES_MAX && at < 10_000; at += 1) {
      const [from, to] = ends(random, at);
      const made = edge(`n${from}`, `n${to}`, 1 + at, protocols[Math.floor(random() * protocols.length)]);
      edges.set([made.from, made.to, made.protocol].join(), made);
    }
    const names = Array.from({ length: 41 }, (_, at) => `n${at}`);
    const graph = chosen(topology(names, [...edges.values()]), () => true);
    const placed = place(graph.nodes, graph.edges, ({ rate }) => `${"1".repeat(1 + (rate % 24))}/s`);
    assert.equal(placed.edges.length, EDGES_MAX);
    assert.deepEqual(collisions(placed), []);
    for (const { label } of placed.edges) assert.ok(label.x >= label.width / 2 && label.x <= placed.width - label.width / 2, "within the picture");
  });
}

test("other rates leave the picture as it is, longer labels make room", () => {
  const placed = (rates: [number, number], text: string): Placed => {
    const { nodes, edges } = chosen(topology(["a", "b", "c"], [edge("a", "b", rates[0]), edge("a", "c", rates[1])]), () => true);
    return place(nodes, edges, () => text);
  };
  const before = placed([1, 2], "61/s");
  const after = placed([2, 1], "59/s");
  const where = ({ nodes }: Placed): unknown => nodes.map(({ id, x, y }) => [id, x, y]);
  assert.deepEqual(where(after), where(before));
  assert.deepEqual(after.edges.map(({ to, label }) => [to, label.text]), [["b", "59/s"], ["c", "59/s"]], "the busiest first");
  assert.ok(placed([1, 2], "61/s · 4.8 % · 21 ms").width > before.width);
  assert.ok(labelWidth("次连接失败") > labelWidth("fails"), "Chinese letters are wider");
});
