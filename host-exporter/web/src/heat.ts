// Cells of a heat map: how many requests took how long, by time.

import type { Point } from "./api";

export interface Cell {
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

/** Cells of all points that have buckets. */
export function cells(points: readonly Point[]): Cell[] {
  return points.flatMap((point) => {
    const rows = new Map<number, number>();
    for (const [bound, requests] of point.duration_buckets ?? []) {
      if (!(bound > 0) || !Number.isFinite(bound)) continue;
      // Of the bucket's middle, so that a bound that is a cell's falls into the cell below it.
      const row = Math.floor(CELLS_PER_POWER * (Math.log2(bound) - 0.5 / BUCKETS_PER_POWER));
      rows.set(row, (rows.get(row) ?? 0) + requests);
    }
    return [...rows.entries()].map(([row, requests]) => ({
      end: point.end_unix_ms,
      low: 2 ** (row / CELLS_PER_POWER),
      high: 2 ** ((row + 1) / CELLS_PER_POWER),
      requests,
    }));
  });
}

/** How strong a cell is shown, 0 to 1: by the logarithm, since most requests are in few cells. */
export function strength(requests: number, most: number): number {
  if (requests <= 0 || most <= 0) return 0;
  return most === 1 ? 1 : 0.12 + 0.88 * (Math.log(requests) / Math.log(most));
}
