import assert from "node:assert/strict";
import { test } from "node:test";
import type { Call } from "../src/api";
import { placed } from "../src/fall";

test("calls are placed within their trace, whichever clock began first", () => {
  const call = (start_unix_ns: number, duration_ns: number): Call => ({ start_unix_ns, duration_ns }) as Call;
  assert.deepEqual(placed([call(100, 100), call(150, 25), call(75, 25)]), [
    { from: 0.2, width: 0.8 },
    { from: 0.6, width: 0.2 },
    { from: 0, width: 0.2 },
  ]);
  assert.deepEqual(placed([call(5, 0)]), [{ from: 0, width: 0 }]);
});
