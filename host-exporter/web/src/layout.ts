// Places for the nodes of a topology, from left to right along the calls, by dagre.

import dagre from "@dagrejs/dagre";
import type { Topology } from "./api";
import { joined, type Edge } from "./edges";

export type Node = Topology["nodes"][number];

export const NODE = { width: 168, height: 46 };

/** Edges that are drawn at most: those that fail, and the busiest. More is no picture any more, and takes long to lay out. */
export const EDGES_MAX = 150;

interface Point {
  x: number;
  y: number;
}

export interface Placed {
  nodes: (Node & { x: number; y: number })[];
  edges: (Edge & { id: string; points: { x: number; y: number }[] })[];
  width: number;
  height: number;
  /** Edges that are not drawn. */
  left: number;
}

/** The edges that a filter admits, by either end, in their order; and the nodes at them. */
export function chosen(topology: Topology, admits: (node: Node) => boolean): { nodes: Map<string, Node>; edges: Edge[] } {
  const known = new Map(topology.nodes.map((node) => [node.id, node]));
  const admitted = (id: string): boolean => {
    const node = known.get(id);
    return node !== undefined && admits(node);
  };
  const whole = joined(topology).filter((edge) => known.has(edge.from) && known.has(edge.to));
  const edges = whole.filter((edge) => admitted(edge.from) || admitted(edge.to));
  const nodes = new Map<string, Node>();
  for (const id of edges.flatMap((edge) => [edge.from, edge.to])) {
    const node = known.get(id);
    if (node) nodes.set(id, node);
  }
  return { nodes, edges };
}

export function place(nodes: ReadonlyMap<string, Node>, edges: readonly Edge[]): Placed {
  const drawn = edges.slice(0, EDGES_MAX);
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 22, ranksep: 150, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const id of drawn.flatMap((edge) => [edge.from, edge.to])) graph.setNode(id, { ...NODE });
  drawn.forEach((edge, at) => graph.setEdge(edge.from, edge.to, {}, String(at)));
  dagre.layout(graph);
  const size = graph.graph() as { width?: number; height?: number };
  const at = (id: string): Point => graph.node(id) as Point;
  return {
    nodes: graph.nodes().flatMap((id) => {
      const node = nodes.get(id);
      return node ? [{ ...node, x: at(id).x, y: at(id).y }] : [];
    }),
    edges: drawn.map((edge, number) => {
      const label = graph.edge({ v: edge.from, w: edge.to, name: String(number) }) as { points: { x: number; y: number }[] };
      return { ...edge, id: `${number}`, points: label.points };
    }),
    width: size.width ?? 0,
    height: size.height ?? 0,
    left: edges.length - drawn.length,
  };
}

/** A smooth path through points. */
export function curve(points: readonly { x: number; y: number }[]): string {
  const [first, ...rest] = points;
  const last = rest[rest.length - 1];
  if (!first || !last) return "";
  let path = `M${first.x} ${first.y}`;
  for (let at = 0; at < rest.length - 1; at += 1) {
    const here = rest[at];
    const next = rest[at + 1];
    if (here && next) path += `Q${here.x} ${here.y} ${(here.x + next.x) / 2} ${(here.y + next.y) / 2}`;
  }
  return `${path}L${last.x} ${last.y}`;
}
