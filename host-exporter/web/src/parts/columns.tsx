// Columns that several tables have.

import type { JSX } from "preact";
import { useShared } from "../context";
import { count, ratio, seconds, share } from "../format";
import type { Column } from "./Table";

const QUANTILES = ["p50", "p90", "p99"] as const;
type Quantile = (typeof QUANTILES)[number];

/** Quantiles of durations in seconds; those that are `wide` are not on narrow screens. */
export function quantiles<Row>(value: (row: Row, of: Quantile) => number | null, wide: readonly Quantile[]): Column<Row>[] {
  return QUANTILES.map((name) => ({
    id: name,
    head: name,
    numeric: true,
    wide: wide.includes(name),
    value: (row) => value(row, name),
    cell: (row) => seconds(value(row, name)),
  }));
}

/** A count that should be none. */
export function Trouble({ of }: { of: number | null }): JSX.Element {
  return <span class={of !== null && of > 0 ? "bad" : ""}>{count(of)}</span>;
}

/** How a call ended: its status, or without one the class of its error. */
export function Outcome({ of }: { of: { status: string; error: string } }): JSX.Element {
  const { text } = useShared();
  const failed = of.error !== "none";
  return <span class={failed ? "bad" : ""}>{of.status || (failed ? of.error : text("ok"))}</span>;
}

function Share({ of, all }: { of: number; all: number }): JSX.Element {
  return <span class={of > 0 ? "bad" : ""}>{share(ratio(of, all))}</span>;
}

/** The share of requests that failed. */
export function errorShare<Row>(head: string, counts: (row: Row) => { requests: number; errors: number }): Column<Row> {
  return {
    id: "errors",
    head,
    numeric: true,
    value: (row) => ratio(counts(row).errors, counts(row).requests),
    cell: (row) => <Share of={counts(row).errors} all={counts(row).requests} />,
  };
}

/** A sandbox by its pod's name, or its own where it has none. */
export function instance<Row extends { sandbox_id: string; k8s_pod_name: string }>(head: string): Column<Row> {
  return {
    id: "instance",
    head,
    value: (row) => row.k8s_pod_name || row.sandbox_id,
    cell: (row) => (
      <>
        <span class="name">{row.k8s_pod_name || row.sandbox_id}</span>
        {row.k8s_pod_name !== "" && <span class="under">{row.sandbox_id}</span>}
      </>
    ),
  };
}
