// Places for the nodes of a topology, from left to right along the calls, by dagre.

import dagre from "@dagrejs/dagre";
import type { Topology } from "./api";
import { joined, type Edge } from "./edges";

export type Node = Topology["nodes"][number];

export const NODE = { width: 168, height: 46 };

/** Edges that are drawn at most: those that fail, and the busiest. More is no picture any more, and takes long to lay out. */
export const EDGES_MAX = 150;

/** Size of the letters at edges and the space around them, pixels. */
const LABEL = { height: 18, letter: 7.4, wideLetter: 12, padding: 8, step: 24 };

interface Point {
  x: number;
  y: number;
}

export interface PlacedEdge extends Edge {
  id: string;
  points: Point[];
  /** What is written at it, and the middle of the room that it has for that. */
  label: Point & { text: string; width: number; height: number };
}

export interface Placed {
  nodes: (Node & Point)[];
  edges: PlacedEdge[];
  width: number;
  height: number;
  /** Edges that are not drawn. */
  left: number;
}

/** Where everything is, and what it depends on: as long as that is the same, nothing is moved. */
interface Places {
  of: string;
  nodes: Map<string, Point>;
  edges: Map<string, Point & { points: Point[] }>;
  width: number;
  height: number;
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

/** Width that a text at an edge takes at most; few different ones, since numbers change more often than the picture should. */
export function labelWidth(text: string): number {
  const letters = Array.from(text).reduce((sum, letter) => sum + (letter > "\u2e7f" ? LABEL.wideLetter : LABEL.letter), LABEL.padding);
  return Math.ceil(letters / LABEL.step) * LABEL.step;
}

function idOf(edge: Edge): string {
  return [edge.from, edge.to, edge.protocol, edge.counted_by ?? ""].join("\u0000");
}

let last: Places | null = null;

/** Places for nodes and edges, the labels of edges among them, so that no label lies over another or over a node. */
function placesOf(edges: readonly { id: string; from: string; to: string; width: number }[]): Places {
  const of = JSON.stringify(edges);
  if (last?.of === of) return last;
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  // An edge with a label is two ranks long.
  graph.setGraph({ rankdir: "LR", nodesep: 22, edgesep: 8, ranksep: 36, marginx: 8, marginy: 8 });
  for (const id of edges.flatMap((edge) => [edge.from, edge.to])) graph.setNode(id, { ...NODE });
  for (const { id, from, to, width } of edges) graph.setEdge(from, to, { width, height: LABEL.height, labelpos: "c" }, id);
  dagre.layout(graph);
  const size = graph.graph() as { width?: number; height?: number };
  last = {
    of,
    nodes: new Map(graph.nodes().map((id) => [id, graph.node(id) as Point])),
    edges: new Map(edges.map(({ id, from, to }) => [id, graph.edge({ v: from, w: to, name: id }) as Point & { points: Point[] }])),
    width: size.width ?? 0,
    height: size.height ?? 0,
  };
  return last;
}

export function place(nodes: ReadonlyMap<string, Node>, edges: readonly Edge[], write: (edge: Edge) => string): Placed {
  const drawn = edges.slice(0, EDGES_MAX).map((edge) => {
    const text = write(edge);
    return { edge, id: idOf(edge), text, width: labelWidth(text) };
  });
  // By name, so that the picture is the same whichever is busier.
  const byName = [...drawn].sort((a, b) => (a.id < b.id ? -1 : 1));
  const places = placesOf(byName.map(({ id, edge: { from, to }, width }) => ({ id, from, to, width })));
  return {
    nodes: [...places.nodes].flatMap(([id, at]) => {
      const node = nodes.get(id);
      return node ? [{ ...node, x: at.x, y: at.y }] : [];
    }),
    edges: drawn.map(({ edge, id, text, width }) => {
      const { points, x, y } = places.edges.get(id) ?? { points: [], x: 0, y: 0 };
      return { ...edge, id, points, label: { text, x, y, width, height: LABEL.height } };
    }),
    width: places.width,
    height: places.height,
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
