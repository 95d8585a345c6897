// Traces: what one request came to in all sandboxes that it went through.

import type { JSX } from "preact";
import { path, type Traces } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { clock, count, seconds } from "../format";
import { CallFilter } from "../parts/CallFilter";
import { Outcome, Trouble } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Field } from "../parts/Field";
import { Link } from "../parts/Link";
import { ApplicationLink, OnlyOf } from "../parts/ApplicationLink";
import { OtherTime } from "../parts/Past";
import { Table, type Column } from "../parts/Table";
import { Waiting } from "../parts/Waiting";
import { matches } from "../rows";
import { to, type CellOfCalls } from "../view";

const LIMIT = 200;

type Summary = Traces["traces"][number];

export function TracesPage(): JSX.Element {
  const { view, show, text } = useShared();
  const { cell } = view;
  const { data, error } = useData<Traces>(
    path("/api/v1/traces", {
      tenant: view.tenant,
      service_name: view.service,
      route: view.route,
      errors: view.failed || null,
      duration_ms_min: view.slower === null ? null : Math.ceil(view.slower),
      side: cell?.side,
      received_from_unix_ms: cell?.from,
      received_until_unix_ms: cell?.until,
      call_ns_min: cell?.least,
      call_ns_max: cell?.most,
      limit: LIMIT,
    }),
  );
  const rows = (data?.traces ?? []).filter((row) => matches(view.filter, row.tenant, row.operation, row.resource, row.status, ...row.services));
  const columns: Column<Summary>[] = [
    { id: "when", head: text("when"), numeric: true, value: (row) => row.start_unix_ns, cell: (row) => clock(row.start_unix_ns / 1e6) },
    {
      id: "interface",
      head: text("interface"),
      value: (row) => `${row.operation} ${row.resource}`,
      cell: (row) => (
        <>
          <Link to={{ ...view, page: "trace", id: row.trace_id }} class="name">
            <b>{row.operation}</b> {row.resource}
          </Link>
          <span class="under">
            <ApplicationLink of={row} /> · {row.protocol}
          </span>
        </>
      ),
    },
    { id: "status", head: text("status"), value: (row) => row.status, cell: (row) => <Outcome of={row} /> },
    { id: "duration", head: text("duration"), numeric: true, value: (row) => row.duration_ns, cell: (row) => seconds(row.duration_ns / 1e9) },
    { id: "calls", head: text("calls"), numeric: true, value: (row) => row.spans, cell: (row) => count(row.spans) },
    {
      id: "failed",
      head: text("failedCalls"),
      numeric: true,
      value: (row) => row.errors,
      cell: (row) => <Trouble of={row.errors} />,
    },
    {
      id: "services",
      head: text("applications"),
      wide: true,
      value: (row) => row.services.length,
      cell: (row) =>
        row.services.map((service, at) => (
          <span key={service}>
            {at > 0 && ", "}
            <Link to={to(view, "application", { tenant: row.tenant, service })}>{service}</Link>
          </span>
        )),
    },
  ];
  return (
    <>
      <h1>
        {text("traces")} <OnlyOf />
      </h1>
      {cell === null && <OtherTime what="keptNow" />}
      <CallFilter>
        <Field
          label={text("route")}
          type="text"
          value={view.route ?? ""}
          commit={(route) => {
            show({ ...view, route: route === "" ? null : route }, true);
          }}
        />
      </CallFilter>
      {cell !== null && <CellNote of={cell} />}
      {data === null ? (
        <Waiting error={error} />
      ) : rows.length === 0 ? (
        <NoTraces />
      ) : (
        <Table caption={text("traces")} columns={columns} rows={rows} id={(row) => row.trace_id} sort="-when" addressed />
      )}
      {data !== null && data.left_out > 0 && (
        <p class="note">
          {data.left_out} {text("tracesLeftOut")}
        </p>
      )}
    </>
  );
}

/** Of which cell of a heat map the traces are. */
function CellNote({ of: { side, from, until, least, most } }: { of: CellOfCalls }): JSX.Element {
  const { view, text } = useShared();
  return (
    <p class="note">
      {text(side === "server" ? "servedBy" : "calledBy")} <b>{view.service}</b> · {clock(from)} – {clock(until)} · {seconds(least / 1e9)} –{" "}
      {seconds(most / 1e9)} · <Link to={{ ...view, cell: null }}>{text("withoutCell")}</Link>
    </p>
  );
}

function NoTraces(): JSX.Element {
  const { view } = useShared();
  if (view.filter !== "") return <Empty what="noMatch" hint="noMatchHint" />;
  return view.cell === null ? <Empty what="noTraces" hint="noTracesHint" /> : <Empty what="noTracesOfCell" hint="noTracesOfCellHint" />;
}
