// Edges of a topology: requests, and the connections that they were sent over or that could not be made.

import type { Topology } from "./api";
import { ratio } from "./format";

export type Connections = Topology["connections"][number];
export type Edge = Topology["edges"][number] & { connections: Connections | null };

/** From this share of failures on an edge is failing. */
const FAILING = 0.05;

/** Whether requests or attempts to connect fail. */
export function fails({ requests, errors, connections }: Edge): boolean {
  const attempts = connections === null ? 0 : connections.made + connections.failed;
  return (ratio(errors, requests) ?? 0) >= FAILING || (ratio(connections?.failed ?? 0, attempts) ?? 0) >= FAILING;
}

function pair(ends: { from: string; to: string }): string {
  return `${ends.from}\u0000${ends.to}`;
}

/**
 * The edges with the connections of their ends, which the busiest edge between them has; an edge of its own for connections
 * without requests. What fails comes first, then the busiest.
 */
export function joined(topology: Topology): Edge[] {
  const left = new Map(topology.connections.map((connections) => [pair(connections), connections]));
  const byRate = [...topology.edges].sort((a, b) => b.rate - a.rate);
  const edges = byRate.map((edge): Edge => {
    const connections = left.get(pair(edge)) ?? null;
    left.delete(pair(edge));
    return { ...edge, connections };
  });
  for (const connections of left.values()) {
    const { from, to } = connections;
    edges.push({ from, to, protocol: "", requests: 0, errors: 0, rate: 0, seconds: { p50: null, p90: null, p99: null }, connections });
  }
  return edges.sort((a, b) => Number(fails(b)) - Number(fails(a)) || b.rate - a.rate);
}
