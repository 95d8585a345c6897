// TCP connections that an application makes, by where they go.

import type { JSX } from "preact";
import type { Connections } from "../api";
import { useShared } from "../context";
import { ABSENT, count, seconds } from "../format";
import { quantiles, Trouble } from "../parts/columns";
import { Link } from "../parts/Link";
import { Table, type Column } from "../parts/Table";
import { matches } from "../rows";
import type { Key } from "../text";
import { to } from "../view";

type Row = Connections["applications"][number]["connections"][number];

const REASONS: Record<string, Key> = {
  refused: "refused",
  timed_out: "timedOut",
  unreachable: "unreachable",
  reset: "reset",
  abandoned: "abandoned",
};

function total(counts: Record<string, number>): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}

/** Counts by reason; a dash where there is none. */
function Reasons({ of }: { of: Record<string, number> }): JSX.Element {
  const { text } = useShared();
  const met = Object.entries(of);
  if (met.length === 0) return <>{ABSENT}</>;
  return (
    <>
      {met.map(([reason, number]) => (
        <span key={reason} class="status bad">
          {text(REASONS[reason] ?? "otherReason")} <b>{count(number)}</b>
        </span>
      ))}
    </>
  );
}

/** What is at an address, as far as it is known. */
export function nameOf({ application, name, looked_up, peer }: Row): string {
  return application ?? name ?? looked_up ?? peer;
}

/** What is known of addresses, by address and port. */
export type Servers = ReadonlyMap<string, Row>;

export function serversOf(connections: readonly Row[]): Servers {
  return new Map(connections.map((row) => [row.peer, row]));
}

/** A server by its name, where it has one, and its address; an application leads to its page. */
export function Server({ tenant, of: row }: { tenant: string | null; of: Row }): JSX.Element {
  const { view, text } = useShared();
  const name = nameOf(row);
  const byGuest = row.application === null && row.name === null && row.looked_up !== null;
  return (
    <>
      {row.application === null ? (
        <span class="name">{name}</span>
      ) : (
        <Link to={to(view, "application", { tenant, service: row.application })} class="name">
          {row.application}
        </Link>
      )}
      {name !== row.peer && (
        <span class="under" title={byGuest ? text("lookedUpMeans") : undefined}>
          {row.peer}
          {byGuest && ` · ${text("lookedUp")}`}
        </span>
      )}
    </>
  );
}

export function ConnectionTable({ tenant, connections, leftOut }: { tenant: string | null; connections: Row[]; leftOut: number }): JSX.Element | null {
  const { view, text } = useShared();
  if (connections.length === 0) return null;
  const rows = connections.filter((row) => matches(view.filter, row.peer, nameOf(row)));
  const columns: Column<Row>[] = [
    {
      id: "server",
      head: text("server"),
      value: nameOf,
      cell: (row) => <Server tenant={tenant} of={row} />,
    },
    { id: "failed", head: text("connectsFailed"), value: (row) => -total(row.failed), cell: (row) => <Reasons of={row.failed} /> },
    { id: "made", head: text("connectsMade"), numeric: true, value: (row) => row.made, cell: (row) => count(row.made) },
    ...quantiles<Row>((row, of) => row[`${of}_seconds`], ["p50", "p90"]),
    { id: "broken", head: text("broken"), wide: true, value: (row) => -total(row.broken), cell: (row) => <Reasons of={row.broken} /> },
    {
      id: "retransmitted",
      head: text("retransmitted"),
      numeric: true,
      wide: true,
      value: (row) => row.retransmitted_segments,
      cell: (row) => <Trouble of={row.retransmitted_segments} />,
    },
    { id: "roundTrip", head: text("roundTrip"), numeric: true, wide: true, value: (row) => row.round_trip_seconds, cell: (row) => seconds(row.round_trip_seconds) },
  ];
  return (
    <>
      <h2>{text("connections")}</h2>
      <Table caption={text("connections")} columns={columns} rows={rows} id={(row) => row.peer} sort="failed" />
      {leftOut > 0 && (
        <p class="note">
          {leftOut} {text("addressesLeftOut")}
        </p>
      )}
      <p class="note">{text("connectionsNote")}</p>
      <h2>{text("requests")}</h2>
    </>
  );
}
