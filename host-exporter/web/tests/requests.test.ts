import assert from "node:assert/strict";
import { test } from "node:test";
import { Refused } from "../src/api";
import { failureOf } from "../src/failures";
import { isDue, isOverdue, type Requested } from "../src/requests";

const of = (state: Requested["state"]): Requested => ({ url: "/a", tick: 10, state });

test("a path is requested again after so many ticks, and one of the past never once it was answered", () => {
  assert.equal(isDue(null, "/a", 0, Infinity), true);
  assert.equal(isDue(of("answered"), "/b", 10, Infinity), true, "another path");
  assert.deepEqual([10, 13, 14].map((tick) => isDue(of("answered"), "/a", tick, 4)), [false, false, true]);
  assert.equal(isDue(of("answered"), "/a", 1_000, Infinity), false);
});

test("after a failure a path is requested at the next tick, also one of the past", () => {
  for (const ticks of [1, 4, Infinity]) {
    assert.deepEqual([10, 11].map((tick) => isDue(of("failed"), "/a", tick, ticks)), [false, true]);
  }
});

test("a request that is open is left alone, and what is shown counts as old after a minute", () => {
  assert.equal(isDue(of("open"), "/a", 1_000, 1), false);
  assert.deepEqual([10, 13, 14].map((tick) => isOverdue(of("open"), tick)), [false, false, true]);
  assert.equal(isOverdue(of("answered"), 1_000), false);
  assert.equal(isOverdue(null, 1_000), false);
});

test("only what the exporter marks is a failure of the Prometheus server", () => {
  const what = (status: number, ofServer: boolean): string => failureOf(new Refused(status, "", ofServer)).what;
  assert.deepEqual([502, 504, 507].map((status) => what(status, true)), ["serverFailed", "serverSlow", "serverLarge"]);
  assert.deepEqual([502, 504, 507, 500].map((status) => what(status, false)), Array(4).fill("failedToLoad"));
  assert.deepEqual([what(500, true), what(403, false)], ["failedToLoad", "forbidden"]);
  assert.equal(failureOf(new TypeError("network")).what, "failedToLoad");
});
