import assert from "node:assert/strict";
import { test } from "node:test";
import type { Point } from "../src/api";
import { again, callsOf, cells, first, hit, moved, strength, type Cell, type Move } from "../src/heat";

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

test("the calls of a cell are those of its buckets, which have their upper bound", () => {
  const [cell] = cells([point(15_000, [[2 ** -8, 3]])]);
  assert.ok(cell);
  const calls = callsOf(cell, "server", 15);
  assert.deepEqual(calls, { side: "server", from: 0, until: 15_000, least: calls.least, most: 3_906_250 });
  assert.equal(calls.least, Math.floor(2 ** -8.5 * 1e9) + 1);
});

test("a pointer finds the box that it is in, else the nearest within reach", () => {
  const boxes = [
    { left: 0, top: 0, width: 10, height: 10 },
    { left: 10, top: 0, width: 10, height: 10 },
    { left: 40, top: 0, width: 10, height: 10 },
  ];
  const found = (x: number, y: number): number | null => hit(boxes, x, y, 6);
  assert.deepEqual([found(5, 5), found(12, 5), found(36, 5), found(50, 13), found(30, 5), found(5, 16)], [0, 1, 2, 2, null, null]);
  assert.equal(hit([], 1, 1, 6), null);
});

test("arrow keys go from cell to cell over what is empty, and stop at the ends", () => {
  const cell = (end: number, row: number): Cell => ({ end, row, low: 1, high: 2, requests: 1 });
  const shown = [cell(15, 0), cell(15, 4), cell(45, 1), cell(45, 5), cell(60, 0)];
  const begun = first(shown);
  assert.deepEqual(begun, cell(60, 0));
  const path = (from: Cell, ...moves: Move[]): [number, number][] => {
    let here = from;
    return moves.map((move) => {
      here = moved(shown, here, move);
      return [here.end, here.row];
    });
  };
  assert.deepEqual(path(cell(60, 0), "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowLeft"), [
    [45, 1],
    [45, 5],
    [45, 5],
    [15, 4],
    [15, 0],
    [15, 0],
  ]);
  assert.deepEqual(path(cell(45, 1), "ArrowRight", "ArrowRight", "Home", "End", "ArrowDown"), [[60, 0], [60, 0], [15, 4], [60, 0], [60, 0]]);
  assert.equal(first([]), null);
});

test("a chosen cell stays chosen when the map is drawn anew with other ends and rows", () => {
  const cell = (end: number, row: number): Cell => ({ end, row, low: 1, high: 2, requests: 1 });
  const shown = [cell(30, 0), cell(30, 4), cell(90, 1), cell(90, 5)];
  assert.deepEqual([cell(90, 5), cell(75, 5), cell(75, 2), cell(45, 3), cell(500, 9)].map((chosen) => again(shown, chosen)), [3, 3, 2, 1, 3]);
  assert.equal(again([], cell(1, 1)), -1);
});

test("buckets of a server, which are as wide as a power of two, are cells of that width", () => {
  const found = cells([point(15, [[0.125, 3], [0.25, 4]])]);
  assert.deepEqual(found.map(({ low, high, requests }) => [low, high, requests]), [
    [0.0625, 0.125, 3],
    [0.125, 0.25, 4],
  ]);
});
