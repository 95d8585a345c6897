// A budget: what it is called, and what is taken of it.

import type { JSX } from "preact";
import type { Budget } from "../api";
import { useShared } from "../context";
import { bytes, count } from "../format";
import type { Key, Text } from "../text";
import { Bar } from "./Bar";

const NAMES: Record<string, Key> = {
  series: "series",
  memory_bytes: "memory_bytes",
  resident_bytes: "resident_bytes",
  exposed_bytes: "exposed_bytes",
  history_bytes: "history_bytes",
};

export function budgetName({ name }: Budget, text: Text): string {
  const known = NAMES[name];
  return known ? text(known) : name;
}

export function amount(budget: Budget, value: number): string {
  return budget.name.endsWith("bytes") ? bytes(value) : count(value);
}

export function BudgetBar({ of }: { of: Budget }): JSX.Element {
  const { text } = useShared();
  const label = `${budgetName(of, text)}: ${amount(of, of.taken)} ${text("of")} ${amount(of, of.limit)}`;
  return <Bar taken={of.taken} limit={of.limit} label={label} />;
}
