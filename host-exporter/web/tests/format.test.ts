import assert from "node:assert/strict";
import { test } from "node:test";
import { ABSENT, bytes, cores, count, rate, ratio, seconds, share } from "../src/format";

test("what was not observed is a dash and never zero", () => {
  for (const format of [bytes, cores, count, rate, seconds, share]) assert.equal(format(null), ABSENT);
  assert.equal(ratio(0, 0), null);
});

test("numbers have their units", () => {
  assert.deepEqual([0, 0.004, 1.5, 12.04, 1234, 2.5e6].map(rate), ["0/s", "<0.01/s", "1.5/s", "12/s", "1.23k/s", "2.5M/s"]);
  assert.deepEqual([0.0000012, 0.0042, 1, 90].map(seconds), ["1.2 µs", "4.2 ms", "1 s", "1.5 min"]);
  assert.deepEqual([0, 9999, 10_000, 1.5e9].map(count), ["0", "9999", "10k", "1.5G"]);
  assert.deepEqual([0, 0.004, 0.256, 2].map(cores), ["0", "<0.01", "0.26", "2"]);
  assert.deepEqual([5, 1536, 2 ** 30].map(bytes), ["5 B", "1.5 KiB", "1 GiB"]);
});

test("a share is never rounded to none or all", () => {
  assert.deepEqual([0, 0.00001, 0.5, 0.999999, 1].map(share), ["0 %", "<0.01 %", "50 %", ">99.99 %", "100 %"]);
});
