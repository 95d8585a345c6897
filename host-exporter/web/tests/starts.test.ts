import assert from "node:assert/strict";
import { test } from "node:test";
import { parts, whole, type Phase } from "../src/starts";

const times = (known: Partial<Record<Phase, number>>) => (phase: Phase) => known[phase] ?? null;

test("a start's parts follow each other in the order in which its moments were reached", () => {
  assert.deepEqual(parts(times({ machine: 1, agent: 5, first_process: 2, first_request: 8 })), [
    { phase: "machine", from: 0, to: 1 },
    { phase: "first_process", from: 1, to: 2 },
    { phase: "agent", from: 2, to: 5 },
    { phase: "first_request", from: 5, to: 8 },
  ]);
});

test("what is not known is no part, and a start of which nothing is known takes no time", () => {
  assert.deepEqual(parts(times({ agent: 2 })), [{ phase: "agent", from: 0, to: 2 }]);
  assert.equal(whole(times({ agent: 2, machine: 3 })), 3);
  assert.deepEqual([parts(times({})), whole(times({}))], [[], null]);
});
