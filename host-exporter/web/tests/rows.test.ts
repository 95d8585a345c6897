import assert from "node:assert/strict";
import { test } from "node:test";
import type { Burn, Hour, Line, Point } from "../src/api";
import { aligned, applicationRows, compare, covered, ends, matches, verdict } from "../src/rows";

function point(end: number, requests: number, errors = 0): Point {
  return {
    end_unix_ms: end,
    requests,
    errors,
    errors_by_class: { client: 0, server: errors, no_response: 0 },
    duration_sum_seconds: requests,
    p50_seconds: 1,
    p90_seconds: 1,
    p99_seconds: 1,
  };
}

function line(service_name: string, side: "server" | "client", points: Point[]): Line {
  const requests = points.reduce((sum, point) => sum + point.requests, 0);
  const errors = points.reduce((sum, point) => sum + point.errors, 0);
  return { tenant: "acme", service_name, side, protocol: null, protocols: ["http1"], total: point(0, requests, errors), points };
}

const HOUR: Hour = {
  end_unix_ms: 120_000,
  recorded_unix_ms: 105_000,
  range_seconds: 60,
  step_seconds: 30,
  lines: [line("shop", "client", [point(90_000, 7)]), line("shop", "server", [point(120_000, 90, 9)]), line("cron", "client", [point(90_000, 3)])],
};

test("an application is shown by what it served, and by what it called where it served nothing", () => {
  const rows = applicationRows(HOUR, null);
  assert.deepEqual(rows.map((row) => [row.service_name, row.side, row.errorShare]), [
    ["shop", "server", 0.1],
    ["cron", "client", 0],
  ]);
});

test("rates are of the time that was recorded", () => {
  assert.equal(covered(HOUR), 45);
  assert.equal(applicationRows(HOUR, null)[0]?.rate, 2);
});

test("points without requests are gaps", () => {
  assert.deepEqual(ends(HOUR), [90_000, 120_000]);
  assert.deepEqual(aligned(HOUR, [point(120_000, 5)], (point) => point.requests), [null, 5]);
});

test("the worst objective decides, and none without requests", () => {
  const burn = (missed: number | null, burns_fast = false): Burn => ({ objective: "x", share: 0.99, missed_5m: missed, missed_1h: missed, burns_fast });
  assert.equal(verdict([]), "none");
  assert.equal(verdict([burn(null)]), "none");
  assert.equal(verdict([burn(0), burn(0.001)]), "met");
  assert.equal(verdict([burn(0), burn(0.02)]), "missed");
  assert.equal(verdict([burn(0.02), burn(0.5, true)]), "burning");
});

test("what is absent comes last in both directions", () => {
  const sorted = (descending: boolean): (number | null)[] => [2, null, 3, 1].sort((a, b) => compare(a, b, descending));
  assert.deepEqual(sorted(false), [1, 2, 3, null]);
  assert.deepEqual(sorted(true), [3, 2, 1, null]);
});

test("a filter wants all its words, whatever their case", () => {
  assert.ok(matches("SHOP acme", "shop", "acme"));
  assert.ok(matches("", "shop"));
  assert.ok(!matches("shop globex", "shop", "acme"));
});
