// What an operator has to look at: limits that are reached, numbers that are incomplete, sandboxes that are not monitored. Of
// budgets and completeness it is what the alerts of `deploy/prometheus` are about, with the same thresholds.

import type { Budget, Sandbox, Tenants } from "./api";
import { ratio } from "./format";

/** Below this share of counted messages, numbers are incomplete. */
export const COMPLETE = 0.99;

/** From this share on a budget of bytes is used up: what is refused then seldom fits exactly. */
const USED_UP = 0.95;

/** From this share on it is nearly used up. */
export const NEAR = 0.8;

export type Trouble =
  | { kind: "budget"; tenant: string | null; budget: Budget; usedUp: boolean }
  | { kind: "completeness"; tenant: string; ratio: number }
  | { kind: "sandboxes"; tenant: string; reason: string; message: string; count: number }
  | { kind: "throttled"; tenant: string; seconds: number }
  | { kind: "rejected"; tenant: string; reason: string; count: number };

/** States of sandboxes of which nothing, or nothing more, is counted. */
const UNMONITORED = new Set(["unmonitored", "quarantined"]);

const ORDER: readonly Trouble["kind"][] = ["sandboxes", "budget", "completeness", "rejected", "throttled"];

export function isUsedUp({ name, taken, limit }: Budget): boolean {
  return (ratio(taken, limit) ?? 0) >= (name.endsWith("bytes") ? USED_UP : 1);
}

function ofBudgets(tenant: string | null, budgets: readonly Budget[]): Trouble[] {
  return budgets
    .filter((budget) => (ratio(budget.taken, budget.limit) ?? 0) >= NEAR)
    .map((budget) => ({ kind: "budget", tenant, budget, usedUp: isUsedUp(budget) }));
}

function ofSandboxes(sandboxes: readonly Sandbox[]): Trouble[] {
  const found = new Map<string, Extract<Trouble, { kind: "sandboxes" }>>();
  for (const { tenant, state, reason } of sandboxes) {
    const code = reason?.code ?? state;
    if (!UNMONITORED.has(state) && code !== "agent_impostor") continue;
    const key = `${tenant}\u0000${code}`;
    const known = found.get(key);
    if (known) known.count += 1;
    else found.set(key, { kind: "sandboxes", tenant, reason: code, message: reason?.message ?? "", count: 1 });
  }
  return [...found.values()];
}

/** All of it, what costs numbers first. */
export function troubles({ tenants, exporter }: Tenants, sandboxes: readonly Sandbox[]): Trouble[] {
  const all: Trouble[] = [
    ...ofSandboxes(sandboxes),
    ...ofBudgets(null, exporter?.budgets ?? []),
    ...tenants.flatMap(({ tenant, budgets, capture_completeness_ratio: ratio, throttled_seconds: seconds, rejected }): Trouble[] => [
      ...ofBudgets(tenant, budgets),
      ...(ratio !== null && ratio < COMPLETE ? [{ kind: "completeness", tenant, ratio } as const] : []),
      ...(seconds > 0 ? [{ kind: "throttled", tenant, seconds } as const] : []),
      ...Object.entries(rejected)
        .filter(([, count]) => count > 0)
        .map(([reason, count]) => ({ kind: "rejected", tenant, reason, count }) as const),
    ]),
  ];
  const rank = (trouble: Trouble): number => ORDER.indexOf(trouble.kind) + (trouble.kind === "budget" && trouble.usedUp ? -1 : 0);
  return all.sort((a, b) => rank(a) - rank(b));
}
