// What an application serves or calls, interface by interface; and its instances, to compare.

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Instance, Interface, Side } from "../api";
import { useShared } from "../context";
import { bytes, count, rate } from "../format";
import { StateChip } from "../parts/Chip";
import { errorShare, instance, quantiles } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Link } from "../parts/Link";
import { Table, type Column } from "../parts/Table";
import { matches } from "../rows";
import { to } from "../view";
import { nameOf, type Servers } from "./Connections";

const NO_SERVERS: Servers = new Map();

function serverName(servers: Servers, peer: string): string {
  const known = servers.get(peer);
  return known === undefined ? peer : nameOf(known);
}

function idOf(row: Interface): string {
  return [row.side, row.protocol, row.operation, row.resource, row.peer].join("\u0000");
}

/** Requests per second of each row between the first answer and the newest one; nothing before there are two. */
function useRates<Row extends { requests: number }>(of: string, rows: readonly Row[], id: (row: Row) => string): Map<string, number> {
  const first = useRef<{ of: string; at: number; requests: Map<string, number> } | null>(null);
  const [rates, setRates] = useState(new Map<string, number>());
  useEffect(() => {
    const now = performance.now();
    if (first.current?.of !== of) {
      first.current = { of, at: now, requests: new Map(rows.map((row) => [id(row), row.requests])) };
      setRates(new Map());
      return;
    }
    const { at, requests } = first.current;
    const elapsed = (now - at) / 1000;
    if (elapsed < 1) return;
    setRates(new Map(rows.map((row) => [id(row), Math.max(0, row.requests - (requests.get(id(row)) ?? 0)) / elapsed])));
  }, [of, rows]);
  return rates;
}

interface Listed {
  id: string;
  side: Side;
  interfaces: Interface[];
  /** What is known of the servers that it calls. */
  servers?: Servers;
}

export function InterfaceTable({ id, side, interfaces, servers = NO_SERVERS }: Listed): JSX.Element {
  const { view, text } = useShared();
  const rates = useRates(id, interfaces, idOf);
  const ofSide = interfaces.filter((row) => row.side === side);
  if (ofSide.length === 0) return <Empty what="noRequests" hint="noRequestsHint" />;
  const rows = ofSide.filter((row) => matches(view.filter, row.protocol, row.operation, row.resource, row.peer, serverName(servers, row.peer)));
  if (rows.length === 0) return <Empty what="noMatch" hint="noMatchHint" />;
  const columns: Column<Interface>[] = [
    {
      id: "interface",
      head: text("interface"),
      value: (row) => `${row.operation} ${row.resource}`,
      cell: (row) => (
        <>
          <InterfaceName of={row} />
          <span class="under">
            {row.protocol}
            {side === "client" && <Called of={row.peer} servers={servers} />}
          </span>
        </>
      ),
    },
    {
      id: "statuses",
      head: text("statuses"),
      wide: true,
      cell: (row) => row.statuses.slice(0, 4).map(([status, requests]) => (
        <span key={status} class="status">
          {status || text("noStatus")} <b>{count(requests)}</b>
        </span>
      )),
    },
    { id: "rate", head: text("rate"), numeric: true, value: (row) => rates.get(idOf(row)) ?? null, cell: (row) => rate(rates.get(idOf(row)) ?? null) },
    { id: "requests", head: text("requests"), numeric: true, value: (row) => row.requests, cell: (row) => count(row.requests) },
    errorShare(text("errorShare"), (row) => row),
    ...quantiles<Interface>((row, of) => row[`${of}_seconds`], ["p50", "p90"]),
    {
      id: "bytes",
      head: "↑↓",
      numeric: true,
      wide: true,
      value: (row) => row.request_bytes + row.response_bytes,
      cell: (row) => `${bytes(row.request_bytes)} ${bytes(row.response_bytes)}`,
    },
  ];
  return <Table caption={text(side === "server" ? "served" : "called")} columns={columns} rows={rows} id={idOf} sort="-requests" addressed />;
}

/** The server of a call: its name, as the table of connections has it, and its address. */
function Called({ of: peer, servers }: { of: string; servers: Servers }): JSX.Element {
  const { view } = useShared();
  const service = servers.get(peer)?.application ?? null;
  const name = serverName(servers, peer);
  return (
    <>
      {" → "}
      {service === null ? name : <Link to={to(view, "application", { tenant: view.tenant, service })}>{name}</Link>}
      {name !== peer && ` (${peer})`}
    </>
  );
}

/** Leads to the traces in which it was served or called. */
function InterfaceName({ of: { operation, resource } }: { of: Interface }): JSX.Element {
  const { view } = useShared();
  const name = (
    <>
      <b>{operation}</b> {resource}
    </>
  );
  if (resource === "") return <span class="name">{name}</span>;
  return (
    <Link to={to(view, "traces", { tenant: view.tenant, service: view.service, route: resource })} class="name">
      {name}
    </Link>
  );
}

export function InstanceTable({ instances }: { instances: Instance[] }): JSX.Element {
  const { view, text } = useShared();
  if (instances.length === 0) return <Empty what="noSandboxes" hint="noSandboxesHint" />;
  const rows = instances.filter((row) => matches(view.filter, row.k8s_pod_name, row.sandbox_id, row.state));
  const columns: Column<Instance>[] = [
    instance(text("instance")),
    { id: "state", head: text("state"), value: (row) => row.state, cell: (row) => <StateChip of={row.state} /> },
    { id: "served", head: text("served"), numeric: true, value: (row) => row.served.requests, cell: (row) => count(row.served.requests) },
    errorShare(text("errorShare"), (row) => row.served),
    ...quantiles<Instance>((row, of) => row.served[`${of}_seconds`], ["p50", "p90"]),
    { id: "called", head: text("called"), numeric: true, wide: true, value: (row) => row.called.requests, cell: (row) => count(row.called.requests) },
  ];
  return <Table caption={text("instances")} columns={columns} rows={rows} id={(row) => row.sandbox_id} sort="-served" addressed />;
}
