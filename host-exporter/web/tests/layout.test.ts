import assert from "node:assert/strict";
import { test } from "node:test";
import type { Topology } from "../src/api";
import { fails, joined } from "../src/edges";
import { chosen, curve, EDGES_MAX, place } from "../src/layout";

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
  const placed = place(nodes, edges);
  const x = (id: string): number => placed.nodes.find((node) => node.id === id)?.x ?? NaN;
  assert.ok(x("a") < x("b"));
  assert.equal(placed.edges.length, 3);
  assert.ok(placed.edges.every((edge) => curve(edge.points).startsWith("M")));
});

test("of many edges the busiest are drawn", () => {
  const names = Array.from({ length: EDGES_MAX + 11 }, (_, at) => `n${at}`);
  const { nodes, edges } = chosen(topology(["hub", ...names], names.map((name, at) => edge("hub", name, at))), () => true);
  const placed = place(nodes, edges);
  assert.equal(placed.left, 11);
  assert.ok(placed.edges.every((edge) => edge.rate >= 11));
});
