import assert from "node:assert/strict";
import { test } from "node:test";
import type { Point } from "../src/api";
import { cells, strength } from "../src/heat";

const point = (end: number, duration_buckets: [number, number][]): Point => ({
  end_unix_ms: end,
  requests: 0,
  errors: 0,
  errors_by_class: { client: 0, server: 0, no_response: 0 },
  duration_sum_seconds: 0,
  p50_seconds: null,
  p90_seconds: null,
  p99_seconds: null,
  duration_buckets,
});

test("buckets are added up in cells that hold them", () => {
  const found = cells([point(15, [[2 ** (1 / 8), 3], [2 ** (4 / 8), 4], [2 ** (5 / 8), 7]]), point(30, [])]);
  assert.deepEqual(found.map(({ end, low, high, requests }) => [end, low, high.toFixed(3), requests]), [
    [15, 1, Math.SQRT2.toFixed(3), 7],
    [15, Math.SQRT2, "2.000", 7],
  ]);
});

test("bounds that are no durations are left out", () => {
  assert.deepEqual(cells([point(15, [[0, 1], [Infinity, 1], [NaN, 1]])]), []);
});

test("a cell is stronger the more requests it has, and one alone is seen", () => {
  assert.equal(strength(0, 10), 0);
  assert.equal(strength(1, 1), 1);
  assert.equal(strength(1000, 1000), 1);
  assert.ok(strength(1, 1000) > 0.1 && strength(1, 1000) < strength(30, 1000));
});
