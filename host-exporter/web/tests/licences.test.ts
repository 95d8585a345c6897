import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

interface Lock {
  packages: Record<string, { license?: string; dev?: boolean; devOptional?: boolean; optional?: boolean }>;
}

/** What the bundle may be made of: the list of `deny.toml`, as far as it is met. */
const BUNDLED = ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"];

/** Tools, which are not shipped, may besides have these. */
const TOOLS = ["BlueOak-1.0.0", "MPL-2.0", "Python-2.0"];

test("packages have licences that are allowed, and the bundle permissive ones alone", () => {
  const lock = JSON.parse(readFileSync("package-lock.json", "utf8")) as Lock;
  const packages = Object.entries(lock.packages).filter(([path]) => path !== "");
  assert.ok(packages.length > 10);
  for (const [path, { license, dev }] of packages) {
    const allowed = dev === true ? [...BUNDLED, ...TOOLS] : BUNDLED;
    assert.ok(license !== undefined && allowed.includes(license), `${path}: ${license ?? "none"}`);
  }
});
