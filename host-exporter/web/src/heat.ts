// Cells of a heat map: how many requests took how long, by time.

import type { Point, Side } from "./api";
import type { CellOfCalls } from "./view";

export interface Cell {
  /** Its place among the durations; neighbours differ by one. */
  row: number;
  /** End of the time that it covers, milliseconds. */
  end: number;
  /** Bounds of its durations, seconds. */
  low: number;
  high: number;
  requests: number;
}

/** Buckets of the exporter's histograms in one power of two. */
const BUCKETS_PER_POWER = 8;

/** Cells in one power of two: fewer than buckets, so that each can be seen. */
const CELLS_PER_POWER = 2;

/** Cells in one power of two of an answer whose buckets are that wide, as those of a Prometheus server are. */
function perPower(points: readonly Point[]): number {
  const bounds = points.flatMap(({ duration_buckets: buckets }) => (buckets ?? []).map(([bound]) => bound));
  return new Set(bounds).size > 1 && bounds.every((bound) => Number.isInteger(Math.log2(bound))) ? 1 : CELLS_PER_POWER;
}

/** Cells of all points that have buckets. */
export function cells(points: readonly Point[]): Cell[] {
  const per = perPower(points);
  return points.flatMap((point) => {
    const rows = new Map<number, number>();
    for (const [bound, requests] of point.duration_buckets ?? []) {
      if (!(bound > 0) || !Number.isFinite(bound)) continue;
      // Of the bucket's middle, so that a bound that is a cell's falls into the cell below it.
      const row = Math.floor(per * (Math.log2(bound) - 0.5 / BUCKETS_PER_POWER));
      rows.set(row, (rows.get(row) ?? 0) + requests);
    }
    return [...rows.entries()].map(([row, requests]) => ({
      row,
      end: point.end_unix_ms,
      low: 2 ** (row / per),
      high: 2 ** ((row + 1) / per),
      requests,
    }));
  });
}

/** How strong a cell is shown, 0 to 1: by the logarithm, since most requests are in few cells. */
export function strength(requests: number, most: number): number {
  if (requests <= 0 || most <= 0) return 0;
  return most === 1 ? 1 : 0.12 + 0.88 * (Math.log(requests) / Math.log(most));
}

/** The calls that a cell counts. The exporter counts a call when it receives it. */
export function callsOf({ end, low, high }: Cell, side: Side, stepSeconds: number): CellOfCalls {
  // A bucket has its upper bound, and not its lower one.
  return { side, from: end - stepSeconds * 1000, until: end, least: Math.floor(low * 1e9) + 1, most: Math.floor(high * 1e9) };
}

export interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** The box at a point, or the nearest one within reach; its index. */
export function hit(boxes: readonly Box[], x: number, y: number, reach: number): number | null {
  let nearest: number | null = null;
  let least = reach;
  boxes.forEach((box, at) => {
    const beside = Math.max(box.left - x, 0, x - box.left - box.width);
    const above = Math.max(box.top - y, 0, y - box.top - box.height);
    const distance = Math.hypot(beside, above);
    if (distance < least || (distance === 0 && nearest === null)) {
      nearest = at;
      least = distance;
    }
  });
  return nearest;
}

/** Keys that move from cell to cell. */
export type Move = "ArrowLeft" | "ArrowRight" | "ArrowUp" | "ArrowDown" | "Home" | "End";

export function isMove(key: string): key is Move {
  return ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(key);
}

/** The slowest cell of the newest time, where a keyboard begins. */
export function first(shown: readonly Cell[]): Cell | null {
  return edge(shown, 1);
}

/** The next cell in a direction, over what is empty; the same where there is none. */
export function moved(shown: readonly Cell[], from: Cell, move: Move): Cell {
  if (move === "Home" || move === "End") return edge(shown, move === "Home" ? -1 : 1) ?? from;
  const upward = move === "ArrowUp" || move === "ArrowDown";
  const forward = move === "ArrowUp" || move === "ArrowRight" ? 1 : -1;
  const along = (cell: Cell): number => forward * (upward ? cell.row - from.row : cell.end - from.end);
  const ahead = shown.filter((cell) => along(cell) > 0 && (!upward || cell.end === from.end));
  const next = Math.min(...ahead.map(along));
  const beside = ahead.filter((cell) => along(cell) === next);
  const far = (cell: Cell): number => Math.abs(cell.row - from.row);
  return beside.reduce<Cell | null>((best, cell) => (best === null || far(cell) < far(best) ? cell : best), null) ?? from;
}

/** Where a cell is now, of which the map may have been drawn anew: the index of the nearest one in time, then by duration. */
export function again(shown: readonly Cell[], cell: Cell): number {
  const far = ({ end, row }: Cell): [number, number] => [Math.abs(end - cell.end), Math.abs(row - cell.row)];
  return shown.reduce((best, candidate, at) => {
    const known = shown[best];
    if (known === undefined) return at;
    const [time, rows] = far(candidate);
    const [leastTime, leastRows] = far(known);
    return time < leastTime || (time === leastTime && rows < leastRows) ? at : best;
  }, -1);
}

/** The slowest cell of the oldest time (-1) or of the newest (1). */
function edge(shown: readonly Cell[], forward: 1 | -1): Cell | null {
  return shown.reduce<Cell | null>((best, cell) => {
    if (best === null || forward * (cell.end - best.end) > 0) return cell;
    return cell.end === best.end && cell.row > best.row ? cell : best;
  }, null);
}
