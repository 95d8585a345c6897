import assert from "node:assert/strict";
import { test } from "node:test";
import type { Sandbox, Tenants } from "../src/api";
import { troubles } from "../src/troubles";

type Tenant = Tenants["tenants"][number];

const tenant = (more: Partial<Tenant>): Tenant => ({
  tenant: "acme",
  applications: 1,
  sandboxes: {},
  budgets: [],
  ingest_bytes: 0,
  throttled_seconds: 0,
  rejected: {},
  capture_completeness_ratio: 1,
  ...more,
});

const sandbox = (state: string, code: string | null): Sandbox =>
  ({ tenant: "acme", state, reason: code === null ? null : { code, message: `why ${code}` } }) as Sandbox;

test("what is in order is no trouble, and what is not known is none", () => {
  const whole = tenant({ budgets: [{ name: "series", taken: 79, limit: 100 }, { name: "none", taken: 0, limit: 0 }] });
  const unknown = tenant({ capture_completeness_ratio: null, rejected: { malformed: 0 } });
  assert.deepEqual(troubles({ tenants: [whole, unknown], exporter: null }, [sandbox("watching", null), sandbox("ended", null)]), []);
});

test("budgets of bytes are used up a little below their limit, as for the alerts, others at it", () => {
  const budgets = [
    { name: "series", taken: 99, limit: 100 },
    { name: "resident_bytes", taken: 95, limit: 100 },
    { name: "exposed_bytes", taken: 94, limit: 100 },
  ];
  const found = troubles({ tenants: [tenant({ budgets })], exporter: null }, []);
  assert.deepEqual(found.map((trouble) => trouble.kind === "budget" && [trouble.budget.name, trouble.usedUp]), [
    ["resident_bytes", true],
    ["series", false],
    ["exposed_bytes", false],
  ]);
});

test("sandboxes are counted by reason, and come first; each kind names its tenant", () => {
  const exporter: Tenants["exporter"] = {
    resident_bytes: 1,
    scrapes: 0,
    scrapes_failed: 0,
    requests_denied: 0,
    reloads_failed: 0,
    budgets: [{ name: "memory_bytes", taken: 9, limit: 10 }],
  };
  const tenants = [tenant({ capture_completeness_ratio: 0.98, throttled_seconds: 2, rejected: { malformed: 3 } })];
  const sandboxes = [sandbox("unmonitored", "create_refused"), sandbox("unmonitored", "create_refused"), sandbox("quarantined", null)];
  assert.deepEqual(troubles({ tenants, exporter }, sandboxes), [
    { kind: "sandboxes", tenant: "acme", reason: "create_refused", message: "why create_refused", count: 2 },
    { kind: "sandboxes", tenant: "acme", reason: "quarantined", message: "", count: 1 },
    { kind: "budget", tenant: null, budget: { name: "memory_bytes", taken: 9, limit: 10 }, usedUp: false },
    { kind: "completeness", tenant: "acme", ratio: 0.98 },
    { kind: "rejected", tenant: "acme", reason: "malformed", count: 3 },
    { kind: "throttled", tenant: "acme", seconds: 2 },
  ]);
});
